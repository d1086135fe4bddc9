"""IR to better IR, one pass a file."""
