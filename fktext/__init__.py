"""Feynman-Kac steering of text diffusion at inference time."""

__version__ = "0.1.0"
