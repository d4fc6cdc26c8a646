"""One input image file: find it, validate it, open it, read its metadata."""
