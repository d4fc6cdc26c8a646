"""Simulated reviews: maps of drawn cities with known truth, and samples of them."""
