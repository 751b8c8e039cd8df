"""For `evaluate.load` of this file: see `fktext_evals.measurements.Perplexity`."""

from fktext_evals.measurements import Perplexity as Perplexity
