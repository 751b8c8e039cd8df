"""For `evaluate.load` of this file: see `fktext_evals.measurements.Acceptability`."""

from fktext_evals.measurements import Acceptability as Acceptability
