"""A training run: its stages, what it records, how it resumes."""
