"""Tables of a suite's file as pydantic models, strict, and the first mistake in one as one line."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import pydantic

from fktext.errors import UsageError, shorten, unknown_name

STRICT = pydantic.ConfigDict(strict=True, extra="forbid")
Model = TypeVar("Model")


class Table(pydantic.BaseModel):
    """A table: no key but these, no value of another type."""

    model_config = STRICT

    def given(self, *without: str) -> dict[str, Any]:
        """Return what stands in the file, by key."""
        return self.model_dump(exclude_unset=True, by_alias=True, exclude=set(without))


def checked(model: Callable[..., Model], table: Mapping[str, Any], where: str) -> Model:
    """Make a model of a table.

    Args:
        model: a `Table`, or a dataclass of pydantic's; its fields are no models themselves.
        table: what TOML gives.
        where: begins messages, such as "mine.toml [[judges]] 1".

    Raises:
        UsageError: an unknown key, with the nearest one; a value of the wrong type; a missing key; what the model itself refuses.
    """
    kinds: dict[str, Any] = {item.alias or name: item.annotation for name, item in vars(model)["__pydantic_fields__"].items()}
    try:
        return model(**table)
    except UsageError as error:  # the model's own
        raise UsageError(f"{where}: {error}") from error
    except pydantic.ValidationError as error:
        if unknown := [key for key in table if key not in kinds]:
            raise unknown_name(f"key of {where}:", unknown[0], kinds) from None
        keys = [str(item["loc"][0]) for item in error.errors()]
        if wrong := [key for key in keys if key in table]:
            found, expected = shorten(repr(table[wrong[0]]), 60), _expected(kinds[wrong[0]])
            raise UsageError(f"{where}: {wrong[0]} is {found}; expected {expected}") from None
        raise UsageError(f"{where}: {keys[0]} is missing") from None


def _expected(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    text = kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
    return text.replace(" | None", "").replace("dict[str, typing.Any]", "table").replace(" | ", " or ")
