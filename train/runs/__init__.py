"""Training runs: their stages, their records, and how they resume."""
