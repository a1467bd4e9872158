"""What `tools/fuzz.py` and the tests of hostile input share: seeds, damage, readers, cases."""
