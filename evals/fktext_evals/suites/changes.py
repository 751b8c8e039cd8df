"""Change keys of a suite without a file of one's own: `lam=2`, `samples=1`, `methods.fk.particles=[4, 8]`.

A key is one of a suite's file (`samples`, `model`), one of its table [settings] (`lam`, also written `settings.lam`), or one of a
method or a judge by name (`methods.fk.lam`, `judges.held-out.threshold`). What a method says itself stays as it is when [settings]
is changed.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fktext.errors import UsageError, unknown_name
from fktext_evals.suites.suite import KEYS, METHOD_KEYS, SETTING_KEYS

_LISTS = ("rewards", "seeds")  # one of which needs no brackets


def read_changes(texts: Iterable[str]) -> dict[str, Any]:
    """Read changes as a command line has them, `key=value` each. A value is what TOML reads, else a text.

    Raises:
        UsageError: it is not of this form, or a key is there twice.

    Example:
        >>> read_changes(["lam=2", "kernel=remdm-cap", "seeds=[0, 1]"])
        {'lam': 2, 'kernel': 'remdm-cap', 'seeds': [0, 1]}
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not key or not equals:
            raise UsageError(f"cannot read {text!r}; expected KEY=VALUE, such as lam=2")
        if key in found:
            raise UsageError(f"{key!r} is set twice")
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    return found


def changed(table: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the table of a suite with some keys changed. Types and bounds are checked when the table is parsed.

    Args:
        table: see `fktext_evals.suites.suite.parse`.
        changes: values by key; the name of a prompts file is relative to the working directory.
        where: begins messages.

    Raises:
        UsageError: an unknown key, method or judge, or a setting that every method has a value of its own for.
    """
    found = copy.deepcopy(dict(table))
    for key, value in changes.items():
        top, _, rest = key.partition(".")
        if top in ("methods", "judges"):
            _set_in_items(found, top, rest, value, where)
        elif top in ("settings", "pipeline"):
            _set_in_table(found, top, rest, value, where)
        elif key in SETTING_KEYS:
            _set_in_table(found, "settings", key, value, where)
        elif key in METHOD_KEYS and key not in KEYS:
            raise UsageError(f"{where}: {key!r} is each method's own: write methods.NAME.{key}")
        elif key in KEYS:
            found[key] = _listed(key, value)
        else:
            raise unknown_name(f"key of {where}:", key, [*KEYS, *SETTING_KEYS, "methods.NAME.KEY", "judges.NAME.KEY"])
    return found


def _listed(key: str, value: Any) -> Any:
    """Return a value of a key of the file itself as the file would have it."""
    if key == "prompts" and isinstance(value, str):
        return str(Path(value).expanduser().absolute())
    return [value] if key in _LISTS and not isinstance(value, list) else value


def _set_in_table(table: dict[str, Any], name: str, key: str, value: Any, where: str) -> None:
    """Set a key of [settings] or [pipeline]."""
    if not key:
        raise UsageError(f"{where}: expected {name}.KEY, got {name}")
    if name == "settings" and (methods := _items(table, "methods")) and all(key in item for item in methods):
        raise UsageError(f"{where}: every method has its own {key}: write methods.NAME.{key}")
    below = table.setdefault(name, {})
    if isinstance(below, dict):  # if not, parsing says so
        below[key] = value


def _set_in_items(table: dict[str, Any], kind: str, rest: str, value: Any, where: str) -> None:
    """Set a key of all methods, or judges, of one name."""
    name, _, key = rest.rpartition(".")
    if not name:
        raise UsageError(f"{where}: expected {kind}.NAME.KEY, got {kind}{'.' * bool(rest)}{rest}")
    items = _items(table, kind)
    if not (found := [item for item in items if item.get("name") == name]):
        raise unknown_name(f"{kind.removesuffix('s')} of {where}:", name, {str(item.get("name")) for item in items})
    for item in found:
        item[key] = value


def _items(table: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return the tables of methods, or of judges, as far as they are tables."""
    found = table.get(kind)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
