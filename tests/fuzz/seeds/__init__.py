"""Sound inputs to damage: small ones made here, and some of the real data where there is any."""
