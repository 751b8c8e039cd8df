"""Sequential Monte Carlo that knows nothing of diffusion: weights and resampling."""

from fktext.smc.resamplers import RESAMPLERS, Resampler, ancestors_from_counts
from fktext.smc.weights import all_dead, ess, log_mean_exp, log_normalize, normalize

__all__ = [
    "RESAMPLERS",
    "Resampler",
    "all_dead",
    "ancestors_from_counts",
    "ess",
    "log_mean_exp",
    "log_normalize",
    "normalize",
]
