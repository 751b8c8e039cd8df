"""For `evaluate.load` of this file: see `fktext_evals.measurements.OverOptimization`."""

from fktext_evals.measurements import OverOptimization as OverOptimization
