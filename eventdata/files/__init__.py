"""Bytes somewhere: in folders and behind URLs, read and written whole."""
