"""Seeds, damage, readers and cases of `python -m tests.fuzz` and the tests of hostile input."""
