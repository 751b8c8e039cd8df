"""Find and load plugins: one that crashes, exits or hangs at import is reported and stops no other."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Protocol, TypeVar

import pluggy

from fktext.errors import PluginError, UsageError, unknown_name
from fktext.files.catalogue import catalogue
from fktext.plugins.brought import Brought
from fktext.plugins.entries import ModelEntry, RegisterModel
from fktext.plugins.parts import RegisterPart
from fktext.plugins.registry import BUILTIN, Factory, Modality, Plugin, Registry, RewardEntry, Status, normal, one_line

GROUP = "fktext"

hookspec = pluggy.HookspecMarker("fktext")
hookimpl = pluggy.HookimplMarker("fktext")

Found = TypeVar("Found")
TIMEOUT = 10.0  # seconds; importing an entry point takes milliseconds, or a few seconds where it imports torch


class Register(Protocol):
    """Take a reward; a plugin calls it once for each that it brings."""

    def __call__(
        self,
        name: str,
        factory: Factory | str,
        *,
        summary: str,
        options: Mapping[str, str] = ...,
        values: str = ...,
        models: Mapping[str, str] = ...,
        modality: Modality = ...,
    ) -> None:
        """Offer a reward.

        Args:
            name: a letter or digit, then letters, digits, ".", "_", "-".
            factory: `factory(context, *, option: type = default, ...) -> Reward`, or "module:attribute" of one, imported on
                first use. A parameter without a default is an option that must be given.
            summary: one line: what a high value means.
            options: a line of help for each option.
            values: their range and unit, such as "at most 0, nats".
            models: of each model it may use, the licence and where it comes from.
            modality: what it scores: "text" (the default), or "image" for samples of `fktext.images.process.Image`.
        """


class Hooks:
    """The hooks a plugin may implement. An implementation may leave out arguments it does not need."""

    @hookspec
    def fktext_register_rewards(self, register: Register) -> None:
        """Call `register` for each reward the plugin brings."""

    @hookspec
    def fktext_register_suites(self, register: Callable[[str | os.PathLike[str]], None]) -> None:
        """Call `register` with the path of each evaluation suite the plugin brings: a TOML file, named by its stem."""

    @hookspec
    def fktext_register_models(self, register: RegisterModel) -> None:
        """Call `register` for each model the plugin brings; see `fktext.plugins.entries`."""

    @hookspec
    def fktext_register_parts(self, register: RegisterPart) -> None:
        """Call `register` for each part of the engine the plugin brings, such as a potential; see `fktext.plugins.parts`."""


def load_plugins() -> Registry:
    """Find the installed plugins and let each register what it brings; a broken one is recorded, not raised.

    Raises:
        PluginError: a plugin is broken or in conflict and FKTEXT_STRICT_PLUGINS is set.
    """
    disabled = {item.strip() for item in os.environ.get("FKTEXT_DISABLE_PLUGINS", "").split(",")} - {""}
    strict = os.environ.get("FKTEXT_STRICT_PLUGINS", "0") not in ("", "0")
    seconds = _seconds()
    plugins: list[Plugin] = []
    everything: list[Brought] = []
    for plugin, point in _installed():
        if disabled & {plugin.name, plugin.distribution, normal(plugin.distribution), f"{plugin.distribution}:{plugin.name}"}:
            plugins.append(replace(plugin, status="disabled", error="FKTEXT_DISABLE_PLUGINS names it"))
        elif point is None:
            plugins.append(plugin)
        else:
            brought = Brought(plugin.distribution, [other for other in everything if other.distribution == plugin.distribution])
            loaded = _within(seconds, partial(_load, plugin, point, brought))
            plugins.append(loaded or _late(plugin, seconds))
            if loaded and loaded.status == "ok":
                everything.append(brought)
    rewards = [entry for brought in everything for entry in brought.rewards]
    models = [entry for brought in everything for entry in brought.models]
    suites = tuple(entry for brought in everything for entry in brought.suites)
    parts = tuple(entry for brought in everything for entry in brought.parts)
    registry = replace(_registry(plugins, rewards, models), suites=suites, parts=parts)
    for plugin in registry.plugins:
        if strict and (plugin.broken or plugin.status == "conflict"):
            raise PluginError(f"{plugin} (FKTEXT_STRICT_PLUGINS is set)") from plugin.cause
    return registry


def _seconds() -> float:
    text = os.environ.get("FKTEXT_PLUGIN_TIMEOUT") or str(TIMEOUT)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"FKTEXT_PLUGIN_TIMEOUT is {text!r}; expected seconds, such as {TIMEOUT:g}")
    return seconds


def _within(seconds: float, call: Callable[[], Found]) -> Found | None:
    """Return what `call` does, or None where that takes too long: it is left in a thread that ends with the program.

    A thread, and not an alarm: a look-up of a host's name ignores signals. An interrupt by the user is raised here, in the main
    thread, so what `call` raises of that name is its own.
    """
    found: list[Found] = []
    thread = threading.Thread(target=lambda: found.append(call()), name="fktext-plugin", daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None


def _late(plugin: Plugin, seconds: float) -> Plugin:
    error = (
        f"it was not imported within {seconds:g} s (does it wait for a network?); FKTEXT_PLUGIN_TIMEOUT=60 gives it longer, "
        f"FKTEXT_DISABLE_PLUGINS={plugin.distribution} leaves it out"
    )
    return replace(plugin, status="timeout", error=error)


def _installed() -> Iterator[tuple[Plugin, importlib.metadata.EntryPoint | None]]:
    """Return the entry points of the group, sorted by distribution and name; None for one that cannot be read."""
    found: dict[str, list[tuple[Plugin, importlib.metadata.EntryPoint | None]]] = {}
    for distribution in importlib.metadata.distributions():
        # One unreadable entry_points.txt of a stranger must not hide every plugin, as entry_points() would let it.
        text = distribution.read_text("entry_points.txt") or ""
        name = distribution.metadata["Name"] if f"[{GROUP}]" in text else None
        if not name or normal(name) in found:
            continue
        if importlib.metadata.distribution(name).read_text("entry_points.txt") != text:
            continue  # another version of it comes first on sys.path
        version = distribution.metadata["Version"] or "unknown"
        try:
            points = sorted(distribution.entry_points.select(group=GROUP), key=lambda point: point.name)
            found[normal(name)] = [(Plugin(name, version, point.name), point) for point in points]
        except Exception as error:
            broken = Plugin(name, version, "?", "invalid", f"entry_points.txt cannot be read: {one_line(error)}", cause=error)
            found[normal(name)] = [(broken, None)]
    for name in sorted(found):
        yield from found[name]


def _load(plugin: Plugin, point: importlib.metadata.EntryPoint, brought: Brought) -> Plugin:
    """Import one plugin and call its hooks, alone, so that whatever goes wrong is its own; `brought` is filled."""

    def failed(status: Status, error: BaseException | str) -> Plugin:
        text, cause = (one_line(error), error) if isinstance(error, BaseException) else (error, None)
        rewards, models = tuple(entry.name for entry in brought.rewards), tuple(entry.name for entry in brought.models)
        return replace(plugin, status=status, error=text, rewards=rewards, models=models, cause=cause)

    manager = pluggy.PluginManager("fktext")
    manager.add_hookspecs(Hooks)
    try:
        module = point.load()
    except BaseException as error:  # SystemExit and KeyboardInterrupt too: a plugin must not end the program
        return failed("import-error", error)
    try:
        manager.register(module)
        hooks = {hook.name for hook in manager.get_hookcallers(module) or ()}
    except BaseException as error:
        return failed("invalid", error)
    if wrong := _wrong_hooks(module, hooks):
        return failed("invalid", wrong)
    try:
        manager.hook.fktext_register_rewards(register=brought.add_reward)
        manager.hook.fktext_register_suites(register=brought.add_suite)
        manager.hook.fktext_register_models(register=brought.add_model)
        manager.hook.fktext_register_parts(register=brought.add_part)
    except BaseException as error:
        return failed("hook-error", error)
    names = [tuple(entry.name for entry in found) for found in (brought.rewards, brought.suites, brought.models, brought.parts)]
    return replace(plugin, rewards=names[0], suites=names[1], models=names[2], parts=names[3], hooks=tuple(sorted(hooks)))


def _wrong_hooks(module: object, hooks: set[str]) -> str:
    """Say what is wrong with the hooks of a plugin, "" where nothing is."""
    known = {name for name in vars(Hooks) if name.startswith("fktext_")}
    marked = {name for name in dir(module) if name.startswith("fktext_") and inspect.isroutine(getattr(module, name, None))}
    if strangers := sorted((hooks | marked) - known):
        return str(unknown_name("hook", strangers[0], known))
    if unmarked := sorted(marked - hooks):
        return f"{unmarked[0]} lacks @fktext.plugins.hookimpl"
    return "" if hooks else f"it has no hook; expected {' or '.join(sorted(known))}"


Entry = TypeVar("Entry", RewardEntry, ModelEntry)


def _registry(plugins: Sequence[Plugin], entries: Sequence[RewardEntry], models: Sequence[ModelEntry]) -> Registry:
    """Give each reward and model the name it answers to, and mark the plugins that lost one."""
    rewards, known = _answering(entries), _answering(models, [entry.name for entry in catalogue()])
    owners: dict[tuple[type, str], set[str]] = {(ModelEntry, entry.name): {BUILTIN} for entry in catalogue()}
    everything: list[RewardEntry | ModelEntry] = [*entries, *models]
    for entry in everything:
        owners.setdefault((type(entry), entry.name), set()).add(entry.distribution)
    answering: list[tuple[str, RewardEntry | ModelEntry]] = [*rewards.items(), *known.items()]
    qualified = {(type(entry), entry.qualified) for name, entry in answering if name != entry.name}
    checked = []
    for plugin in plugins:
        named = [*((RewardEntry, name) for name in plugin.rewards), *((ModelEntry, name) for name in plugin.models)]
        lost = [(kind, name) for kind, name in named if (kind, f"{plugin.distribution}:{name}") in qualified]
        if lost and plugin.status == "ok":
            others = sorted(set().union(*(owners[item] for item in lost)) - {plugin.distribution})
            names = [name for _, name in lost]
            error = f"{', '.join(others)} also has {', '.join(names)}; write {plugin.distribution}:{names[0]}"
            plugin = replace(plugin, status="conflict", error=error)
        checked.append(plugin)
    return Registry(MappingProxyType(rewards), tuple(checked), models=MappingProxyType(known))


def _answering(entries: Sequence[Entry], reserved: Sequence[str] = ()) -> dict[str, Entry]:
    """Return each entry under its own name where that is enough, else as `distribution:name`."""
    count = Counter([*(entry.name for entry in entries), *reserved])
    return {
        entry.name if entry.distribution == BUILTIN or count[entry.name] == 1 else entry.qualified: entry
        for entry in sorted(entries, key=lambda entry: (entry.name, entry.distribution != BUILTIN, entry.distribution))
    }
