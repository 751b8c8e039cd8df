"""Models that plugins bring: what one registers, and how it becomes a `fktext.texts.model.TextModel`.

    @hookimpl
    def fktext_register_models(register):
        register("haiku", source="someone/haiku-mdlm", summary="MDLM trained on haiku", licence="MIT")
        register("toy", factory="my_package.toy:create", family="toy", summary="three words, no files")

The first is an alias: fktext finds the files (a folder, or a hub id) and runs them as it runs its own. The second brings a network
of its own: `create(context)` returns a `TextModel`.
"""

from __future__ import annotations

import importlib
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fktext.errors import FktextError, ModelError, PluginError, one_line
from fktext.families import FAMILIES
from fktext.plugins.specs import NAME

if TYPE_CHECKING:  # imports torch
    from fktext.texts.model import TextModel


@dataclass(frozen=True)
class ModelContext:
    """Tell a model's factory what it may want to know.

    Attributes:
        name: as the user gave it; that of the `TextModel`.
        device: where to put the model, such as "cpu" or "cuda:0".
        dtype: of its weights, one of `fktext.models.DTYPES`.
        offline: when true, touch no network.
        length: the default length wished for, or None.
    """

    name: str
    device: str = "cpu"
    dtype: str = "float32"
    offline: bool = False
    length: int | None = None


ModelFactory = Callable[[ModelContext], "TextModel"]


class RegisterModel(Protocol):
    """Take a model; a plugin calls it once for each that it brings."""

    def __call__(
        self,
        name: str,
        *,
        summary: str,
        source: str = "",
        factory: ModelFactory | str | None = None,
        family: str = "",
        licence: str = "not stated",
    ) -> None:
        """Offer a model: either a source or a factory.

        Args:
            name: a letter or digit, then letters, digits, ".", "_", "-".
            summary: one line.
            source: a folder or a hub id in a format that fktext reads.
            factory: `factory(context: ModelContext) -> TextModel`, or "module:attribute" of one, imported on first use.
            family: of a source a name in `fktext.families.FAMILIES`, "" to tell it from the files; of a factory any.
            licence: of the weights.
        """


@dataclass(frozen=True)
class ModelEntry:
    """A registered model that has not been loaded yet; its attributes are those of `RegisterModel`."""

    name: str
    distribution: str
    summary: str
    source: str = ""
    factory: ModelFactory | str | None = None
    family: str = ""
    licence: str = "not stated"

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and NAME.fullmatch(self.name)):
            raise ValueError(f"model name {self.name!r}: expected a letter or digit, then letters, digits, '.', '_', '-'")
        if bool(self.source) == (self.factory is not None):
            raise ValueError(f"model {self.name!r}: expected a source (folder or hub id) or a factory, and not both")
        if not isinstance(self.source, str):
            raise TypeError(f"model {self.name!r} has source {self.source!r}: expected a string")
        path = isinstance(self.factory, str) and re.fullmatch(r"[\w.]+:\w+", self.factory)
        if self.factory is not None and not (callable(self.factory) or path):
            raise TypeError(f"model {self.name!r} has factory {self.factory!r}: expected a callable or 'module:attribute'")
        if self.source and self.family not in ("", *FAMILIES):
            raise ValueError(f"model {self.name!r} has family {self.family!r}: expected one of {', '.join(FAMILIES)}, or none")

    @property
    def qualified(self) -> str:
        """`distribution:name`, which is never ambiguous."""
        return f"{self.distribution}:{self.name}"

    def create(self, context: ModelContext) -> TextModel:
        """Make the model, by its factory.

        Raises:
            PluginError: the factory cannot be imported, or returns something else.
            ModelError: the factory raised.
        """
        from fktext.texts.model import TextModel

        factory = imported(self.factory, f"model {self.qualified!r}")
        try:
            model = typing.cast(ModelFactory, factory)(context)
        except (FktextError, KeyboardInterrupt):
            raise
        except BaseException as error:  # SystemExit too: a plugin must not end the program
            raise ModelError(f"model {self.qualified!r} cannot be built: {_line(error)}") from error
        if not isinstance(model, TextModel):
            raise PluginError(f"model {self.qualified!r}: its factory returned {type(model).__name__}, expected a TextModel")
        return model


def imported(factory: Any, what: str) -> Any:
    """Return a factory itself, imported where a plugin named it by a string: "module:attribute".

    Args:
        factory: the string, or anything else, which is returned.
        what: what it makes, for errors, such as "reward 'x'".

    Raises:
        PluginError: it cannot be imported.
    """
    if not isinstance(factory, str):
        return factory
    module, _, attribute = factory.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a plugin must not end the program
        raise PluginError(f"{what} cannot be imported: {_line(error)}") from error


def _line(error: BaseException) -> str:
    text = one_line(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
