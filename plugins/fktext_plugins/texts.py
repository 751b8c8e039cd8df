"""Rewards that need no model: `keywords`, `length`, `regex`, and `function` for your own function.

None of the first three is a log-probability: with the default `--lambda 10` a text with one word missing weighs exp(-10) as much as
a text with none. With an infinite penalty each is a hard constraint: a text that breaks it has weight zero.
"""

from __future__ import annotations

import importlib.util
import math
import re
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from fktext.errors import RewardError, UsageError, explain

if TYPE_CHECKING:  # these import torch
    from torch import Tensor

    from fktext.rewards import RewardContext

Penalty = Annotated[float, Field(gt=0)]  # inf makes a constraint of it
Words = Annotated[int, Field(ge=0)]
_NAME = r"[^\W\d]\w*"  # of Python


class _Scored:
    """Score texts one at a time, by a function."""

    def __init__(self, goal: str, value: Callable[[str], float]) -> None:
        self.goal, self.value = goal, value

    def score(self, samples: Sequence[str]) -> list[float]:
        """Return a value per sample."""
        return [self.value(text) for text in samples]


def keywords(
    context: RewardContext, *, words: str = "", avoid: str = "", need: Literal["each", "any"] = "each", penalty: Penalty = 1.0
) -> _Scored:
    """Make the reward `keywords`: minus a penalty for each wanted word that is missing and each unwanted one that is there.

    A word counts where it stands alone (next to it no letter, digit or underscore), in upper or lower case.

    Args:
        context: not needed.
        words: the wanted words, separated by spaces or commas.
        avoid: the unwanted ones, likewise.
        need: each of the wanted words; or any, where one of them is enough, and all of them missing costs one penalty.
        penalty: with inf a text that lacks a word, or has one that it should not, has weight zero.

    Raises:
        UsageError: no word at all, or one that is both wanted and unwanted, or nothing of which `any` could be.
    """
    wanted, unwanted = (list(dict.fromkeys(text.lower().replace(",", " ").split())) for text in (words, avoid))
    if not wanted + unwanted:
        raise UsageError("reward 'keywords' needs words or avoid: write keywords:words=\"sun sea\"")
    if both := sorted(set(wanted) & set(unwanted)):
        raise UsageError(f"reward 'keywords' has {both[0]!r} both in words and in avoid")
    if need == "any" and not wanted:
        raise UsageError("reward 'keywords' has need=any and no words: write keywords:words=\"sun sea\",need=any")
    here, away = ([re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE) for word in group] for group in (wanted, unwanted))

    def value(text: str) -> float:
        missing = sum(not word.search(text) for word in here)
        if need == "any":
            missing = int(missing == len(here))
        return _cost(penalty, missing + sum(bool(word.search(text)) for word in away))

    listed = f"any of the words {', '.join(wanted)}" if need == "any" else f"the words {', '.join(wanted)}"
    goals = [f"towards {listed}"] * bool(wanted) + [f"away from {', '.join(unwanted)}"] * bool(unwanted)
    return _Scored(" and ".join(goals), value)


def length(
    context: RewardContext,
    *,
    words: Words | None = None,
    min: Words | None = None,
    max: Words | None = None,
    penalty: Penalty | None = None,
) -> _Scored:
    """Make the reward `length`: minus a penalty for each word of distance to the length aimed at, or to the nearest allowed.

    A word is what stands between white space.

    Args:
        context: not needed.
        words: the length aimed at.
        min, max: the lengths allowed; one of them may be left out.
        penalty: by default 1 with `words`; infinite with `min` or `max`, so that a text of another length has weight zero.

    Raises:
        UsageError: no length at all, `words` and a window, or a window without a length in it.
    """
    if (words is None) == (min is None and max is None):
        raise UsageError("reward 'length' needs either words or min and max: write length:words=12 or length:min=5,max=9")
    low, high = (words, words) if words is not None else (min or 0, max)
    if high is not None and low > high:
        raise UsageError(f"reward 'length' has min={low} and max={high}: no text is that long")
    each = penalty or (math.inf if words is None else 1.0)

    def value(text: str) -> float:
        count = len(text.split())
        return _cost(each, low - count if count < low else count - high if high is not None and count > high else 0)

    aim = f"{low} words" if low == high else f"{low} words or more" if high is None else f"{low} to {high} words"
    return _Scored(f"towards {aim}", value)


def regex(context: RewardContext, *, pattern: str, penalty: Penalty = math.inf) -> _Scored:
    r"""Make the reward `regex`: 0 where a pattern is found, else minus a penalty.

    Args:
        context: not needed.
        pattern: a regular expression of Python, found anywhere (`\A` and `\Z` tie it to the ends).
        penalty: by default infinite: a text without the pattern has weight zero.

    Raises:
        UsageError: no regular expression, or one that is too large or too deep for Python.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(
            f"reward 'regex' option 'pattern' came as {shortened(repr(pattern))}, no regular expression: {error}"
        ) from error
    return _Scored(f"towards a match of {pattern!r}", lambda text: 0.0 if compiled.search(text) else -penalty)


def _cost(penalty: float, times: int) -> float:
    """Return minus so many penalties; none cost 0, even where one is infinite."""
    return -penalty * times if times else 0.0


def shortened(text: str) -> str:
    """Return the beginning of what was given, on one line, for a message."""
    line = " ".join(text.split())
    return line if len(line) <= 120 else f"{line[:120]}..."


class Function:
    """Score texts by your own function.

    Args:
        target: "module:name" or "FILE.py:name".
        function: texts -> a value per text.
        file: where its source is, None where it has none.
    """

    def __init__(self, target: str, function: Callable[[list[str]], Tensor | Sequence[float]], file: Path | None = None) -> None:
        self.model, self.function, self.file = target, function, file
        self.goal = f"larger {target}"

    @property
    def digest(self) -> str | None:
        """First 16 hex digits of the sha256 over its file."""
        from fktext.files.weights import digest

        return digest([self.file]) if self.file and self.file.is_file() else None

    def score(self, samples: Sequence[str]) -> Tensor | Sequence[float]:
        """Return what the function returns; it is never asked about no texts."""
        return self.function(list(samples)) if samples else []


def function(context: RewardContext, *, target: str) -> Function:
    """Make a reward of a Python function that takes a list of texts (`fktext.Text`, a str with a `prompt`): a value for each.

    Args:
        context: not needed.
        target: `module.path:callable`, where the current directory counts after everything installed; or `FILE.py:callable`.

    Raises:
        UsageError: it is written otherwise, or there is no such module, file or callable.
        RewardError: the module raised when it was imported.
    """
    name, _, attributes = target.rpartition(":")
    module_like = name.endswith(".py") or re.fullmatch(rf"{_NAME}(\.{_NAME})*", name)
    if not module_like or not re.fullmatch(rf"{_NAME}(\.{_NAME})*", attributes):
        raise UsageError(f"reward 'function' option 'target' came as {target!r}; expected module.path:callable or FILE.py:callable")
    module = found = _module(name)
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            where = getattr(module, "__file__", None) or "built in"
            raise UsageError(f"reward 'function': module {name!r} ({where}) has no {attributes!r}")
        found = getattr(found, attribute)
    if not callable(found):
        raise UsageError(f"reward 'function': {target!r} is {type(found).__name__}, which cannot be called")
    file = getattr(module, "__file__", None)
    return Function(target, found, Path(file) if file else None)


def _module(name: str) -> Any:
    """Import a module by its name, or from a file that ends in .py."""
    folder = Path.cwd()
    if name.endswith(".py"):
        file = Path(name).expanduser()
        if not file.is_file():
            raise UsageError(f"reward 'function': there is no file {name!r} (seen from {folder})")
        folder = file.resolve().parent
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last, so that no file here takes the place of an installed module
        importlib.invalidate_caches()
    try:
        return _run(file.resolve()) if name.endswith(".py") else importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a script without a main guard
        if isinstance(error, ModuleNotFoundError) and (name + ".").startswith(f"{error.name}."):
            raise UsageError(f"reward 'function': there is no module {error.name!r} here or installed") from error
        raise RewardError(f"reward 'function': importing {name!r} raised {explain(error)}") from error


def _run(file: Path) -> ModuleType:
    """Import a file under a name that no other module has, whatever the file is called."""
    name = f"fktext_function_{file.stem}_{zlib.crc32(bytes(file)):08x}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None  # its name ends in .py
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
