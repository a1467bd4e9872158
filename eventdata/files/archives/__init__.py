"""Zip files and tars as folders, whose files are read where they lie and never unpacked."""
