"""For `evaluate.load` of this file: see `fktext_evals.measurements.Judgement`."""

from fktext_evals.measurements import Judgement as Judgement
