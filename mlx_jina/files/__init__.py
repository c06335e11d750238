"""Files with texts to read, and files with vectors to write."""
