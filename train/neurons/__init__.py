"""Spiking neurons: the module, its kernels for each device, surrogate gradients."""
