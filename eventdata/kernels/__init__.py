"""Numba kernels: pure functions on arrays, compiled once and cached, that release the GIL."""
