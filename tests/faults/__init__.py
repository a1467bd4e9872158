"""Faults on purpose: jobs that are killed and starved, and what must hold afterwards."""
