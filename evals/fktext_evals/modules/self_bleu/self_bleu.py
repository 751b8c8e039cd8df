"""For `evaluate.load` of this file: see `fktext_evals.measurements.SelfBLEU`."""

from fktext_evals.measurements import SelfBLEU as SelfBLEU
