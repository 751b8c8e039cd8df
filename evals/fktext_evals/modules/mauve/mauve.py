"""For `evaluate.load` of this file: see `fktext_evals.measurements.Mauve`."""

from fktext_evals.measurements import Mauve as Mauve
