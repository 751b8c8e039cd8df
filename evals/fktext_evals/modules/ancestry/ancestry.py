"""For `evaluate.load` of this file: see `fktext_evals.measurements.Ancestry`."""

from fktext_evals.measurements import Ancestry as Ancestry
