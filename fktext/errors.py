"""Errors that a user can meet say in one clear line what came, what was expected, where, and what to do."""

from __future__ import annotations

import difflib
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

# packages that call what others wrote, or import it for us
_CALLERS = ("fktext", "fktext_cli", "fktext_evals", "fktext_plugins", "importlib", "pluggy")


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


def one_line(error: object, most: int | None = 300) -> str:
    """Return what an error says in one line, cut to what a message has room for.

    Example:
        >>> one_line(ValueError("first\\n  second"))
        'first second'
    """
    return " ".join(str(error).split())[:most]


def explain(error: BaseException) -> str:
    """Say in one line what other people's code raised, and in which line of theirs, `FILE:LINE`, where that can be told.

    Example:
        >>> explain(KeyError("lake"))
        "KeyError: 'lake'"
    """
    text = one_line(error.msg if isinstance(error, SyntaxError) else error)  # which would also say where
    place = raised_at(error)
    return f"{type(error).__name__}{': ' * bool(text)}{text}{f' ({place})' * bool(place)}"


def raised_at(error: BaseException) -> str:
    """Return `FILE:LINE` of where an error was raised: the innermost line in the folder of the first code that is not fktext's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_from_here(Path(error.filename))}:{error.lineno}"
    files = [getattr(sys.modules.get(name), "__file__", None) for name in _CALLERS]
    ours = {Path(file).parent for file in files if file}
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    theirs = [(file, line) for file, line in frames if not (ours & {*file.parents} or file.name.startswith("<frozen "))]
    inside = [f"{_from_here(file)}:{line}" for file, line in theirs if file.parent == theirs[0][0].parent]
    return inside[-1] if inside else ""


def _from_here(file: Path) -> Path:
    """Return a path as it is read from the current directory, if it is below that."""
    return file.relative_to(here) if file.is_relative_to(here := Path.cwd()) else file


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
