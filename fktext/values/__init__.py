"""Learned values: what an unfinished particle is worth, told by a head on the hidden states that its network computed anyway.

The rewards are then asked about finished samples alone. Any value leaves the law of the result as it is
(`fktext.smc.lookahead`); a good one drops particles that end badly as soon as predictions would, at no cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fktext.errors import UsageError
from fktext.settings import BY_VALUE, STEERING, Run
from fktext.values.files import Card, Level, Owner, card, find, heads, installed, load, save

if TYPE_CHECKING:  # these import torch
    from fktext.rewards import Weighted
    from fktext.smc.steer import Plan

AnyRun = TypeVar("AnyRun", bound=Run)
FIT = "value:fit"  # fit before the run, by a pilot


def pilots(run: Run) -> bool:
    """Tell whether values are fitted before the run; a folder of that name is given as `value:./fit`."""
    return run.method in STEERING and run.look_ahead == FIT


def named(model: Owner, terms: Sequence[Weighted], run: AnyRun) -> AnyRun:
    """Name the look-ahead of a run that leaves it open.

    "value" where one is installed for each reward that was fitted to texts of this length, drawn at this temperature; else
    "predictions".
    """
    if run.look_ahead is not None:
        return run
    found = find(model, terms) if run.method in STEERING and terms else None
    drawn = getattr(run, "length", None), getattr(run, "temperature", None)
    alike = found and all((about.length, about.temperature) == drawn for about in map(card, found))
    return replace(run, look_ahead="value" if alike else "predictions")


def plan(model: Owner, terms: Sequence[Weighted], run: Run) -> Plan:
    """Return what the engine is told (`Run.plan`), learned values included; those of a pilot are put in by whoever runs it.

    Raises:
        UsageError: a reward has no value, or the one given belongs to another model or reward.
        ModelError: a value's files are missing or damaged.
    """
    from fktext.smc.lookahead import Values

    plan = run.plan()
    if run.proposal in BY_VALUE and not run.by_value:
        why = "takes its gradient from a learned value, and there is none: see `fktext value`, or look ahead by 'value:fit'"
        raise UsageError(f"proposal {run.proposal!r} {why}")
    if pilots(run) or not run.by_value:
        return plan
    _, _, given = str(run.look_ahead).partition(":")
    if given:
        folders = [Path(part).expanduser() for part in given.split(",")]
        if absent := [folder for folder in folders if not folder.is_dir()]:
            raise UsageError(f"look-ahead {run.look_ahead!r}: there is no folder {str(absent[0])!r}")
        return replace(plan, look_ahead=Values(heads(model, terms, folders)))
    if (known := find(model, terms)) is None:
        names = ", ".join(term.name for term in terms)
        raise UsageError(f"no value is installed for model {model.name!r} with {names}: fit one by `fktext value fit`")
    return replace(plan, look_ahead=Values(heads(model, terms, known)))


__all__ = ["FIT", "Card", "Level", "Owner", "card", "find", "heads", "installed", "load", "named", "pilots", "plan", "save"]
