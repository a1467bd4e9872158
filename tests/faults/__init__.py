"""Deliberate faults: kill jobs or take their resources, then check what must hold afterwards."""
