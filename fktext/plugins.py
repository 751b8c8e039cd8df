"""The door by which rewards come in: a hook, the loader of installed plugins, and the registry they fill.

A plugin is a Python distribution with an entry point in the group `fktext` that leads to a module like this one::

    from fktext.plugins import hookimpl

    @hookimpl
    def fktext_register_rewards(register):
        register("length", "my_package.rewards:length", summary="minus the distance to a length",
                 options={"words": "the length aimed at"})

and, in `my_package/rewards.py`, a factory whose keyword-only parameters are the options::

    def length(context, *, words: int = 20):
        return Length(words)

The factory runs, and its module is imported, when the reward is first used; so a plugin's entry point stays cheap to import.
The built-in rewards come through the same door. One broken plugin never stops the rest: what went wrong with it is kept, shown
by `fktext plugins`, and raised when one of its rewards is asked for.

Two environment variables: `FKTEXT_DISABLE_PLUGINS=a,b` leaves out plugins by distribution, entry point or `distribution:entry
point`; `FKTEXT_STRICT_PLUGINS=1` makes any broken plugin an error.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import os
import re
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pluggy

from fktext.errors import FktextError, PluginError, RewardError, UsageError, unknown_name
from fktext.specs import NAME, Spec, parse_spec

if TYPE_CHECKING:  # these import torch
    from fktext.rewards import Reward, RewardContext, Weighted

GROUP = "fktext"
BUILTIN = "fktext"  # the distribution whose rewards no other can shadow

hookspec = pluggy.HookspecMarker("fktext")
hookimpl = pluggy.HookimplMarker("fktext")

Factory = Callable[..., "Reward"]
Status = Literal["ok", "disabled", "import-error", "invalid", "hook-error", "conflict"]


class Register(Protocol):
    """What a plugin calls once for each reward it brings."""

    def __call__(self, name: str, factory: Factory | str, *, summary: str, options: Mapping[str, str] = ...) -> None:
        """Offer a reward.

        Args:
            name: a letter or digit, then letters, digits, ".", "_", "-".
            factory: `factory(context, *, option: type = default, ...) -> Reward`, or "module:attribute" of one, imported on
                first use. A parameter without a default is an option that must be given.
            summary: one line: what a high value means.
            options: a line of help for each option.
        """


class Hooks:
    """The hooks a plugin may implement. An implementation may leave out arguments it does not need."""

    @hookspec
    def fktext_register_rewards(self, register: Register) -> None:
        """Call `register` for each reward the plugin brings."""


@dataclass(frozen=True)
class Plugin:
    """One entry point of the group `fktext`, and what became of it.

    Attributes:
        distribution, version: who ships it.
        name: the entry point's name.
        status: "ok"; "disabled" by FKTEXT_DISABLE_PLUGINS; "import-error" (its module raised); "invalid" (no hook, a misspelt
            one, wrong arguments); "hook-error" (its hook raised); "conflict" (another distribution has a reward of the same
            name, so that this one answers to `distribution:reward` only).
        error: one line, "" when all is well.
        rewards: what it registered; usable when the status is "ok" or "conflict".
    """

    distribution: str
    version: str
    name: str
    status: Status = "ok"
    error: str = ""
    rewards: tuple[str, ...] = ()
    cause: BaseException | None = field(default=None, repr=False, compare=False)

    @property
    def broken(self) -> bool:
        """Whether its rewards are missing against the user's will."""
        return self.status in ("import-error", "invalid", "hook-error")

    def __str__(self) -> str:
        return f"plugin {self.distribution}:{self.name} is {self.status.replace('-', ' ')}: {self.error}"


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
        """The type as a user reads it: `float`, or `toxic|nontoxic`."""
        kind = typing.get_args(self.type)[0] if typing.get_origin(self.type) is typing.Annotated else self.type
        if typing.get_origin(kind) is Literal:
            return "|".join(map(str, typing.get_args(kind)))
        return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


@dataclass(frozen=True)
class RewardEntry:
    """A registered reward that has not been built yet."""

    name: str
    distribution: str
    factory: Factory | str
    summary: str
    help: Mapping[str, str] = field(default_factory=dict)

    @property
    def qualified(self) -> str:
        """`distribution:name`, which is never ambiguous."""
        return f"{self.distribution}:{self.name}"

    def load(self) -> Factory:
        """The factory itself, imported if it was named by a string.

        Raises:
            PluginError: it cannot be imported, or is not a factory.
        """
        factory: Any = self.factory
        if isinstance(factory, str):
            module, _, attribute = factory.partition(":")
            try:
                factory = getattr(importlib.import_module(module), attribute)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise PluginError(f"reward {self.qualified!r} cannot be imported: {_one_line(error)}") from error
        if not callable(factory):
            raise PluginError(f"reward {self.qualified!r}: {self.factory!r} is not callable")
        return typing.cast(Factory, factory)

    def options(self) -> dict[str, Option]:
        """The options by name, read from the factory's signature.

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
            types = _annotations(factory, rest)
        except Exception as error:
            raise PluginError(f"{wrong}{signature}, whose annotations cannot be read: {_one_line(error)}") from error
        return {item.name: Option(item.name, types[item.name], item.default, self.help.get(item.name, "")) for item in rest}

    def convert(self, given: Mapping[str, str]) -> dict[str, Any]:
        """Options as text -> keyword arguments of the factory.

        Raises:
            UsageError: an unknown option, a required one that is missing, or a value of the wrong type.
            PluginError: see `options`.
        """
        import pydantic

        options = self.options()
        for name in given:
            if name not in options:
                raise unknown_name(f"option of reward {self.name!r}:", name, options)
        if missing := [option for option in options.values() if option.required and option.name not in given]:
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
class Registry:
    """What the installed plugins brought.

    Attributes:
        rewards: every reward under the name to write: its own where that is enough, else `distribution:name`.
        plugins: every plugin found, working or not.
    """

    rewards: Mapping[str, RewardEntry]
    plugins: tuple[Plugin, ...]

    def problems(self) -> list[str]:
        """A line for each plugin that is broken or in conflict."""
        return [str(plugin) for plugin in self.plugins if plugin.broken or plugin.status == "conflict"]

    def resolve(self, name: str) -> RewardEntry:
        """The reward of that name, bare or as `distribution:name`.

        Raises:
            UsageError: unknown, or brought by several distributions.
            PluginError: it belongs to a plugin that is broken or disabled.
        """
        distribution, _, reward = name.rpartition(":")
        found = [
            entry
            for entry in self.rewards.values()
            if entry.name == reward and _normal(distribution) in ("", _normal(entry.distribution))
        ]
        if not distribution:  # a built-in reward is never shadowed
            found = [entry for entry in found if entry.distribution == BUILTIN] or found
        if len(found) == 1:
            return found[0]
        if found:
            choices = " or ".join(entry.qualified for entry in found)
            raise UsageError(f"reward {name!r} comes from several distributions: write {choices}")
        absent = [plugin for plugin in self.plugins if plugin.broken or plugin.status == "disabled"]
        for plugin in absent:
            own = _normal(plugin.distribution) == _normal(distribution)
            if own or (not distribution and (plugin.name == reward or reward in plugin.rewards)):
                raise PluginError(f"reward {name!r} is not available: {plugin}") from plugin.cause
        error = unknown_name("reward", name, self.rewards)
        if broken := [plugin for plugin in absent if plugin.broken]:
            raise UsageError(f"{error}. Broken, so not counted: {'; '.join(map(str, broken))}")
        raise error

    def parse(self, text: str) -> Spec:
        """`NAME[:option=value,...][=weight]` -> Spec; grammar in `fktext.specs`."""
        distributions = {_normal(plugin.distribution) for plugin in self.plugins}
        rewards = {entry.name for entry in self.rewards.values()}
        return parse_spec(text, lambda name: _normal(name) in distributions and name not in rewards)

    def create(self, spec: str | Spec, context: RewardContext | None = None) -> Weighted:
        """Build a reward.

        Args:
            spec: `NAME[:option=value,...][=weight]`, such as `toxicity:target=nontoxic=2`; see `fktext.specs`.
            context: device, batch size and the like.

        Returns:
            The reward with its weight, under the name `NAME[:option=value,...]`.

        Raises:
            UsageError: the spec cannot be read, or names an unknown reward or option, or a value has the wrong type.
            PluginError: the plugin is broken.
            RewardError: the factory raised.
        """
        from fktext.rewards import Reward, RewardContext, Weighted

        spec = self.parse(spec) if isinstance(spec, str) else spec
        entry = self.resolve(spec.name)
        values = entry.convert(dict(spec.options))
        try:
            reward = entry.load()(context or RewardContext(), **values)
        except FktextError:
            raise
        except Exception as error:
            raise RewardError(f"reward {spec.label!r} cannot be built: {_one_line(error)}") from error
        if not isinstance(reward, Reward):
            raise PluginError(f"reward {entry.qualified!r}: its factory returned {type(reward).__name__}, which has no score()")
        return Weighted(spec.label, reward, spec.weight)


def load_plugins() -> Registry:
    """Find the installed plugins and let each register its rewards; a broken one is recorded, not raised.

    Raises:
        PluginError: a plugin is broken or in conflict and FKTEXT_STRICT_PLUGINS is set.
    """
    disabled = {item.strip() for item in os.environ.get("FKTEXT_DISABLE_PLUGINS", "").split(",")} - {""}
    strict = os.environ.get("FKTEXT_STRICT_PLUGINS", "0") not in ("", "0")
    plugins: list[Plugin] = []
    entries: list[RewardEntry] = []
    for plugin, point in _installed():
        if disabled & {plugin.name, plugin.distribution, _normal(plugin.distribution), f"{plugin.distribution}:{plugin.name}"}:
            plugins.append(replace(plugin, status="disabled", error="FKTEXT_DISABLE_PLUGINS names it"))
        elif point is None:
            plugins.append(plugin)
        else:
            loaded, brought = _load(plugin, point, {entry.name for entry in entries if entry.distribution == plugin.distribution})
            plugins.append(loaded)
            entries.extend(brought)
    registry = _registry(plugins, entries)
    for plugin in registry.plugins:
        if strict and (plugin.broken or plugin.status == "conflict"):
            raise PluginError(f"{plugin} (FKTEXT_STRICT_PLUGINS is set)") from plugin.cause
    return registry


def _installed() -> Iterator[tuple[Plugin, importlib.metadata.EntryPoint | None]]:
    """The entry points of the group, sorted by distribution and name; None for one that cannot be read."""
    found: dict[str, list[tuple[Plugin, importlib.metadata.EntryPoint | None]]] = {}
    for distribution in importlib.metadata.distributions():
        # One unreadable entry_points.txt of a stranger must not hide every plugin, as entry_points() would let it.
        text = distribution.read_text("entry_points.txt") or ""
        name = distribution.metadata["Name"] if f"[{GROUP}]" in text else None
        if not name or _normal(name) in found:
            continue
        if importlib.metadata.distribution(name).read_text("entry_points.txt") != text:
            continue  # another version of it comes first on sys.path
        version = distribution.metadata["Version"] or "unknown"
        try:
            points = sorted(distribution.entry_points.select(group=GROUP), key=lambda point: point.name)
            found[_normal(name)] = [(Plugin(name, version, point.name), point) for point in points]
        except Exception as error:
            broken = Plugin(name, version, "?", "invalid", f"entry_points.txt cannot be read: {_one_line(error)}", cause=error)
            found[_normal(name)] = [(broken, None)]
    for name in sorted(found):
        yield from found[name]


def _load(plugin: Plugin, point: importlib.metadata.EntryPoint, taken: set[str]) -> tuple[Plugin, list[RewardEntry]]:
    """Import one plugin and call its hook, alone, so that whatever goes wrong is its own."""
    entries: list[RewardEntry] = []

    def register(name: str, factory: Factory | str, *, summary: str, options: Mapping[str, str] = MappingProxyType({})) -> None:
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            raise ValueError(f"reward name {name!r}: expected a letter or digit, then letters, digits, '.', '_', '-'")
        if name in taken or name in {entry.name for entry in entries}:
            raise ValueError(f"reward {name!r} is registered twice by {plugin.distribution}")
        if not (callable(factory) or (isinstance(factory, str) and re.fullmatch(r"[\w.]+:\w+", factory))):
            raise TypeError(f"reward {name!r} has factory {factory!r}: expected a callable or 'module:attribute'")
        entries.append(RewardEntry(name, plugin.distribution, factory, summary, dict(options)))

    def failed(status: Status, error: BaseException | str) -> tuple[Plugin, list[RewardEntry]]:
        text, cause = (_one_line(error), error) if isinstance(error, BaseException) else (error, None)
        rewards = tuple(entry.name for entry in entries)
        return replace(plugin, status=status, error=text, rewards=rewards, cause=cause), []

    manager = pluggy.PluginManager("fktext")
    manager.add_hookspecs(Hooks)
    try:
        module = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a plugin may not end the program
        return failed("import-error", error)
    try:
        manager.register(module)
        hooks = {hook.name for hook in manager.get_hookcallers(module) or ()}
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return failed("invalid", error)
    known = {name for name in vars(Hooks) if name.startswith("fktext_")}
    marked = {name for name in dir(module) if name.startswith("fktext_") and inspect.isroutine(getattr(module, name, None))}
    if strangers := sorted((hooks | marked) - known):
        return failed("invalid", str(unknown_name("hook", strangers[0], known)))
    if unmarked := sorted(marked - hooks):
        return failed("invalid", f"{unmarked[0]} lacks @fktext.plugins.hookimpl")
    if not hooks:
        return failed("invalid", f"it has no hook; expected {' or '.join(sorted(known))}")
    try:
        manager.hook.fktext_register_rewards(register=register)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return failed("hook-error", error)
    return replace(plugin, rewards=tuple(entry.name for entry in entries)), entries


def _registry(plugins: Sequence[Plugin], entries: Sequence[RewardEntry]) -> Registry:
    """Give each reward the name it answers to, and mark the plugins whose rewards lost theirs."""
    count = Counter(entry.name for entry in entries)
    rewards = {
        entry.name if entry.distribution == BUILTIN or count[entry.name] == 1 else entry.qualified: entry
        for entry in sorted(entries, key=lambda entry: (entry.name, entry.distribution != BUILTIN, entry.distribution))
    }
    qualified = {entry.qualified for name, entry in rewards.items() if name != entry.name}
    checked = []
    for plugin in plugins:
        lost = [name for name in plugin.rewards if f"{plugin.distribution}:{name}" in qualified] if plugin.status == "ok" else []
        if lost:
            others = sorted({entry.distribution for entry in entries if entry.name in lost} - {plugin.distribution})
            error = f"{', '.join(others)} also has {', '.join(lost)}; write {plugin.distribution}:{lost[0]}"
            plugin = replace(plugin, status="conflict", error=error)
        checked.append(plugin)
    return Registry(MappingProxyType(rewards), tuple(checked))


def _annotations(factory: Any, parameters: Sequence[inspect.Parameter]) -> dict[str, Any]:
    """The types of the options alone; those of `context` and the result may be names that only a type checker imports."""
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


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # pluggy says what is wrong on its last line, everyone else on the first
    text = lines[-1 if isinstance(error, pluggy.PluginValidationError) else 0] if lines else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
