"""For `evaluate.load` of this file: see `fktext_evals.measurements.Repetition`."""

from fktext_evals.measurements import Repetition as Repetition
