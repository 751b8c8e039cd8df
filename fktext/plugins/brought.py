"""Collect what a plugin brings: the rewards, suites, models and parts that its hooks register, each checked as it comes."""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fktext.plugins.entries import ModelEntry
from fktext.plugins.parts import Kind, PartEntry
from fktext.plugins.registry import Factory, Modality, RewardEntry, SuiteEntry
from fktext.plugins.specs import NAME

_NAME = "expected a letter or digit, then letters, digits, '.', '_', '-'"


@dataclass
class Brought:
    """Collect what the hooks of one entry point register.

    Attributes:
        distribution: whose it is.
        earlier: what other entry points of it brought; a name may come once.
    """

    distribution: str
    earlier: Sequence[Brought] = ()
    rewards: list[RewardEntry] = field(default_factory=list)
    suites: list[SuiteEntry] = field(default_factory=list)
    models: list[ModelEntry] = field(default_factory=list)
    parts: list[PartEntry] = field(default_factory=list)

    def add_reward(
        self,
        name: str,
        factory: Factory | str,
        *,
        summary: str,
        options: Mapping[str, str] = MappingProxyType({}),
        values: str = "",
        models: Mapping[str, str] = MappingProxyType({}),
        modality: Modality = "text",
    ) -> None:
        """Take a reward: this is what `fktext_register_rewards` is given; see `fktext.plugins.Register`."""
        if modality not in typing.get_args(Modality):
            raise ValueError(f"reward {name!r} has modality {modality!r}: expected {' or '.join(typing.get_args(Modality))}")
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            raise ValueError(f"reward name {name!r}: {_NAME}")
        self._check_new("reward", name, lambda brought: brought.rewards)
        if not (callable(factory) or (isinstance(factory, str) and re.fullmatch(r"[\w.]+:\w+", factory))):
            raise TypeError(f"reward {name!r} has factory {factory!r}: expected a callable or 'module:attribute'")
        entry = RewardEntry(name, self.distribution, factory, summary, dict(options), values, dict(models), modality)
        self.rewards.append(entry)

    def add_suite(self, path: str | os.PathLike[str]) -> None:
        """Take the path of a suite's TOML file: this is what `fktext_register_suites` is given."""
        file = Path(path)
        if file.suffix != ".toml" or not file.is_file():
            raise ValueError(f"suite {str(path)!r}: expected the path of a .toml file")
        if not NAME.fullmatch(file.stem):
            raise ValueError(f"suite name {file.stem!r}: {_NAME}")
        self._check_new("suite", file.stem, lambda brought: brought.suites)
        self.suites.append(SuiteEntry(file.stem, self.distribution, str(file)))

    def add_model(self, name: str, **what: Any) -> None:
        """Take a model: this is what `fktext_register_models` is given; see `fktext.plugins.entries.RegisterModel`."""
        entry = ModelEntry(name, self.distribution, **what)
        self._check_new("model", name, lambda brought: brought.models)
        self.models.append(entry)

    def add_part(self, kind: Kind, name: str, factory: Callable[[], Any] | str, *, summary: str) -> None:
        """Take a part of the engine: this is what `fktext_register_parts` is given; see `fktext.plugins.parts.RegisterPart`."""
        entry = PartEntry(kind, name, self.distribution, factory, summary)
        self._check_new(kind, name, lambda brought: [part for part in brought.parts if part.kind == kind])
        self.parts.append(entry)

    def _check_new(self, kind: str, name: str, of: Callable[[Brought], Sequence[Any]]) -> None:
        if any(entry.name == name for brought in (*self.earlier, self) for entry in of(brought)):
            raise ValueError(f"{kind} {name!r} is registered twice by {self.distribution}")
