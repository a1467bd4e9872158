"""The store: what is on disk (layout), and who writes, reads and verifies it."""
