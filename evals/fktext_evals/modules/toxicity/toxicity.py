"""For `evaluate.load` of this file: see `fktext_evals.measurements.Toxicity`."""

from fktext_evals.measurements import Toxicity as Toxicity
