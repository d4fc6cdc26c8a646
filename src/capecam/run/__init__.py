"""A whole run: plan, supervisor, executors, city products, inspection."""
