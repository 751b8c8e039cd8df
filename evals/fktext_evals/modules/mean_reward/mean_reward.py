"""For `evaluate.load` of this file: see `fktext_evals.measurements.MeanReward`."""

from fktext_evals.measurements import MeanReward as MeanReward
