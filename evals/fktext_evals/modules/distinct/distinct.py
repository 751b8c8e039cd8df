"""For `evaluate.load` of this file: see `fktext_evals.measurements.Distinct`."""

from fktext_evals.measurements import Distinct as Distinct
