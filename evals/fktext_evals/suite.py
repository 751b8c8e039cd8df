"""Suites: what is compared, on which prompts, judged by whom; a TOML file each.

    name = "mine"
    description = "one line"
    prompts = ["The book", "The city"]     # or a .txt, .jsonl or .csv file beside the suite, or a table for `datasets`
    rewards = ["toxicity"]                 # what steers, as `fktext generate --reward` takes it
    samples = 10                           # texts per prompt, seed and method

    [[methods]]
    name = "fk"
    particles = [4, 8]                     # a method each; any other setting of `fktext.settings.Settings` may stand here

    [[methods]]
    name = "importance"                    # importance sampling: weigh finished texts, return one drawn by weight
    method = "best-of-n"
    return = "draw"
    particles = 8

    [[judges]]
    name = "held-out"
    reward = "toxicity:model=heldout-toxicity"   # gives log p(label)
    label = "toxic"                        # a text is counted when p(label) > threshold

    [[judges]]
    name = "fluency"
    reward = "perplexity:model=heldout-causal"   # gives the mean log-likelihood per token
    label = "perplexity"
    kind = "perplexity"                    # exp(-value) is reported

A suite of images has the key `modality = "image"`, a pipeline of diffusers as its model, rewards and judges of images, and where
needed a table

    [pipeline]
    scheduler = "ddim"                     # in the place of the pipeline's own, as `fktext image generate --scheduler` takes it
    eta = 1.0                              # this and others are handed to the pipeline's call, such as guidance_scale

Keys and settings are listed in `Suite`, `Judge`, `prompts_of` and `fktext.settings.Settings`. Suites come with fktext, from
plugins (the hook `fktext_register_suites`), or from a path.
"""

from __future__ import annotations

import math
import os
import tempfile
import tomllib
import typing
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fktext.errors import UsageError, shorten, unknown_name
from fktext.plugins.specs import parse_spec
from fktext.texts.prompts import KEYS, read_prompts

if TYPE_CHECKING:  # these import torch
    from fktext.plugins.registry import Registry
    from fktext.settings import Run, Settings

Returns = Literal["best", "draw"]
Kind = Literal["share", "perplexity", "mean"]
Modality = Literal["text", "image"]

_SUITE = {
    "name": str,
    "description": str,
    "modality": Modality,
    "pipeline": dict[str, Any],
    "warning": str,
    "prompts": list[str] | str | dict[str, Any],
    "rewards": list[str],
    "model": str,
    "samples": int,
    "seeds": list[int],
    "return": Returns,
    "judge_tokens": int,
    "settings": dict[str, Any],
    "methods": list[dict[str, Any]],
    "judges": list[dict[str, Any]],
}
_JUDGE = {"name": str, "reward": str, "label": str, "threshold": float, "kind": Kind}
_PROMPTS = {"file": str, "hub": str, "config": str, "split": str, "column": str, "first": int, "shuffle": int, "revision": str}
_OURS = ("particles", "samples", "seed")  # settings that a suite gives in other places


@dataclass(frozen=True)
class Judge:
    """Who says what a text is like.

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

    @property
    def log_threshold(self) -> float:
        """log(threshold), what the judge's values are compared with."""
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
        """The settings as a suite's file gives them.

        Raises:
            TypeError: a model has resolved them already.
        """
        from fktext.settings import Settings

        if not isinstance(self.settings, Settings):
            raise TypeError(f"method {self.name!r} has settings that a model has resolved")
        return self.settings

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
        for judge in self.judges:
            if parse_spec(judge.reward).weight != 1:
                raise UsageError(f"judge {judge.name!r} has weight {parse_spec(judge.reward).weight:g}; a judge has none")
            if judge.kind != "share" and judge.threshold != Judge.threshold:
                raise UsageError(f"judge {judge.name!r} of kind {judge.kind!r} has a threshold; only the kind 'share' has one")
            if not 0 < judge.threshold < 1:
                raise UsageError(f"judge {judge.name!r}: threshold is {judge.threshold:g}; expected a probability between 0 and 1")

    @property
    def texts(self) -> int:
        """How many texts the whole suite asks for."""
        return len(self.methods) * len(self.prompts) * len(self.seeds) * self.samples

    def steers(self, judge: Judge) -> bool:
        """Whether a judge is one of the rewards, be it that one of them sees another part of a text."""
        return _whatever_part(judge.reward) in map(_whatever_part, self.rewards)

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
            **({"judge_tokens": self.judge_tokens} if self.judge_tokens else {}),
            **({"modality": self.modality} if self.modality != "text" else {}),
            **({"pipeline": dict(self.pipeline)} if self.pipeline else {}),
            "methods": [
                {
                    "name": method.name,
                    "particles": method.settings.particles,
                    "return": method.returns,
                    **_set(asdict(method.settings), _OURS),
                }
                for method in self.methods
            ],
            "judges": [asdict(judge) for judge in self.judges],
        }


def _whatever_part(reward: str) -> tuple[str, Mapping[str, str]]:
    """The name and the options of a reward, but for those that say how much of a text it sees."""
    spec = parse_spec(reward)
    return spec.name, {name: value for name, value in spec.options if name not in ("part", "trim", "empty", "max_tokens")}


def names() -> list[str]:
    """The suites that come with fktext, sorted."""
    return sorted(item.name.removesuffix(".toml") for item in _folder().iterdir() if item.name.endswith(".toml"))


def source(name: str, registry: Registry | None = None) -> str:
    """The TOML text of a suite; see `load`."""
    return _read(_path(name, registry))


def load(name: str, registry: Registry | None = None) -> Suite:
    """Read a suite by name, or by the path of a `.toml` file.

    Args:
        name: of an embedded suite, of a plugin's (as `distribution:suite` where several have one of that name), or a path.
        registry: the installed plugins, asked for names that are not embedded; by default they are loaded then.

    Raises:
        UsageError: an unknown suite, key or value; says where, and which name is near.
    """
    path = _path(name, registry)
    where = str(path) if name.endswith(".toml") else f"suite {name}"
    return parse(_table(path), where, path.parent if isinstance(path, Path) else Path())


def summary(name: str, registry: Registry | None = None) -> dict[str, Any]:
    """Name, description and, where they are in the file itself, number of `texts` of a suite; prompts are not fetched.

    Raises:
        UsageError: see `load`.
    """
    path = _path(name, registry)
    table = _table(path)
    if isinstance(table.get("prompts"), dict):
        return {"name": name, "description": table.get("description", ""), "texts": None}
    found = load(name, registry)
    return {"name": name, "description": found.description, "texts": found.texts}


def parse(table: Mapping[str, Any], where: str, folder: Path = Path()) -> Suite:
    """A suite from the content of its file.

    Args:
        table: what TOML gives.
        where: for messages.
        folder: where its prompts file is sought.
    """
    given = _checked(table, _SUITE, where, ("name", "description", "prompts", "rewards", "methods", "judges"))
    prompts = prompts_of(given.pop("prompts"), where, folder)
    returns = given.pop("return", "best")
    kinds = _setting_kinds()
    shared = _checked(given.pop("settings", {}), _set(kinds, ("method",)), f"{where} [settings]")
    guesses = {"x0_samples": 1} if given.get("modality") == "image" else {}  # a pipeline has one guess of x0
    methods = [
        method
        for number, item in enumerate(given.pop("methods"), 1)
        for method in _methods(item, kinds, {"return": returns, **guesses, **shared}, f"{where} [[methods]] {number}")
    ]
    judges = [
        Judge(**_checked(item, _JUDGE, f"{where} [[judges]] {number}", ("name", "reward", "label")))
        for number, item in enumerate(given.pop("judges"), 1)
    ]
    given |= {"prompts": prompts, "methods": methods, "judges": judges}
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    try:
        return Suite(**fields)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def prompts_of(given: Sequence[str] | str | Mapping[str, Any], where: str, folder: Path = Path()) -> list[str]:
    """The prompts that a suite's key `prompts` names.

    Args:
        given: a list of texts; the name of a `.txt`, `.jsonl` or `.csv` (see `fktext.texts.prompts`); or a table for Hugging Face
            `datasets`: `file` (.jsonl, .json, .csv, .parquet, or any other as a text per line) or `hub` (an id, with `config` and
            `revision` where needed), `split` (default "train"), `column` (default "prompt", "text" or "context_string", whichever
            comes first; "a.b" is b inside a), and after a `shuffle` with that seed the `first` so many.
        where: for messages.
        folder: where files are sought.

    Raises:
        UsageError: no such file, data set, split or column, or a value that is no text.
    """
    if isinstance(given, str):
        try:
            return [prompt.text for prompt in read_prompts(folder / given)]
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
    if not isinstance(given, Mapping):
        return list(given)
    table = _checked(given, _PROMPTS, f"{where} prompts")
    if ("file" in table) == ("hub" in table):
        raise UsageError(f"{where} prompts: expected either file or hub")
    name = table.get("hub") or str(folder / table["file"])
    rows = _dataset(table, folder, where)
    if "shuffle" in table:
        rows = rows.shuffle(seed=table["shuffle"])
    if "first" in table:
        if not 1 <= table["first"] <= len(rows):
            raise UsageError(f"{where} prompts: first is {table['first']}; {name} has {len(rows)} rows")
        rows = rows.select(range(table["first"]))
    column = table.get("column") or next((key for key in KEYS if key in rows.column_names), None)
    if column is None or column.split(".")[0] not in rows.column_names:
        raise UsageError(
            f"{where} prompts: {name} has no column {column or ' or '.join(KEYS)}; it has {', '.join(rows.column_names)}"
        )
    prompts: list[Any] = rows[column.split(".")[0]]
    for key in column.split(".")[1:]:
        prompts = [value.get(key) if isinstance(value, dict) else None for value in prompts]
    prompts = list(prompts)
    if wrong := [number for number, prompt in enumerate(prompts) if not isinstance(prompt, str)]:
        raise UsageError(f"{where} prompts: {column} of row {wrong[0]} of {name} is {_short(prompts[wrong[0]])}; expected a text")
    return prompts


def _dataset(table: Mapping[str, Any], folder: Path, where: str) -> Any:
    """The rows of one split, by Hugging Face `datasets`."""
    import datasets

    split, kinds = table.get("split", "train"), {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
    bars = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        if "hub" in table:
            return datasets.load_dataset(table["hub"], table.get("config"), split=split, revision=table.get("revision"))
        path = folder / table["file"]
        if not path.is_file():
            raise UsageError(f"{where} prompts: there is no file {str(path)!r}")
        with tempfile.TemporaryDirectory() as cache:  # a prompts file is small: nothing of it stays in the user's cache
            return datasets.load_dataset(
                kinds.get(path.suffix, "text"), data_files=str(path), split=split, cache_dir=cache, keep_in_memory=True
            )
    except UsageError:
        raise
    except Exception as error:  # of the hub client, of pyarrow, of datasets itself
        reason = next((line for line in map(str.strip, str(error).splitlines()) if line), "")
        raise UsageError(
            f"{where} prompts: cannot read {table.get('hub') or table['file']!r}: {type(error).__name__}: {reason[:200]}"
        ) from error
    finally:
        if bars:
            datasets.enable_progress_bars()


def check(suite: Suite, registry: Registry) -> None:
    """Whether a suite's rewards and judges exist and take the options they are given.

    Raises:
        UsageError, PluginError: they do not.
    """
    for text in (*suite.rewards, *(judge.reward for judge in suite.judges)):
        spec = registry.parse(text)
        entry = registry.resolve(spec.name)
        if entry.modality != suite.modality:
            raise UsageError(f"reward {entry.name!r} scores {entry.modality}s, and suite {suite.name!r} is of {suite.modality}s")
        entry.convert(dict(spec.options))


def _methods(item: Mapping[str, Any], kinds: Mapping[str, Any], shared: Mapping[str, Any], where: str) -> Iterable[Method]:
    """One table of `[[methods]]`: a method for each number of particles."""
    from fktext.settings import Settings

    own = _checked(item, {"name": str, "particles": int | list[int], "return": Returns, **kinds}, where, ("name",))
    name, particles = own.pop("name"), own.pop("particles", None)
    settings = {**shared, **own}
    returns = settings.pop("return")
    if own.get("method") == "base":
        if particles not in (None, 1):
            raise UsageError(f"{where}: method 'base' has one particle, got {particles}")
        particles = 1
    if particles is None or particles == []:
        raise UsageError(f"{where}: particles is missing; expected a number, or a list of them")
    for number in particles if isinstance(particles, list) else [particles]:
        try:
            yield Method(name, Settings(particles=number, **settings), returns)
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
    return shorten(repr(value), 60)


def _path(name: str, registry: Registry | None = None) -> Any:
    """Where a suite is: a path, a resource of this package, or a plugin's file."""
    if name.endswith(".toml"):
        return Path(name).expanduser()
    if name in names():
        return _folder() / f"{name}.toml"
    if registry is None:
        from fktext.plugins import load_plugins

        registry = load_plugins()
    try:
        return Path(registry.suite(name, names()).path)
    except UsageError as error:
        hint = f"; a file's name ends in .toml: {name}" if os.sep in name else ""
        raise UsageError(f"{error}{hint}") from error


def _read(path: Any) -> str:
    try:
        return str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read suite {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"suite {str(path)!r} is not UTF-8") from error


def _table(path: Any) -> dict[str, Any]:
    try:
        return tomllib.loads(_read(path))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"suite {str(path)!r}: not TOML: {error}") from error


def _folder() -> Any:
    return resources.files("fktext_evals") / "suites"
