"""Masked (absorbing) diffusion: networks, and the process that samples them exactly and lazily."""
