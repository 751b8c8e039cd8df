"""The suites there are: those that come with fktext, those of plugins, and files.

A suite may extend another, `extends = "toxicity"`, and takes over what its own file does not say. A key that is there replaces the
other's, lists and all; the tables [settings] and [pipeline] are put together key by key. `name` and `description` are each file's
own. The other is a suite's name or, ending in .toml, a file beside this one; it must be a whole suite itself, and may
extend a third.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fktext.errors import UsageError
from fktext_evals.suites.changes import changed
from fktext_evals.suites.suite import Suite, parse

if TYPE_CHECKING:
    from fktext.plugins.registry import Registry

_FOLDER = resources.files("fktext_evals") / "suites"


def names() -> list[str]:
    """List the suites that come with fktext, sorted."""
    return sorted(item.name.removesuffix(".toml") for item in _FOLDER.iterdir() if item.name.endswith(".toml"))


def source(name: str, registry: Registry | None = None) -> str:
    """Return the TOML text of a suite; see `load`."""
    return _read(_path(name, registry))


def load(
    name: str, registry: Registry | None = None, *, changes: Mapping[str, Any] | None = None, limit: int | None = None
) -> Suite:
    """Read a suite by name, or by the path of a `.toml` file.

    Args:
        name: of an embedded suite, of a plugin's (as `distribution:suite` where several have one of that name), or a path.
        registry: the installed plugins, asked for names that are not embedded; by default they are loaded then.
        changes: values to put in place of the file's, such as `{"lam": 2}`; see `fktext_evals.suites.changes`.
        limit: take the first so many prompts only, all where there are fewer.

    Raises:
        UsageError: an unknown suite, key or value; says where, and which name is near.
    """
    table, folder = _whole(name, registry)
    return parse(changed(table, changes or {}, _where(name)), _where(name), folder).limited(limit)


def summary(name: str, registry: Registry | None = None) -> dict[str, Any]:
    """Return name, description and, where they are in the file itself, number of `texts` of a suite; prompts are not fetched.

    Raises:
        UsageError: see `load`.
    """
    table, folder = _whole(name, registry)
    if isinstance(table.get("prompts"), dict):
        return {"name": name, "description": table.get("description", ""), "texts": None}
    found = parse(table, _where(name), folder)
    return {"name": name, "description": found.description, "texts": found.texts}


def check(suite: Suite, registry: Registry) -> None:
    """Check that a suite's rewards and judges exist and take the options they are given.

    Raises:
        UsageError, PluginError: they do not.
    """
    for text in (*suite.rewards, *(judge.reward for judge in suite.judges)):
        spec = registry.parse(text)
        entry = registry.resolve(spec.name)
        if entry.modality != suite.modality:
            raise UsageError(f"reward {entry.name!r} scores {entry.modality}s, and suite {suite.name!r} is of {suite.modality}s")
        entry.convert(dict(spec.options))


def _whole(name: str, registry: Registry | None, above: tuple[str, ...] = ()) -> tuple[dict[str, Any], Path]:
    """Return the table of a suite with what it takes over, and the folder of the file that names its prompts."""
    path, where = _path(name, registry), _where(name)
    chain = (*above, os.path.realpath(path))
    if chain[-1] in above:
        raise UsageError(f"it extends itself: {' -> '.join(chain)}")
    table = _table(path)
    folder = path.parent if isinstance(path, Path) else Path()
    if (other := table.pop("extends", None)) is None:
        return table, folder
    if not isinstance(other, str):
        raise UsageError(f"{where}: extends is {other!r}; expected the name of a suite or of a .toml file")
    other = str(folder / Path(other).expanduser()) if other.endswith(".toml") else other
    try:
        below, beneath = _whole(other, registry, chain)
        parse({**below, "prompts": ["-"]}, _where(other))  # so that its mistakes are said of it
    except UsageError as error:
        raise UsageError(f"{where}, which extends {other!r}: {error}") from error
    for name in ("settings", "pipeline"):
        if isinstance(own := table.get(name, {}), dict) and name in below:
            table[name] = {**below[name], **own}
    kept = {key: value for key, value in below.items() if key not in ("name", "description")}
    return {**kept, **table}, folder if "prompts" in table else beneath


def _where(name: str) -> str:
    return name if name.endswith(".toml") else f"suite {name}"


def _path(name: str, registry: Registry | None = None) -> Any:
    """Find a suite's file: a path, a resource of this package, or a plugin's file."""
    if name.endswith(".toml"):
        return Path(name).expanduser()
    if name in names():
        return _FOLDER / f"{name}.toml"
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
