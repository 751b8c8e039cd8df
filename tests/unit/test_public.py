"""What is public is written down: a change of it fails until it is accepted on purpose.

To accept: `python tests/unit/test_public.py`, and look at the difference.
"""

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

FILE = Path(__file__).with_name("public.txt")
MODULES = (
    "fktext",
    "fktext.plugins",
    "fktext.rewards",
    "fktext.models",
    "fktext.smc",
    "fktext.batches",
    "fktext.text",
    "fktext.trace",
)


def _members(thing: type) -> Iterator[str]:
    """Fields, and public methods with their parameters."""
    if is_dataclass(thing):
        yield from (f".{item.name}: {item.type}" for item in fields(thing))
    for name, value in sorted(vars(thing).items()):
        if name.startswith("_") or (is_dataclass(thing) and name in {item.name for item in fields(thing)}):
            continue
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if inspect.isfunction(function):
            yield f".{name}{inspect.signature(function)}"
        elif isinstance(function, property):
            yield f".{name}"


def surface() -> Iterator[str]:
    """A line for every public name, its parameters, fields and methods."""
    for module in MODULES:
        for name in sorted(importlib.import_module(module).__all__):
            thing = getattr(importlib.import_module(module), name)
            if inspect.isclass(thing):
                yield f"{module}.{name}"
                yield from (f"    {member}" for member in _members(thing))
            elif callable(thing) and not isinstance(thing, type) and inspect.isfunction(thing):
                yield f"{module}.{name}{inspect.signature(thing)}"
            else:
                yield f"{module}.{name}: {type(thing).__name__}"


def test_the_public_surface_is_what_was_agreed():
    assert FILE.read_text().splitlines() == list(surface())


if __name__ == "__main__":
    FILE.write_text("".join(f"{line}\n" for line in surface()))
