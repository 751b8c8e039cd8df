"""Suites: what is compared, on which prompts, judged by whom; a TOML file each.

    name = "mine"
    description = "one line"
    prompts = ["The book", "The city"]     # or what `fktext_evals.suites.prompts.prompts_of` takes
    rewards = ["toxicity"]                 # what steers, as `fktext generate --reward` takes it
    methods = [
        { name = "fk", particles = [4, 8] },   # a method each; any other setting of `fktext.settings.Settings` may stand here
        { name = "importance", method = "best-of-n", return = "draw", particles = 8 },
    ]
    judges = [{ name = "held-out", reward = "toxicity:model=heldout-toxicity", label = "toxic" }]   # see `Judge`

The other keys are in `Suite`; `extends` is in `fktext_evals.suites.catalogue`; docs/evals.md explains all. A suite of images has
the key `modality = "image"`, a pipeline of diffusers as its model, rewards and judges of images, and where needed a table
[pipeline]: a `scheduler` in the place of its own, and options of its call, such as `eta` or `guidance_scale`.
"""

from __future__ import annotations

import math
import typing
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pydantic

from fktext.errors import UsageError
from fktext.plugins.parts import with_parts
from fktext.plugins.specs import parse_spec
from fktext.settings import PARTS, Run, Settings, described
from fktext_evals.suites.prompts import prompts_of
from fktext_evals.suites.tables import STRICT, Table, checked

Returns = Literal["best", "draw"]
Kind = Literal["share", "perplexity", "mean"]
Modality = Literal["text", "image"]


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Judge:
    """Says what a text is like.

    Attributes:
        name: such as "held-out".
        reward: its spec. For the kinds "share" and "perplexity" its values are at most 0.
        label: what is judged: the class, such as "toxic", or the quantity, such as "perplexity".
        threshold: for the kind "share": a text counts when p(label) is above it.
        kind: what the values mean. "share": log p(label), reported as the share of texts above the threshold. "perplexity": the
            mean log-likelihood per token, reported as the mean of exp(-value). "mean": reported as they are.
    """

    name: str
    reward: str
    label: str
    threshold: float = 0.5
    kind: Kind = "share"

    def __post_init__(self) -> None:
        if (weight := parse_spec(self.reward).weight) != 1:
            raise UsageError(f"judge {self.name!r} has weight {weight:g}; a judge has none")
        if self.kind != "share" and self.threshold != Judge.threshold:
            raise UsageError(f"judge {self.name!r} of kind {self.kind!r} has a threshold; only the kind 'share' has one")
        if not 0 < self.threshold < 1:
            raise UsageError(f"judge {self.name!r}: threshold is {self.threshold:g}; expected a probability between 0 and 1")

    @property
    def log_threshold(self) -> float:
        """Return log(threshold), what the judge's values are compared with."""
        return math.log(self.threshold)


@dataclass(frozen=True)
class Method:
    """A way to generate: a name and the settings; `particles` tells methods of one name apart.

    Attributes:
        name: such as "fk".
        settings: what the file asks for, or what the model made of it; `samples` and `seed` aside.
        returns: the text taken of each population: "best" reward or "draw" by weight. Importance sampling is "best-of-n", which
            weighs finished texts only, with "draw".
    """

    name: str
    settings: Settings | Run
    returns: Returns = "best"

    @property
    def asked(self) -> Settings:
        """Return the settings as a suite's file gives them.

        Raises:
            TypeError: a model has resolved them already.
        """
        if not isinstance(self.settings, Settings):
            raise TypeError(f"method {self.name!r} has settings that a model has resolved")
        return self.settings

    @property
    def key(self) -> tuple[str, int]:
        """Return what rows are told apart by."""
        return self.name, self.settings.particles


@dataclass(frozen=True)
class Suite:
    """Says what is compared, on what, and who judges.

    Attributes:
        name, description: for lists.
        prompts: distinct texts to continue.
        rewards: specs of what steers.
        methods: what is compared.
        judges: who judges.
        model: unless another is asked for.
        samples: texts per prompt, seed and method.
        seeds: each gives other texts.
        judge_tokens: judges and metrics see this many tokens after the prompt; None for all.
        warning: what a reader should know before seeing texts.
        modality: what is generated.
        pipeline: of a suite of images, `scheduler` and options of the pipeline's call.
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
    judge_tokens: int | None = None
    warning: str = ""
    modality: Modality = "text"
    pipeline: Mapping[str, Any] = field(default_factory=dict)

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
        for name in ("pipeline",) if self.modality == "text" else ("judge_tokens",):
            if getattr(self, name):
                raise UsageError(f"suite {self.name!r} is of {self.modality}s, which have no {name}")
        for spec in self.rewards:
            parse_spec(spec)

    @property
    def texts(self) -> int:
        """Count the texts that the whole suite asks for."""
        return len(self.methods) * len(self.prompts) * len(self.seeds) * self.samples

    def steers(self, judge: Judge) -> bool:
        """Say whether a judge is one of the rewards, even if that sees another part of a text."""
        return _whatever_part(judge.reward) in map(_whatever_part, self.rewards)

    def limited(self, prompts: int | None) -> Suite:
        """Keep the first so many prompts; None keeps all.

        Raises:
            UsageError: fewer than one.
        """
        if prompts is not None and prompts < 1:
            raise UsageError(f"suite {self.name!r}: the limit of prompts must be at least 1, got {prompts}")
        return replace(self, prompts=self.prompts[:prompts])

    def as_table(self) -> dict[str, Any]:
        """Spell the suite out as its file could have it, with every setting; `parse` reads it."""
        table: dict[str, Any] = {"name": self.name, "description": self.description}
        table |= {"warning": self.warning} if self.warning else {}
        table |= {"prompts": list(self.prompts), "rewards": list(self.rewards), "model": self.model}
        table |= {"samples": self.samples, "seeds": list(self.seeds)}
        table |= {"judge_tokens": self.judge_tokens} if self.judge_tokens else {}
        table |= {"modality": self.modality} if self.modality != "text" else {}
        table |= {"pipeline": dict(self.pipeline)} if self.pipeline else {}
        return table | {
            "methods": [
                {"name": method.name, "particles": method.settings.particles, "return": method.returns, **_spelled(method.settings)}
                for method in self.methods
            ],
            "judges": [asdict(judge) for judge in self.judges],
        }


def _spelled(settings: Settings | Run) -> dict[str, Any]:
    """Return the settings that a method's table has, but for None, which TOML cannot say."""
    return {name: value for name, value in described(settings).items() if name in _SETTINGS and value is not None}


def _whatever_part(reward: str) -> tuple[str, Mapping[str, str]]:
    """Return the name and the options of a reward, but for those that say how much of a text it sees."""
    spec = parse_spec(reward)
    return spec.name, {name: value for name, value in spec.options if name not in ("part", "trim", "empty", "max_tokens")}


class _File(Table):
    """A suite's file: `given` says what stands in it. What its tables hold is checked one by one."""

    name: str
    description: str
    prompts: list[str] | str | dict[str, Any]
    rewards: list[str]
    methods: list[dict[str, Any]]
    judges: list[dict[str, Any]]
    extends: None = None  # the catalogue has put the two together; it is here for the hint where it is misspelt
    modality: Modality = "text"
    pipeline: dict[str, Any] = pydantic.Field(default_factory=dict)
    warning: str = ""
    model: str = Suite.model
    samples: int = Suite.samples
    seeds: list[int] = pydantic.Field(default_factory=list)
    returns: Returns = pydantic.Field("best", alias="return")
    judge_tokens: int = 1
    settings: dict[str, Any] = pydantic.Field(default_factory=dict)


# What `fktext.settings` declares, but for what a suite gives in other places
_SETTINGS: dict[str, Any] = {
    name: (str if name in PARTS else kind, None)  # a file has names, where Python may have objects
    for name, kind in typing.get_type_hints(Settings).items()
    if name not in ("particles", "samples", "seed")
}
_Shared = pydantic.create_model("_Shared", __base__=Table, **{name: kind for name, kind in _SETTINGS.items() if name != "method"})
_Method = pydantic.create_model(
    "_Method",
    __base__=Table,
    name=(str, ...),
    particles=(int | list[int], None),
    returns=(Returns, pydantic.Field(None, alias="return")),
    **_SETTINGS,
)
# What may stand in a suite's file, in its [settings] and in a table of its methods
KEYS, SETTING_KEYS, METHOD_KEYS = (
    tuple(item.alias or name for name, item in model.model_fields.items() if name != "extends")
    for model in (_File, _Shared, _Method)
)


def parse(table: Mapping[str, Any], where: str, folder: Path = Path()) -> Suite:
    """Make a suite of the content of its file.

    Args:
        table: what TOML gives.
        where: for messages.
        folder: where its prompts file is sought.

    Raises:
        UsageError: an unknown key or a bad value; says where.
    """
    file = checked(_File, table, where)
    prompts = prompts_of(file.prompts, where, folder)
    shared = checked(_Shared, file.settings, f"{where} [settings]").given()
    with _said_of(f"{where} [settings]"):
        Settings(**with_parts(shared))
    if file.modality == "image":
        shared = {"x0_samples": 1, **shared}  # a pipeline has one guess of x0
    methods = [
        method
        for number, item in enumerate(file.methods, 1)
        for method in _methods(item, {"return": file.returns, **shared}, f"{where} [[methods]] {number}")
    ]
    judges = [checked(Judge, item, f"{where} [[judges]] {number}") for number, item in enumerate(file.judges, 1)]
    found: dict[str, Any] = file.given("settings", "returns") | {"prompts": prompts, "methods": methods, "judges": judges}
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
    with _said_of(where):
        return Suite(**fields)


def _methods(item: Mapping[str, Any], shared: Mapping[str, Any], where: str) -> Iterator[Method]:
    """Yield a method for each number of particles of one table of `[[methods]]`."""
    own = checked(_Method, item, where).given()
    name, particles = own.pop("name"), own.pop("particles", [])
    settings = {**shared, **own}
    returns = settings.pop("return")
    if own.get("method") == "base":
        if particles not in ([], 1):
            raise UsageError(f"{where}: method 'base' has one particle, got {particles}")
        particles = 1
    if particles == []:
        raise UsageError(f"{where}: particles is missing; expected a number, or a list of them")
    for number in particles if isinstance(particles, list) else [particles]:
        with _said_of(where):
            yield Method(name, Settings(particles=number, **with_parts(settings)), returns)


@contextmanager
def _said_of(where: str) -> Iterator[None]:
    """Let an error say where it is."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def counted(number: int, noun: str) -> str:
    """Count things in words: 1 text, 2 texts.

    Example:
        >>> counted(1, "prompt"), counted(2, "prompt")
        ('1 prompt', '2 prompts')
    """
    return f"{number} {noun}{'s' * (number != 1)}"
