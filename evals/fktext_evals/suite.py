"""Suites: what is compared, on which prompts, judged by whom; a TOML file each.

    name = "mine"
    description = "one line"
    prompts = ["The book", "The city"]     # or a .txt, .jsonl or .csv file beside the suite
    rewards = ["toxicity"]                 # what steers, as `fktext generate --reward` takes it
    samples = 10                           # texts per prompt, seed and method

    [[methods]]
    name = "fk"
    particles = [4, 8]                     # a method each; any other setting of `fktext.settings.Settings` may stand here

    [[judges]]
    name = "held-out"
    reward = "toxicity:model=heldout-toxicity"   # gives log p(label)
    label = "toxic"                        # a text is counted when p(label) > threshold

Keys and settings are listed in `Suite`, `Judge` and `fktext.settings.Settings`.
"""

from __future__ import annotations

import math
import os
import tomllib
import typing
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fktext.errors import UsageError, unknown_name
from fktext.prompts import read_prompts
from fktext.specs import parse_spec

if TYPE_CHECKING:  # these import torch
    from fktext.plugins import Registry
    from fktext.settings import Settings

_SUITE = {
    "name": str,
    "description": str,
    "warning": str,
    "prompts": list[str] | str,
    "rewards": list[str],
    "model": str,
    "samples": int,
    "seeds": list[int],
    "return": Literal["best", "draw"],
    "judge_tokens": int,
    "settings": dict[str, Any],
    "methods": list[dict[str, Any]],
    "judges": list[dict[str, Any]],
}
_JUDGE = {"name": str, "reward": str, "label": str, "threshold": float}
_OURS = ("particles", "samples", "seed")  # settings that a suite gives in other places


@dataclass(frozen=True)
class Judge:
    """Who says whether a text is what the suite asks about.

    Attributes:
        name: such as "held-out".
        reward: its spec; it must give log p(label).
        label: the class, such as "toxic".
        threshold: a text counts when p(label) is above it.
    """

    name: str
    reward: str
    label: str
    threshold: float = 0.5

    @property
    def log_threshold(self) -> float:
        """log(threshold), what the judge's values are compared with."""
        return math.log(self.threshold)


@dataclass(frozen=True)
class Method:
    """A way to generate: a name and the settings; `particles` tells methods of one name apart."""

    name: str
    settings: Settings

    @property
    def key(self) -> tuple[str, int]:
        """What rows are told apart by."""
        return self.name, self.settings.particles


@dataclass(frozen=True)
class Suite:
    """What an evaluation does.

    Attributes:
        name, description: for lists.
        prompts: distinct texts to continue.
        rewards: specs of what steers.
        methods: what is compared.
        judges: who judges.
        model: unless another is asked for.
        samples: texts per prompt, seed and method.
        seeds: each gives other texts.
        returns: the text taken of each population: "best" reward or "draw" by weight.
        judge_tokens: judges and metrics see this many tokens after the prompt; None for all.
        warning: what a reader should know before seeing texts.
    """

    name: str
    description: str
    prompts: tuple[str, ...]
    rewards: tuple[str, ...]
    methods: tuple[Method, ...]
    judges: tuple[Judge, ...]
    model: str = "tiny-mdlm"
    samples: int = 10
    seeds: tuple[int, ...] = (0,)
    returns: Literal["best", "draw"] = "best"
    judge_tokens: int | None = None
    warning: str = ""

    def __post_init__(self) -> None:
        for kind, items in (
            ("prompt", self.prompts),
            ("seed", self.seeds),
            ("method", [method.key for method in self.methods]),
            ("judge", [judge.name for judge in self.judges]),
        ):
            if not items:
                raise UsageError(f"suite {self.name!r} has no {kind}")
            if twice := [item for item, count in Counter(items).items() if count > 1]:
                raise UsageError(f"suite {self.name!r} has {kind} {twice[0]!r} twice")
        for name, value in (("samples", self.samples), ("judge_tokens", self.judge_tokens)):
            if value is not None and value < 1:
                raise UsageError(f"suite {self.name!r}: {name} must be at least 1, got {value}")
        if not self.rewards:
            raise UsageError(f"suite {self.name!r} has no reward")
        for spec in self.rewards:
            parse_spec(spec)
        for judge in self.judges:
            if parse_spec(judge.reward).weight != 1:
                raise UsageError(f"judge {judge.name!r} has weight {parse_spec(judge.reward).weight:g}; a judge has none")
            if not 0 < judge.threshold < 1:
                raise UsageError(f"judge {judge.name!r}: threshold is {judge.threshold:g}; expected a probability between 0 and 1")

    @property
    def texts(self) -> int:
        """How many texts the whole suite asks for."""
        return len(self.methods) * len(self.prompts) * len(self.seeds) * self.samples

    def as_table(self) -> dict[str, Any]:
        """The suite as its file could have it, every setting spelled out; `parse` reads it."""
        return {
            "name": self.name,
            "description": self.description,
            **({"warning": self.warning} if self.warning else {}),
            "prompts": list(self.prompts),
            "rewards": list(self.rewards),
            "model": self.model,
            "samples": self.samples,
            "seeds": list(self.seeds),
            "return": self.returns,
            **({"judge_tokens": self.judge_tokens} if self.judge_tokens else {}),
            "methods": [
                {"name": method.name, "particles": method.settings.particles, **_set(asdict(method.settings), _OURS)}
                for method in self.methods
            ],
            "judges": [asdict(judge) for judge in self.judges],
        }


def names() -> list[str]:
    """The suites that come with fktext, sorted."""
    return sorted(item.name.removesuffix(".toml") for item in _folder().iterdir() if item.name.endswith(".toml"))


def source(name: str) -> str:
    """The TOML text of a suite, by name or path."""
    path = _path(name)
    try:
        return str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read suite {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"suite {str(path)!r} is not UTF-8") from error


def load(name: str) -> Suite:
    """Read a suite by the name of an embedded one, or by the path of a `.toml` file.

    Raises:
        UsageError: an unknown suite, key or value; says where, and which name is near.
    """
    path = _path(name)
    try:
        table = tomllib.loads(source(name))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"suite {str(path)!r}: not TOML: {error}") from error
    return parse(table, str(path) if name.endswith(".toml") else f"suite {name}", path.parent if isinstance(path, Path) else Path())


def parse(table: Mapping[str, Any], where: str, folder: Path = Path()) -> Suite:
    """A suite from the content of its file.

    Args:
        table: what TOML gives.
        where: for messages.
        folder: where its prompts file is sought.
    """
    given = _checked(table, _SUITE, where, ("name", "description", "prompts", "rewards", "methods", "judges"))
    prompts = given.pop("prompts")
    if isinstance(prompts, str):
        try:
            prompts = [prompt.text for prompt in read_prompts(folder / prompts)]
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
    kinds = _setting_kinds()
    shared = _checked(given.pop("settings", {}), _set(kinds, ("method",)), f"{where} [settings]")
    methods = [
        method
        for number, item in enumerate(given.pop("methods"), 1)
        for method in _methods(item, kinds, shared, f"{where} [[methods]] {number}")
    ]
    judges = [
        Judge(**_checked(item, _JUDGE, f"{where} [[judges]] {number}", ("name", "reward", "label")))
        for number, item in enumerate(given.pop("judges"), 1)
    ]
    given |= {"prompts": prompts, "methods": methods, "judges": judges}
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    if "return" in fields:
        fields["returns"] = fields.pop("return")
    try:
        return Suite(**fields)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def check(suite: Suite, registry: Registry) -> None:
    """Whether a suite's rewards and judges exist and take the options they are given.

    Raises:
        UsageError, PluginError: they do not.
    """
    for text in (*suite.rewards, *(judge.reward for judge in suite.judges)):
        spec = registry.parse(text)
        registry.resolve(spec.name).convert(dict(spec.options))


def _methods(item: Mapping[str, Any], kinds: Mapping[str, Any], shared: Mapping[str, Any], where: str) -> Iterable[Method]:
    """One table of `[[methods]]`: a method for each number of particles."""
    from fktext.settings import Settings

    own = _checked(item, {"name": str, "particles": int | list[int], **kinds}, where, ("name",))
    name, particles = own.pop("name"), own.pop("particles", None)
    if own.get("method") == "base":
        if particles not in (None, 1):
            raise UsageError(f"{where}: method 'base' has one particle, got {particles}")
        particles = 1
    if particles is None or particles == []:
        raise UsageError(f"{where}: particles is missing; expected a number, or a list of them")
    for number in particles if isinstance(particles, list) else [particles]:
        try:
            yield Method(name, Settings(particles=number, **{**shared, **own}))
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error


def _checked(table: Mapping[str, Any], kinds: Mapping[str, Any], where: str, required: Sequence[str] = ()) -> dict[str, Any]:
    """The table, if it has known keys with values of the right types."""
    import pydantic

    for key, value in table.items():
        if key not in kinds:
            raise unknown_name(f"key of {where}:", key, kinds)
        try:
            pydantic.TypeAdapter(kinds[key]).validate_python(value, strict=True)
        except pydantic.ValidationError:
            raise UsageError(f"{where}: {key} is {_short(value)}; expected {_expected(kinds[key])}") from None
    if missing := [key for key in required if key not in table]:
        raise UsageError(f"{where}: {missing[0]} is missing")
    return dict(table)


def _setting_kinds() -> dict[str, Any]:
    """The settings a suite may give, by name, with their types."""
    from fktext.settings import Settings

    return _set(typing.get_type_hints(Settings), _OURS)


def _set(table: Mapping[str, Any], without: Sequence[str]) -> dict[str, Any]:
    """The table without some keys and without what is None, which TOML cannot say."""
    return {key: value for key, value in table.items() if key not in without and value is not None}


def _expected(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    text = kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
    return text.replace(" | None", "").replace("dict[str, typing.Any]", "table").replace(" | ", " or ")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _path(name: str) -> Any:
    """Where a suite is: a path, or a resource of this package."""
    if name.endswith(".toml"):
        return Path(name).expanduser()
    if name not in names():
        hint = f"; a file's name ends in .toml: {name}" if os.sep in name else ""
        raise UsageError(f"{unknown_name('suite', name, names())}{hint}")
    return _folder() / f"{name}.toml"


def _folder() -> Any:
    return resources.files("fktext_evals") / "suites"
