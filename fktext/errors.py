"""Errors that a user can meet say in one clear line what came, what was expected, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FktextError(Exception):
    """A failure with a message fit to print; `exit_code` is what the command line returns for it."""

    exit_code = 1


class UsageError(FktextError):
    """The request itself is wrong: an unknown name, a bad option, an unreadable prompts file."""

    exit_code = 2


class ModelError(FktextError):
    """A model cannot be found or loaded, or its files contradict each other."""


class RewardError(FktextError):
    """A reward raised, or returned a value that is neither finite nor -inf."""


class PluginError(FktextError):
    """A plugin that is needed is broken."""


class PopulationError(FktextError):
    """A population has no text to return, all of weight zero, or one of infinite weight; `population` is its index in the batch."""

    def __init__(self, population: int, message: str) -> None:
        super().__init__(message)
        self.population, self.message = population, message


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, "" where it says nothing."""
    return (str(error).strip().splitlines() or [""])[0]


def one_line(error: BaseException, most: int | None = 300) -> str:
    """Return what an error says in one line, cut to what a message has room for.

    Example:
        >>> one_line(ValueError("first\\n  second"))
        'first second'
    """
    return " ".join(str(error).split())[:most]


def shorten(text: str, most: int = 40) -> str:
    """Cut a text to what a message has room for; dots say that it goes on.

    Example:
        >>> shorten("a long story", 6)
        'a long...'
    """
    return text if len(text) <= most else f"{text[:most]}..."


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Make the error for a name nobody registered, with the nearest known names.

    Example:
        >>> print(unknown_name("reward", "toxicty", ["toxicity", "cola"]))
        unknown reward 'toxicty': did you mean 'toxicity'? Known: cola, toxicity
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}: {hint}Known: {', '.join(names) or 'none'}")
