"""Rewards: what they are, how they are combined, and how the engine calls them (each distinct sample once, every value checked).

Rewards add where experts multiply: exp(lambda (a r1 + b r2)) = exp(lambda r1)^a exp(lambda r2)^b. So a product of experts is
written `a * fluent + b * kind` with `Weighted` rewards; the result is a `Sum`, what `fktext.generate.generate` takes.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, overload, runtime_checkable

import torch
from torch import Tensor

from fktext.batches import Batches, out_of_memory
from fktext.errors import RewardError, UsageError
from fktext.smc.ledger import Ledger
from fktext.tokens import Tokens

LONGEST_TRIM = 1_000_000  # words; no text is that long


class Text(str):
    """A generated text: a `str` that also knows the prompt it continues ("" where there is none or it was a template).

    Attributes:
        prompt: what it begins with.
        tokens: those a model wrote it in, None where that is not known.
    """

    prompt: str
    tokens: Tokens | None

    def __new__(cls, text: str, prompt: str = "", tokens: Tokens | None = None) -> Text:
        """A string with its prompt."""
        self = super().__new__(cls, text)
        self.prompt, self.tokens = prompt, tokens
        return self

    @property
    def continuation(self) -> str:
        """The text after its prompt."""
        return self.removeprefix(self.prompt)


@runtime_checkable
class Reward(Protocol):
    """Anything with a `score`. Larger is better; where it is a probability, use its natural logarithm."""

    def score(self, samples: Sequence[Any]) -> Tensor | Sequence[float]:
        """A value per sample: finite or -inf, never NaN; of no sample, no value."""
        ...


@dataclass(frozen=True)
class RewardContext:
    """What a reward factory may want to know about the run.

    Attributes:
        device: where to put models, such as "cpu" or "cuda:0".
        offline: when true, never touch a network.
        batch_size: most samples per forward pass.
    """

    device: str = "cpu"
    offline: bool = False
    batch_size: int = 64


def well_formed(text: str) -> str:
    """The text as any tokenizer takes it: a lone surrogate, which is no character, becomes U+FFFD.

    Example:
        >>> well_formed("a\\ud800") == "a\\ufffd"
        True
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return str(text)


@dataclass(frozen=True)
class Window:
    """Which part of a text a reward sees.

    A generated text ends where the model ended it, so it is one document. "" and white space are texts like any other, scored by
    the reward as it sees fit, unless `empty` says what they are worth.

    Attributes:
        part: "text" for the prompt and what follows it; "continuation" for what follows it, as a text without a prompt.
        trim: only so many words of what follows the prompt, at most LONGEST_TRIM; a word is what stands between white space. None
            for all.
        empty: the value, in place of the reward's own, where nothing but white space is left; finite or -inf, None for its own.
    """

    part: Literal["text", "continuation"] = "text"
    trim: int | None = None
    empty: float | None = None

    def __post_init__(self) -> None:
        if self.trim is not None and not 1 <= self.trim <= LONGEST_TRIM:
            raise UsageError(f"trim came as {self.trim}: expected 1 to {LONGEST_TRIM} words")
        if self.empty is not None and not self.empty < float("inf"):
            raise UsageError(f"empty came as {self.empty}: expected a number or -inf, the value of an empty text")

    def __call__(self, text: str) -> str:
        """What is seen of a text; the text itself where that is all of it."""
        prompt = getattr(text, "prompt", "")
        written = text.removeprefix(prompt)
        if self.trim is not None and (found := re.match(rf"(?:\s*\S+){{{self.trim}}}", written)):
            written = found[0]
        if self.part == "continuation":
            return Text(written) if prompt or written != text else text
        return text if len(prompt) + len(written) == len(text) else Text(prompt + written, prompt)


class Windowed:
    """A reward of a part of each text.

    Args:
        reward: a reward of texts.
        window: the part.
    """

    def __init__(self, reward: Reward, window: Window) -> None:
        self.reward, self.window = reward, window

    @property
    def goal(self) -> str:
        """Which way it steers, on one line."""
        goal = getattr(self.reward, "goal", None) or "larger is better"
        words = "word" if self.window.trim == 1 else f"{self.window.trim} words"
        first = f"the first {words} after the prompt" if self.window.trim else "what follows the prompt"
        if self.window.part == "continuation":
            return f"{goal} (of {first})"
        return f"{goal} (of the prompt and {first})" if self.window.trim else goal

    @property
    def reads_tokens(self) -> bool:
        """Whether its values depend on `Text.tokens`."""
        return getattr(self.reward, "reads_tokens", False)

    @property
    def digest(self) -> str | None:
        """The reward's."""
        return getattr(self.reward, "digest", None)

    def score(self, samples: Sequence[str]) -> Tensor:
        """(M,) float64 values; equal parts are scored once.

        Raises:
            RewardError: the samples are no texts, or the reward returned another number of values.
        """
        if strange := [sample for sample in samples if not isinstance(sample, str)]:
            raise RewardError(f"part, trim and empty are for texts, and a sample is a {type(strange[0]).__name__}")
        seen = [self.window(text) for text in samples]
        asked = {_key(text, self.reads_tokens): text for text in seen if self.window.empty is None or text.strip()}
        values: dict[Hashable, float] = {}
        if asked:
            found = _column(self.reward.score(list(asked.values()))).double().flatten().tolist()
            if len(found) != len(asked):
                raise RewardError(f"{type(self.reward).__name__}.score returned {len(found)} values for {len(asked)} texts")
            values = dict(zip(asked, found, strict=True))
        empty = self.window.empty
        return torch.tensor([values.get(_key(text, self.reads_tokens), empty) for text in seen], dtype=torch.float64)


@dataclass(frozen=True)
class Weighted:
    """One term of the total reward: weight * reward.score(sample). `2 * term`, `term / 2`, `-term`, `term + term` and `-` work.

    Attributes:
        name: under which its values are kept.
        reward: any reward.
        weight: finite, not 0.
        plugin: distribution and version that brought it, "" where it was made by hand.
    """

    name: str
    reward: Reward
    weight: float = 1.0
    plugin: str = ""

    def __post_init__(self) -> None:
        if not (self.weight == self.weight and abs(self.weight) not in (0.0, float("inf"))):
            raise RewardError(f"reward {self.name!r} has weight {self.weight}: a weight must be finite and not zero")

    @property
    def goal(self) -> Any:
        """Which way the reward steers, a line of text; None where it does not say.

        Raises:
            RewardError: its own property raised.
        """
        return self._told(self.reward, "goal")

    def _told(self, reward: Any, name: str) -> Any:
        try:
            return getattr(reward, name, None)
        except (Exception, SystemExit) as error:
            raise RewardError(f"reward {self.name!r}: its {name} raised {type(error).__name__}: {_first_line(error)}") from error

    def provenance(self) -> dict[str, str]:
        """Where its values come from: `plugin`, and of its model, as far as the reward says, `model`, `revision` and `digest`.

        Raises:
            RewardError: one of them is a property that raised.
        """
        reward = self.reward.reward if isinstance(self.reward, Windowed) else self.reward
        told = {name: self._told(reward, name) for name in ("model", "revision", "digest")}
        return {"plugin": self.plugin} | {name: value for name, value in told.items() if isinstance(value, str)}

    def __mul__(self, factor: float) -> Weighted:
        return replace(self, weight=self.weight * factor) if isinstance(factor, int | float) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, factor: float) -> Weighted:
        return self * (1 / factor)

    def __neg__(self) -> Weighted:
        return self * -1

    def __add__(self, other: Weighted | Sum) -> Sum:
        return Sum([self]) + other

    def __radd__(self, other: int) -> Sum:
        return other + Sum([self])

    def __sub__(self, other: Weighted | Sum) -> Sum:
        return self + -other


class Sum(Sequence[Weighted]):
    """A sum of weighted rewards, which is a product of experts; each keeps its name, and its own values in every trace.

    Args:
        terms: the same reward under the same name may come twice: its weights are added.

    Raises:
        RewardError: two different rewards have one name, or the weights of one cancel.
    """

    def __init__(self, terms: Iterable[Weighted] = ()) -> None:
        found: dict[str, Weighted] = {}
        for term in terms:
            if (same := found.get(term.name)) is None:
                found[term.name] = term
            elif same.reward is term.reward:
                found[term.name] = replace(same, weight=same.weight + term.weight)
            else:
                raise RewardError(f"two rewards of a sum are named {term.name!r}: give one another name")
        self._terms = tuple(found.values())

    @overload
    def __getitem__(self, index: int) -> Weighted: ...
    @overload
    def __getitem__(self, index: slice) -> Sum: ...
    def __getitem__(self, index: int | slice) -> Weighted | Sum:
        return Sum(self._terms[index]) if isinstance(index, slice) else self._terms[index]

    def __len__(self) -> int:
        return len(self._terms)

    def __repr__(self) -> str:
        return " + ".join(f"{term.weight:g} * {term.name}" for term in self) or "Sum()"

    def __add__(self, other: Weighted | Sum) -> Sum:
        return Sum([*self, *([other] if isinstance(other, Weighted) else other)])

    def __radd__(self, other: int) -> Sum:
        return self if other == 0 else NotImplemented  # the 0 that sum() begins with

    def __sub__(self, other: Weighted | Sum) -> Sum:
        return self + -other

    def __neg__(self) -> Sum:
        return self * -1

    def __mul__(self, factor: float) -> Sum:
        return Sum(term * factor for term in self)

    __rmul__ = __mul__

    def __truediv__(self, factor: float) -> Sum:
        return self * (1 / factor)


class Scorer:
    """Scores samples by a weighted sum of rewards; equal samples are scored once, and remembered.

    Args:
        terms: the weighted rewards.
        memo: how many samples to remember, least recently used forgotten first.
    """

    def __init__(self, terms: Sequence[Weighted], memo: int = 65_536) -> None:
        self.terms = tuple(terms)
        self.names = tuple(term.name for term in self.terms)
        self.ledger = Ledger()
        self._memo: OrderedDict[Hashable, tuple[float, ...]] = OrderedDict()
        self._size = memo
        self._batches = [Batches() for _ in self.terms]
        self._reads_tokens = any(getattr(term.reward, "reads_tokens", False) for term in self.terms)

    def __call__(self, samples: Sequence[Any], where: str = "") -> Tensor:
        """(M,) samples -> (M, P) float64, the value of each of the P rewards; see `total`.

        Raises:
            RewardError: a reward raised, returned NaN, +inf or the wrong number of values, or is +inf by its weight; the message
                names `where`.
        """
        if not self.terms:
            return torch.zeros(len(samples), 0, dtype=torch.float64)
        keys = [_key(sample, self._reads_tokens) for sample in samples]
        fresh: dict[Hashable, int] = {}
        for index, key in enumerate(keys):
            if key not in self._memo:
                fresh.setdefault(key, index)
        found = {key: self._memo[key] for key in keys if key in self._memo}
        if fresh:
            started = time.perf_counter()
            values = self._compute([samples[index] for index in fresh.values()], where)
            found.update(zip(fresh, values, strict=True))
            self.ledger.reward_seconds += time.perf_counter() - started
        self.ledger.reward_requests += len(keys)
        self.ledger.reward_calls += len(fresh)
        for key, value in found.items():
            self._memo[key] = value
            self._memo.move_to_end(key)
        while len(self._memo) > self._size:
            self._memo.popitem(last=False)
        return torch.tensor([found[key] for key in keys], dtype=torch.float64).reshape(len(keys), len(self.terms))

    def weighted(self, values: Tensor) -> Tensor:
        """(..., P) values, each times its reward's weight."""
        return values * torch.tensor([term.weight for term in self.terms], dtype=values.dtype, device=values.device)

    def total(self, values: Tensor) -> Tensor:
        """(..., P) values -> (...) weighted sums."""
        return self.weighted(values).sum(-1)

    def _compute(self, samples: list[Any], where: str) -> list[tuple[float, ...]]:
        columns = []
        for term, batches in zip(self.terms, self._batches, strict=True):
            values = _values(term, batches, samples, where)
            weighted = values * term.weight
            if (bad := values.isnan() | (values == torch.inf) | (weighted == torch.inf)).any():
                index = int(bad.nonzero()[0, 0])
                wrong = values[index].isnan() or values[index] == torch.inf
                rule = "A reward" if wrong else f"Its weight {term.weight:g} makes that inf, and a weighted reward"
                raise RewardError(
                    f"reward {term.name!r} returned {values[index]:g} for sample {index} of {len(samples)}{where} "
                    f"({str(samples[index])[:40]!r}...). {rule} must be finite or -inf."
                )
            columns.append(values)
        return [tuple(row) for row in torch.stack(columns, -1).tolist()]


def _values(term: Weighted, batches: Batches, samples: list[Any], where: str) -> Tensor:
    """(M,) what one reward says; of as many samples at a time as it has memory for."""

    def compute(batch: Sequence[Any]) -> Tensor:
        values = _column(term.reward.score(list(batch)))
        if values.shape != (len(batch),):
            raise RewardError(
                f"reward {term.name!r} returned shape {tuple(values.shape)} for {len(batch)} samples{where}; "
                f"expected ({len(batch)},)"
            )
        return values

    try:
        return batches(compute, samples)
    except RewardError:
        raise
    except (Exception, SystemExit) as error:  # a reward must not end the program, with an exit code of its own and no word
        if out_of_memory(error):
            raise RewardError(f"reward {term.name!r} ran out of memory on a single sample{where}: {_first_line(error)}") from error
        raise RewardError(f"reward {term.name!r} failed{where}: {type(error).__name__}: {error}") from error


def _column(found: Any) -> Tensor:
    """What a reward returned as a tensor; a sparse one, which has the same values, as a dense one."""
    return found.to_dense() if isinstance(found, Tensor) else torch.as_tensor(found, dtype=torch.float64)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


def _key(sample: Any, reads_tokens: bool) -> Hashable:
    """What equal samples have in common; the same text in other tokens is another sample for a reward that reads them."""
    if isinstance(sample, str):
        return str(sample), getattr(sample, "prompt", ""), getattr(sample, "tokens", None) if reads_tokens else None
    return getattr(sample, "key", None) or object()  # what has no key of its own is compared with nothing
