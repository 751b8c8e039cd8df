"""Find the models that come as files in an installed distribution, such as `fktext-weights`.

A distribution names a package in the entry-point group `fktext.weights`; the package's `models.toml` has a table for each folder
beside it:

    [tiny-mdlm]
    kind = "text"                # or "pipeline" (of diffusers), "judge" (a reward's), "value" (`fktext.values`)
    family = "mlm"               # of a text model, where its files do not tell
    licence = "CC-BY-SA-4.0"
    summary = "one line"

None of the package's code is run.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from fktext.errors import ModelError, one_line, unknown_name

OWN = "fktext-weights"  # the distribution whose names no other can take
Kind = Literal["text", "pipeline", "judge", "value"]


class Entry(BaseModel):
    """A folder with a model.

    Attributes:
        kind: what it is for.
        summary: one line.
        family: of a text model; "" to tell it from the files.
        licence: of the weights.
        folder, distribution: where it is and who ships it; not in `models.toml`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Kind
    summary: str
    family: str = ""
    licence: str = "not stated"
    folder: Path = Path()
    distribution: str = ""


_TABLES = TypeAdapter(dict[str, Entry])


@cache
def found() -> tuple[Mapping[str, Entry], tuple[str, ...]]:
    """Read what is installed.

    Returns:
        Each model by name; and a line for each package that cannot be read, and for each name that another package has, which is
        then not counted: fktext's own come first, then in the order of the distributions' names.
    """
    models: dict[str, Entry] = {}
    problems: list[str] = []
    points = sorted(entry_points(group="fktext.weights"), key=lambda point: (_owner(point) != OWN, _owner(point), point.name))
    for point in points:
        try:
            entries = _read(point)
        except (OSError, ValueError, ImportError) as error:  # TOML's, Unicode's and pydantic's errors are ValueErrors
            problems.append(f"weights of {_owner(point)} cannot be read: {_line(error)}")
            continue
        for name, entry in entries.items():
            if name in models:
                problems.append(f"weights of {_owner(point)} have {name}, which is {models[name].distribution}'s")
            else:
                models[name] = entry
    return models, tuple(problems)


def names(kind: Kind | None = None) -> tuple[str, ...]:
    """List the models, sorted; of one kind or all."""
    return tuple(sorted(name for name, entry in found()[0].items() if kind in (None, entry.kind)))


def path(name: str) -> Path:
    """Return the folder of a model.

    Raises:
        UsageError: there is none of that name.
        ModelError: no weights are installed.
    """
    models, problems = found()
    if name in models:
        return models[name].folder
    if not any(entry.distribution == OWN for entry in models.values()):
        why = f" ({'; '.join(problems)})" if problems else ""
        raise ModelError(f"model {name!r} comes with the distribution {OWN}, which is not installed{why}")
    raise unknown_name("embedded model", name, sorted(models))


def _read(point: EntryPoint) -> dict[str, Entry]:
    spec = find_spec(point.value)
    places = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    root = next((place for place in places if (place / "models.toml").is_file()), None)
    if root is None:
        raise OSError(f"package {point.value} has no models.toml in a folder")
    tables = tomllib.loads((root / "models.toml").read_text(encoding="utf-8"))
    entries = _TABLES.validate_python(tables)
    for name, entry in entries.items():
        if entry.folder != Path() or entry.distribution:
            raise ValueError(f"{name} says where it is: leave out folder and distribution")
        if not (root / name).is_dir():
            raise OSError(f"{root} has no folder {name}")
    return {
        name: entry.model_copy(update={"folder": root / name, "distribution": _owner(point)}) for name, entry in entries.items()
    }


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist else ""


def _line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"models.toml has {'.'.join(map(str, first['loc']))}: {first['msg']}"
    return one_line(error, None)
