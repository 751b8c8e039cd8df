"""Uniform-state diffusion: the noise is random tokens in the place of masks; its process, and the model that runs it."""
