"""Sound inputs to damage: small ones made here, and real data if available."""
