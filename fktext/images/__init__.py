"""Steer `diffusers` pipelines with the engine that steers text."""
