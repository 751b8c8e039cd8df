"""The tests that every text reward passes: subclass `RewardConformance` in a test file of your own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from fktext.rewards import Reward, Text


class RewardConformance:
    """A test class for pytest. The name of the subclass begins with `Test`, and it says what to test::

        from fktext.testing import RewardConformance

        class TestMine(RewardConformance):
            @pytest.fixture
            def reward(self):
                return mine(RewardContext(), words=3)

    Attributes:
        texts: what is scored; add what is special for the reward.
        odd: texts that a model may well generate, and that are easily forgotten.
        tolerance: largest difference, absolute or relative, between a value alone and in a batch: padding changes the last digits
            of what a network says.
    """

    texts: Sequence[str] = (
        "The book is on the table.",
        "you are a fool",
        "a",
        "The lake was calm, and the morning was long and cold.",
    )
    odd: Sequence[str] = (
        "",
        " \n\t ",
        "\x00",
        "\u200b\u202e\ufeff",
        "e\u0301\u0301\u0301",
        "\u05e9\u05dc\u05d5\u05dd",
        "\u4e2d\u6587",
        "\U0001f921\U0001f468\u200d\U0001f469",
        "\ufffd",
        "...!?",
        "word " * 2000,
        "a" * 10_000,
    )
    tolerance: float = 1e-4

    @pytest.fixture
    def reward(self) -> Reward:
        """The reward under test."""
        raise NotImplementedError("override the fixture `reward`")

    def values(self, reward: Reward, samples: Sequence[str]) -> Tensor:
        """(M,) float64; the reward returned as many values as it got samples."""
        values = torch.as_tensor(reward.score(list(samples)), dtype=torch.float64).cpu()
        assert values.shape == (len(samples),), f"score() returned shape {tuple(values.shape)} for {len(samples)} samples"
        return values

    def test_one_sample(self, reward: Reward) -> None:
        """A batch may hold a single text."""
        for text in self.texts:
            self.values(reward, [text])

    def test_equal_samples(self, reward: Reward) -> None:
        """Equal texts have equal values: the engine scores them once."""
        for text in self.texts:
            self._same(self.values(reward, [text] * 3), self.values(reward, [text]).expand(3), [text] * 3, "equal texts differ")

    def test_order(self, reward: Reward) -> None:
        """The values follow the texts, in any order."""
        forward, backward = self.values(reward, self.texts), self.values(reward, self.texts[::-1])
        self._same(backward.flip(0), forward, self.texts, "the order of the texts changes values")

    def test_batch_equals_singles(self, reward: Reward) -> None:
        """A value does not depend on the other texts of the batch."""
        samples = [*self.texts, *self.odd]
        singles = torch.cat([self.values(reward, [text]) for text in samples])
        self._same(self.values(reward, samples), singles, samples, "a text alone and in a batch differ")

    def test_finite_or_minus_infinity(self, reward: Reward) -> None:
        """Values are finite or -inf, also of "" and of odd texts."""
        samples = [*self.texts, *self.odd]
        values = self.values(reward, samples)
        wrong = [samples[index][:40] for index in (values.isnan() | (values == torch.inf)).nonzero()[:, 0].tolist()]
        assert not wrong, f"NaN or +inf for {wrong!a}"

    def test_text_and_str_alike(self, reward: Reward) -> None:
        """What the engine passes is a `fktext.Text`; a plain str is a text without a prompt. A prompt may be all of the text."""
        samples = [*self.texts, ""]
        self._same(
            self.values(reward, [Text(text) for text in samples]), self.values(reward, samples), samples, "Text and str differ"
        )
        prompted: list[Any] = [Text(text, text[: len(text) // 2]) for text in samples] + [Text(text, text) for text in samples]
        values = self.values(reward, prompted)
        assert not (values.isnan() | (values == torch.inf)).any(), "NaN or +inf for a text with a prompt"

    def _same(self, values: Tensor, expected: Tensor, samples: Sequence[str], message: str) -> None:
        close = torch.isclose(values, expected, rtol=self.tolerance, atol=self.tolerance, equal_nan=True)
        index = int((~close).nonzero()[0, 0]) if not close.all() else 0
        assert close.all(), f"{message}: {values[index]:.6g} and {expected[index]:.6g} for {samples[index][:40]!a}"
