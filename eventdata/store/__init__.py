"""The store: its layout on disk, and how it is written, read and verified."""
