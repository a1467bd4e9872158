"""Seeds, damage, readers and cases for `python -m tests.fuzz` and the tests of hostile input."""
