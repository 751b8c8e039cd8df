"""Parts that plugins bring, by name: of the engine potentials, resamplers, schedules, look-aheads and kernels; and executors.

    @hookimpl
    def fktext_register_parts(register):
        register("potential", "square", "my_package.potentials:Square", summary="the square of the improvement")

`my_package.potentials.Square`, called without arguments, makes the object. It is asked for by name where the engine's own are:
`--potential square`, `potential = "square"` in a suite, `fktext.generate(..., potential="square")`; or `my-package:square`.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from fktext.errors import FktextError, PluginError, UsageError, one_line
from fktext.families import FAMILIES
from fktext.plugins.entries import imported
from fktext.plugins.specs import NAME
from fktext.settings import CHOICES, LOOK_AHEADS, PARTS, Part

# The settings that it may be given for; and where the evaluation of a suite is done, which is no setting.
Kind = Literal["kernel", "potential", "resampler", "schedule", "look_ahead", "executor"]
_ATTRIBUTES: dict[str, tuple[str, ...]] = {**PARTS, "executor": ("run",)}
_EXECUTORS = ("local", "ray", "slurm")


class RegisterPart(Protocol):
    """Take a part of the engine; a plugin calls it once for each that it brings."""

    def __call__(self, kind: Kind, name: str, factory: typing.Callable[[], Any] | str, *, summary: str) -> None:
        """Offer a part.

        Args:
            kind: "potential" (`fktext.smc.potentials.Potential`), "resampler" (`fktext.smc.Resampler`), "schedule"
                (`fktext.smc.schedules.Schedule`), "look_ahead" (`fktext.smc.lookahead.LookAhead`), "kernel"
                (`fktext.masked.kernels.Kernel`) or "executor" (`fktext_evals.executors.Executor`).
            name: a letter or digit, then letters, digits, ".", "_", "-"; not one of the engine's own.
            factory: makes the object when it is called without arguments; or "module:attribute" of one, imported on first use.
            summary: one line: what it does.
        """


@dataclass(frozen=True)
class PartEntry:
    """A registered part that has not been made yet; its attributes are those of `RegisterPart`."""

    kind: Kind
    name: str
    distribution: str
    factory: typing.Callable[[], Any] | str
    summary: str

    def __post_init__(self) -> None:
        if self.kind not in typing.get_args(Kind):
            raise ValueError(f"part {self.name!r} has kind {self.kind!r}: expected one of {', '.join(typing.get_args(Kind))}")
        if not (isinstance(self.name, str) and NAME.fullmatch(self.name)):
            raise ValueError(f"{self.kind} name {self.name!r}: expected a letter or digit, then letters, digits, '.', '_', '-'")
        if _known(self.kind, self.name):
            raise ValueError(f"{self.kind} {self.name!r}: fktext has one of this name")
        path = isinstance(self.factory, str) and re.fullmatch(r"[\w.]+:\w+", self.factory)
        if not (callable(self.factory) or path):
            raise TypeError(f"{self.kind} {self.name!r} has factory {self.factory!r}: expected a callable or 'module:attribute'")

    @property
    def qualified(self) -> str:
        """`distribution:name`, which is never ambiguous."""
        return f"{self.distribution}:{self.name}"

    def create(self) -> Any:
        """Make the object.

        Raises:
            PluginError: the factory cannot be imported, raised, or returned something else.
        """
        what = f"{self.kind} {self.qualified!r}"
        factory = imported(self.factory, what)
        try:
            part = factory()
        except (FktextError, KeyboardInterrupt):
            raise
        except BaseException as error:  # SystemExit too: a plugin must not end the program
            raise PluginError(f"{what} cannot be made: {type(error).__name__}: {one_line(error)}") from error
        if absent := [name for name in _ATTRIBUTES[self.kind] if not hasattr(part, name)]:
            raise PluginError(f"{what}: its factory returned {type(part).__name__}, which has no {absent[0]}")
        return part


def with_parts(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Put objects of plugins in the place of their names.

    Args:
        asked: fields of `fktext.settings.Settings`. Plugins are only loaded where one of them is a name that the engine does not
            know; a name that no plugin knows either stays, for `Settings` to refuse.

    Raises:
        UsageError: two distributions bring a part of that name.
        PluginError: the part cannot be made.
    """
    from fktext.plugins.loader import load_plugins

    names = {kind: asked[kind] for kind in typing.get_args(Kind) if isinstance(asked.get(kind), str)}
    strange = {kind: name for kind, name in names.items() if not _known(kind, name)}
    entries = load_plugins().parts if strange else ()
    found = dict(asked)
    for kind, name in strange.items():
        own = [entry for entry in entries if entry.kind == kind and name in (entry.name, entry.qualified)]
        if len(own) > 1:
            choices = " or ".join(entry.qualified for entry in own)
            raise UsageError(f"{kind} {name!r} comes from several distributions: write {choices}")
        if own:
            found[kind] = Part(name, own[0].create())
    return found


def _known(kind: str, name: str) -> bool:
    """Tell whether the engine itself knows a name."""
    if kind == "kernel":
        return any(name in family.kernels for family in FAMILIES.values())
    if kind == "executor":
        return name in _EXECUTORS
    if kind == "look_ahead":
        return name in LOOK_AHEADS or name.startswith("value:")
    return name in CHOICES.get(kind, ())
