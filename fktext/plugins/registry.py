"""Keep what plugins have registered, rewards, suites, models and parts by name, and build a reward from its spec."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pluggy

from fktext.errors import FktextError, PluginError, RewardError, UsageError, explain, raised_at, unknown_name
from fktext.plugins.entries import ModelEntry, imported
from fktext.plugins.parts import PartEntry
from fktext.plugins.specs import Spec, parse_spec

if TYPE_CHECKING:  # these import torch
    from fktext.rewards import Reward, RewardContext, Weighted

BUILTIN = "fktext"  # the distribution whose rewards no other can shadow

Factory = Callable[..., "Reward"]
Modality = Literal["text", "image"]
Status = Literal["ok", "disabled", "import-error", "timeout", "invalid", "hook-error", "conflict"]
_STATUS: dict[Status, str] = {
    "ok": "works",
    "disabled": "is disabled",
    "import-error": "cannot be imported",
    "timeout": "took too long",
    "invalid": "is not a valid plugin",
    "hook-error": "failed to register what it brings",
    "conflict": "is in conflict with another",
}


@dataclass(frozen=True)
class Plugin:
    """Record one entry point of the group `fktext`, and what became of it.

    Attributes:
        distribution, version: who ships it.
        name: the entry point's name.
        status: "ok"; "disabled" by FKTEXT_DISABLE_PLUGINS; "import-error" (its module raised); "invalid" (no hook, a misspelt
            one, wrong arguments); "hook-error" (its hook raised); "timeout" (it took too long to do either); "conflict" (another
            distribution has a reward or model of the same name, so that this one answers to `distribution:name` only).
        error: one line, "" when all is well.
        hooks: those it implements.
        rewards, suites, models, parts: what it registered; usable when the status is "ok" or "conflict".
    """

    distribution: str
    version: str
    name: str
    status: Status = "ok"
    error: str = ""
    rewards: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    cause: BaseException | None = field(default=None, repr=False, compare=False)

    @property
    def broken(self) -> bool:
        """Whether its rewards are missing against the user's will."""
        return self.status in ("import-error", "timeout", "invalid", "hook-error")

    def __str__(self) -> str:
        return f"plugin {self.distribution}:{self.name} {_STATUS[self.status]}: {self.error}"


@dataclass(frozen=True)
class Option:
    """A keyword-only parameter of a reward's factory."""

    name: str
    type: Any
    default: Any
    help: str = ""

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is inspect.Parameter.empty

    @property
    def expects(self) -> str:
        """The type as a user reads it: `text`, `toxic|nontoxic`, or with its bounds `int 1..5`."""
        return _expected(self.type)


# What every reward of texts takes beside its own options, see `fktext.rewards.Window`; its own option of that name comes first.
WINDOW = {
    "part": Option("part", Literal["text", "continuation"], "text", "what is scored: the text, or what follows the prompt"),
    "trim": Option("trim", int, None, "score only so many words of what follows the prompt"),
    "empty": Option("empty", float, None, "the value where nothing but white space is left; the reward's own where not set"),
}


@dataclass(frozen=True)
class RewardEntry:
    """A registered reward that has not been built yet."""

    name: str
    distribution: str
    factory: Factory | str
    summary: str
    help: Mapping[str, str] = field(default_factory=dict)
    values: str = ""
    models: Mapping[str, str] = field(default_factory=dict)
    modality: Modality = "text"

    @property
    def qualified(self) -> str:
        """`distribution:name`, which is never ambiguous."""
        return f"{self.distribution}:{self.name}"

    @property
    def common(self) -> Mapping[str, Option]:
        """The options that every reward of its modality takes."""
        return WINDOW if self.modality == "text" else {}

    def load(self) -> Factory:
        """Return the factory itself, imported if it was named by a string.

        Raises:
            PluginError: it cannot be imported, or is not a factory.
        """
        factory = imported(self.factory, f"reward {self.qualified!r}")
        if not callable(factory):
            raise PluginError(f"reward {self.qualified!r}: {self.factory!r} is not callable")
        return typing.cast(Factory, factory)

    def options(self) -> dict[str, Option]:
        """Return the options by name, read from the factory's signature.

        Raises:
            PluginError: the factory cannot be imported, or has another signature than `factory(context, *, options...)`.
        """
        factory = self.load()
        wrong = f"reward {self.qualified!r} has a factory with signature "
        try:
            signature = inspect.signature(factory)
        except (TypeError, ValueError) as error:
            raise PluginError(f"reward {self.qualified!r} has a factory without a signature: {error}") from error
        parameters = list(signature.parameters.values())
        first, rest = parameters[:1], parameters[1:]
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if [item.kind in positional for item in first] != [True] or any(item.kind is not item.KEYWORD_ONLY for item in rest):
            raise PluginError(f"{wrong}{signature}; expected (context, *, option: type = default, ...)")
        if strangers := set(self.help) - {item.name for item in rest}:
            raise PluginError(f"{wrong}{signature}, but registers help for {', '.join(sorted(strangers))}")
        try:
            kinds = _annotations(factory, rest)
        except Exception as error:
            raise PluginError(f"{wrong}{signature}, whose annotations cannot be read: {one_line(error)}") from error
        return {item.name: Option(item.name, kinds[item.name], item.default, self.help.get(item.name, "")) for item in rest}

    def convert(self, given: Mapping[str, str]) -> dict[str, Any]:
        """Turn options as text into keyword arguments of the factory, and those of `common`.

        Raises:
            UsageError: an unknown option, a required one that is missing, or a value of the wrong type.
            PluginError: see `options`.
        """
        import pydantic

        own = self.options()
        options = {**self.common, **own}
        for name in given:
            if name not in options:
                raise UsageError(f"{unknown_name(f'option of reward {self.name!r}:', name, options)}{_listed(given, name)}")
        if missing := [option for option in own.values() if option.required and option.name not in given]:
            wanted = ", ".join(f"{option.name}=<{option.expects}>" for option in missing)
            raise UsageError(f"reward {self.name!r} needs {wanted}: write {self.name}:{wanted.replace(', ', ',')}")
        values = {}
        for name, text in given.items():
            try:
                values[name] = pydantic.TypeAdapter(options[name].type).validate_strings(text)
            except pydantic.ValidationError as error:
                expected = "; ".join(dict.fromkeys(item["msg"] for item in error.errors()))
                raise UsageError(f"reward {self.name!r} option {name!r} came as {text!r}: {expected}") from None
        return values


@dataclass(frozen=True)
class SuiteEntry:
    """A registered evaluation suite: a TOML file that `fktext_evals` reads."""

    name: str
    distribution: str
    path: str


Entry = TypeVar("Entry", RewardEntry, SuiteEntry, ModelEntry)
_NUMBER = re.compile(r"[-+]?[0-9.]+")


@dataclass(frozen=True)
class Registry:
    """Hold what the installed plugins brought.

    Attributes:
        rewards: every reward under the name to write: its own where that is enough, else `distribution:name`.
        plugins: every plugin found, working or not.
        suites: every suite of a plugin.
        parts: every part of the engine that a plugin brings.
        models: every model of a plugin, named as the rewards are; the names of fktext's own are taken.
    """

    rewards: Mapping[str, RewardEntry]
    plugins: tuple[Plugin, ...]
    suites: tuple[SuiteEntry, ...] = ()
    parts: tuple[PartEntry, ...] = ()
    models: Mapping[str, ModelEntry] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """Return a line for each plugin that is broken or in conflict."""
        return [str(plugin) for plugin in self.plugins if plugin.broken or plugin.status == "conflict"]

    def resolve(self, name: str) -> RewardEntry:
        """Return the reward of that name, bare or as `distribution:name`.

        Raises:
            UsageError: unknown, or brought by several distributions.
            PluginError: it belongs to a plugin that is broken or disabled.
        """
        return self._find("reward", name, self.rewards.values(), lambda plugin: (plugin.name, *plugin.rewards), self.rewards)

    def suite(self, name: str, known: Sequence[str] = ()) -> SuiteEntry:
        """Return the suite of that name, bare or as `distribution:name`.

        Args:
            name: what is asked for.
            known: other names there are, for the message.

        Raises:
            UsageError: unknown, or brought by several distributions.
            PluginError: it belongs to a plugin that is broken or disabled.
        """
        names = {*known, *(entry.name for entry in self.suites)}
        return self._find("suite", name, self.suites, lambda plugin: (plugin.name, *plugin.suites), names)

    def model(self, name: str, known: Sequence[str] = ()) -> ModelEntry:
        """Return the model of that name, bare or as `distribution:name`.

        Args:
            name: what is asked for.
            known: other names there are, for the message.

        Raises:
            UsageError: unknown, or brought by several distributions.
            PluginError: it belongs to a plugin that is broken or disabled.
        """
        names = {*known, *self.models}
        return self._find("model", name, self.models.values(), lambda plugin: (plugin.name, *plugin.models), names)

    def _find(
        self, kind: str, name: str, entries: Iterable[Entry], brought: Callable[[Plugin], Sequence[str]], known: Collection[str]
    ) -> Entry:
        """Find the one entry of that name; `brought` says by which bare names a broken plugin is meant."""
        distribution, _, bare = name.rpartition(":")
        found = [entry for entry in entries if entry.name == bare and normal(distribution) in ("", normal(entry.distribution))]
        if not distribution:  # a built-in one is never shadowed
            found = [entry for entry in found if entry.distribution == BUILTIN] or found
        if len(found) == 1:
            return found[0]
        if found:
            choices = " or ".join(f"{entry.distribution}:{entry.name}" for entry in found)
            raise UsageError(f"{kind} {name!r} comes from several distributions: write {choices}")
        absent = [plugin for plugin in self.plugins if plugin.broken or plugin.status == "disabled"]
        for plugin in absent:
            own = normal(plugin.distribution) == normal(distribution)
            if own or (not distribution and bare in brought(plugin)):
                raise PluginError(f"{kind} {name!r} is not available: {plugin}") from plugin.cause
        error = unknown_name(kind, name, known)
        if broken := [plugin for plugin in absent if plugin.broken]:
            raise UsageError(f"{error}. Broken, so not counted: {'; '.join(map(str, broken))}")
        raise error

    def parse(self, text: str) -> Spec:
        """Read `NAME[:option=value,...][=weight]`, see `fktext.plugins.specs`.

        Raises:
            UsageError: it cannot be read, or has a distribution in place of a reward.
        """
        spec = parse_spec(text)
        rewards = {entry.name for entry in self.rewards.values()}
        rewards.update(name for plugin in self.plugins if plugin.broken for name in (plugin.name, *plugin.rewards))
        if (
            spec.options
            and spec.name not in rewards
            and normal(spec.name) in {normal(plugin.distribution) for plugin in self.plugins}
        ):
            reward = f"{spec.name}:{spec.options[0][0]}"
            raise UsageError(
                f"cannot read reward {text!r}: {spec.name!r} is a distribution; "
                f"write {reward}, {reward}:option=value or, with a weight, {reward}:=2"
            )
        return spec

    def create(self, spec: str | Spec, context: RewardContext | None = None, modality: Modality = "text") -> Weighted:
        """Build a reward.

        Args:
            spec: `NAME[:option=value,...][=weight]`, such as `toxicity:target=nontoxic=2`; see `fktext.plugins.specs`.
            context: device, batch size and the like.
            modality: what is to be scored.

        Returns:
            The reward with its weight, under the name `NAME[:option=value,...]`.

        Raises:
            UsageError: the spec cannot be read, or names an unknown reward or option, a value has the wrong type, or the
                reward is of another modality.
            PluginError: the plugin is broken.
            RewardError: the factory raised, or the reward's `goal` did.
        """
        from fktext.rewards import Reward, RewardContext, Weighted, Window, Windowed

        spec = self.parse(spec) if isinstance(spec, str) else spec
        entry = self.resolve(spec.name)
        if entry.modality != modality:
            commands = {"text": "`fktext generate` and `fktext score` take", "image": "`fktext image generate` takes"}
            raise UsageError(f"reward {entry.name!r} scores {entry.modality}s, not {modality}s: {commands[entry.modality]} it")
        values = entry.convert(dict(spec.options))
        window = Window(**{name: values.pop(name) for name in entry.common.keys() - entry.options().keys() if name in values})
        try:
            reward = entry.load()(context or RewardContext(), **values)
        except FktextError:
            raise
        except (Exception, SystemExit) as error:
            raise RewardError(f"reward {spec.label!r} cannot be built: {explain(error)}") from error
        if not isinstance(reward, Reward):
            raise PluginError(f"reward {entry.qualified!r}: its factory returned {type(reward).__name__}, which has no score()")
        if window != Window():
            reward = Windowed(reward, window)
        versions = {plugin.distribution: plugin.version for plugin in self.plugins}
        term = Weighted(spec.label, reward, spec.weight, plugin=f"{entry.distribution} {versions[entry.distribution]}")
        _ = term.goal  # one that cannot be told is found here, not in the middle of a run's messages
        return term


def _listed(given: Mapping[str, str], name: str) -> str:
    """Say how a list is written whose last item has been read as an option, because a weight came after it: `words=sun,sea=2`."""
    names = list(given)
    before = names[names.index(name) - 1] if names[0] != name else ""
    whole = f'{before}="{given[before]},{name}"={given[name]}' if before else ""
    return f" (if {name!r} is of the list {before!r}, write {whole})" if before and _NUMBER.fullmatch(given[name]) else ""


def _expected(kind: Any) -> str:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return f"{_expected(parts[0])}{_range(parts[1:])}"
    if origin is Literal:
        return "|".join(map(str, parts))
    if origin in (typing.Union, types.UnionType):  # None is what an option is that was left out; nobody writes it
        return "|".join(_expected(part) for part in parts if part is not type(None))
    if kind is str:
        return "text"
    return kind.__name__.lower() if isinstance(kind, type) else str(kind).replace("typing.", "")


def _range(metadata: Sequence[Any]) -> str:
    """Return the bounds of a number, of `annotated_types` or inside pydantic's `Field`: " 1..5", " from 0", " above 0 to 1"."""
    parts = [part for item in metadata for part in (getattr(item, "metadata", None) or [item])]
    bounds = {name: getattr(part, name) for name in ("ge", "gt", "le", "lt") for part in parts if hasattr(part, name)}
    if bounds.keys() == {"ge", "le"}:
        return f" {bounds['ge']:g}..{bounds['le']:g}"
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    return f" {' '.join(f'{words[name]} {bound:g}' for name, bound in bounds.items())}" if bounds else ""


def _annotations(factory: Any, parameters: Sequence[inspect.Parameter]) -> dict[str, Any]:
    """Read the types of the options alone; others may be names that only a type checker imports."""
    target = (
        inspect.getattr_static(factory, "__init__")
        if isinstance(factory, type)
        else inspect.unwrap(getattr(factory, "func", factory))
    )
    namespace = getattr(target, "__globals__", None) or getattr(type(target).__call__, "__globals__", {})

    def holder() -> None: ...

    holder.__annotations__ = {item.name: item.annotation for item in parameters if item.annotation is not item.empty}
    hints = typing.get_type_hints(holder, globalns=namespace, include_extras=True)
    return {item.name: hints.get(item.name, str) for item in parameters}


def normal(name: str) -> str:
    """Return the name of a distribution as all its spellings have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def one_line(error: BaseException) -> str:
    """Put an error of other people's code on one line, with the place in that code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # pluggy says what is wrong on its last line, everyone else on the first
    text = lines[-1 if isinstance(error, pluggy.PluginValidationError) else 0] if lines else ""
    place = raised_at(error)
    return f"{type(error).__name__}{': ' * bool(text)}{text}{f' ({place})' * bool(place)}"
