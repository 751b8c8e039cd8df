"""Sequential Monte Carlo that knows nothing of diffusion: weights, resampling, potentials, schedules and look-aheads."""

from fktext.smc.lookahead import LookAhead, Nothing, Predictions, Sight, Values
from fktext.smc.potentials import POTENTIALS, Difference, Potential
from fktext.smc.resamplers import RESAMPLERS, Resampler, ancestors_from_counts
from fktext.smc.schedules import At, Every, Schedule
from fktext.smc.weights import all_dead, ess, log_mean_exp, log_normalize, normalize

__all__ = [
    "POTENTIALS",
    "RESAMPLERS",
    "At",
    "Difference",
    "Every",
    "LookAhead",
    "Nothing",
    "Potential",
    "Predictions",
    "Resampler",
    "Schedule",
    "Sight",
    "Values",
    "all_dead",
    "ancestors_from_counts",
    "ess",
    "log_mean_exp",
    "log_normalize",
    "normalize",
]
