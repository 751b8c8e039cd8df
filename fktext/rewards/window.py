"""Choose which part of a text a reward sees."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fktext.errors import RewardError, UsageError
from fktext.rewards.reward import Reward, column_of, key_of
from fktext.text import Text

LONGEST_TRIM = 1_000_000  # words; no text is that long


@dataclass(frozen=True)
class Window:
    """Choose which part of a text a reward sees.

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
        """Return what is seen of a text; the text itself where that is all of it."""
        prompt = getattr(text, "prompt", "")
        written = text.removeprefix(prompt)
        if self.trim is not None and (found := re.match(rf"(?:\s*\S+){{{self.trim}}}", written)):
            written = found[0]
        if self.part == "continuation":
            return Text(written) if prompt or written != text else text
        return text if len(prompt) + len(written) == len(text) else Text(prompt + written, prompt)


class Windowed:
    """Score a part of each text.

    Args:
        reward: a reward of texts.
        window: the part.
    """

    def __init__(self, reward: Reward, window: Window) -> None:
        self.reward, self.window = reward, window

    @property
    def goal(self) -> str:
        """The way it steers, on one line."""
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
        """Return (M,) float64 values; equal parts are scored once.

        Raises:
            RewardError: a sample is not a text, or the reward returned another number of values.
        """
        if strange := [sample for sample in samples if not isinstance(sample, str)]:
            raise RewardError(f"part, trim and empty are for texts, and a sample is a {type(strange[0]).__name__}")
        seen = [self.window(text) for text in samples]
        asked = {key_of(text, self.reads_tokens): text for text in seen if self.window.empty is None or text.strip()}
        values: dict[Hashable, float] = {}
        if asked:
            found = column_of(self.reward.score(list(asked.values()))).double().flatten().tolist()
            if len(found) != len(asked):
                raise RewardError(f"{type(self.reward).__name__}.score returned {len(found)} values for {len(asked)} texts")
            values = dict(zip(asked, found, strict=True))
        empty = self.window.empty
        return torch.tensor([values.get(key_of(text, self.reads_tokens), empty) for text in seen], dtype=torch.float64)
