"""Simplex diffusion: SSD-LM's network, its semi-autoregressive process, projections and classifier guidance."""
