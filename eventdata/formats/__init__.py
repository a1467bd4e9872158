"""File formats: one file in, arrays out."""
