"""Evaluation of steering methods: suites, runs that can be interrupted, metrics with intervals, reports.

    import fktext_evals

    results = fktext_evals.run("toxicity-smoke", out="runs/smoke")
    print(fktext_evals.markdown(results))

Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fktext_evals.reporting.report import as_csv, markdown
    from fktext_evals.running.results import Results, read
    from fktext_evals.running.runner import run, run_steps
    from fktext_evals.suites.catalogue import load
    from fktext_evals.suites.suite import Judge, Method, Suite

_HOMES = {
    "suites.catalogue": ("load",),
    "reporting.report": ("as_csv", "markdown"),
    "running.results": ("Results", "read"),
    "running.runner": ("run", "run_steps"),
    "suites.suite": ("Judge", "Method", "Suite"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["Judge", "Method", "Results", "Suite", "as_csv", "load", "markdown", "read", "run", "run_steps"]


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"fktext_evals.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'fktext_evals' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
