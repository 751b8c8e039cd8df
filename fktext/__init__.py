"""Feynman-Kac steering of text diffusion at inference time.

    import fktext

    for population in fktext.generate("tiny-mdlm", "sentiment", ["The book", "The movie"], particles=8):
        print(population.texts[population.best()], population.log_z)

The loop itself is `fktext.smc.steer`. The names below are imported when they are first used, so `import fktext` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fktext.api import generate, stream
    from fktext.errors import FktextError
    from fktext.masked.kernels import Kernel
    from fktext.masked.model import MaskedModel
    from fktext.models import load
    from fktext.plugins import hookimpl, load_plugins
    from fktext.plugins.entries import ModelContext
    from fktext.population import Population
    from fktext.rewards import Reward, RewardContext, Weighted
    from fktext.runs import Progress
    from fktext.settings import Settings
    from fktext.smc.steer import Plan, Result, Step
    from fktext.text import Text
    from fktext.texts.model import TextModel
    from fktext.texts.templates import Template
    from fktext.texts.values import fit_values

__version__ = "0.1.0"

_HOMES = {
    "api": ("generate", "stream"),
    "errors": ("FktextError",),
    "population": ("Population",),
    "runs": ("Progress",),
    "plugins.entries": ("ModelContext",),
    "masked.kernels": ("Kernel",),
    "masked.model": ("MaskedModel",),
    "models": ("load",),
    "plugins": ("hookimpl", "load_plugins"),
    "rewards": ("Reward", "RewardContext", "Weighted"),
    "settings": ("Settings",),
    "smc.steer": ("Plan", "Result", "Step"),
    "texts.templates": ("Template",),
    "text": ("Text",),
    "texts.model": ("TextModel",),
    "texts.values": ("fit_values",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "FktextError",
    "Kernel",
    "MaskedModel",
    "ModelContext",
    "Plan",
    "Population",
    "Progress",
    "Result",
    "Reward",
    "RewardContext",
    "Settings",
    "Step",
    "Template",
    "Text",
    "TextModel",
    "Weighted",
    "__version__",
    "fit_values",
    "generate",
    "hookimpl",
    "load",
    "load_plugins",
    "stream",
]


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"fktext.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'fktext' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
