"""Process cells, from pixels to products."""
