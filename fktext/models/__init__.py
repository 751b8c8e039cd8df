"""Text models by name: from a name to a loaded `fktext.texts.model.TextModel`."""

from fktext.models.find import DEFAULT, find, pull
from fktext.models.loading import DTYPES, load

__all__ = ["DEFAULT", "DTYPES", "find", "load", "pull"]
