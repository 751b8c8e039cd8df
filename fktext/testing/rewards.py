"""Test what every text reward promises: subclass `RewardConformance` in a test file of your own."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from fktext.rewards import Reward, RewardContext, Windowed
from fktext.text import Text

Factory = Callable[[RewardContext], Reward]


def accelerators() -> list[str]:
    """Return the devices beside the CPU that torch can use here."""
    return ["cuda"] if torch.cuda.is_available() else ["mps"] if torch.backends.mps.is_available() else []


class RewardConformance:
    """A test class for pytest. The name of the subclass begins with `Test`, and it says what to test::

        from fktext.testing import RewardConformance

        class TestMine(RewardConformance):
            @pytest.fixture
            def factory(self):
                return functools.partial(mine, words=3)  # called with a RewardContext

    A subclass may override the fixture `reward` in its place, with a reward that is made; whether it can move to another device is
    then not tested.

    Attributes:
        texts: what is scored; add what is special for the reward.
        odd: texts that a model may well generate, and that are easily forgotten.
        tolerance: largest difference, absolute or relative, between a value alone and in a batch: padding changes the last digits
            of what a network says.
        devices: where it must be able to run beside the CPU.
        device_tolerance: the same for values on another device, where matrix products may be in bfloat16.
        imports: modules that must not use a network when they are imported; by default the one the reward's class is in. Name the
            plugin's entry point, too.
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
    devices: Sequence[str] = accelerators()
    device_tolerance: float = 0.1
    imports: Sequence[str] = ()

    @pytest.fixture
    def factory(self) -> Factory | None:
        """Return a function: context -> the reward under test."""
        return None

    @pytest.fixture
    def reward(self, factory: Factory | None) -> Reward:
        """Return the reward under test."""
        if factory is None:
            raise NotImplementedError("override the fixture `factory`, which makes the reward, or `reward`")
        return factory(RewardContext(offline=True))

    def values(self, reward: Reward, samples: Sequence[str]) -> Tensor:
        """Return (M,) float64, after checking that the reward returned as many values as it got samples."""
        found = reward.score(list(samples))
        values = found.cpu().double() if isinstance(found, Tensor) else torch.as_tensor(found, dtype=torch.float64)
        assert values.shape == (len(samples),), f"score() returned shape {tuple(values.shape)} for {len(samples)} samples"
        return values

    def test_one_sample(self, reward: Reward) -> None:
        """A batch may hold a single text."""
        for text in self.texts:
            self.values(reward, [text])

    def test_no_sample(self, reward: Reward) -> None:
        """A batch may be empty: every text may have been scored before."""
        self.values(reward, [])

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

    def test_other_devices(self, factory: Factory | None, reward: Reward) -> None:
        """It runs where the context says, and has the same values there."""
        if factory is None:
            pytest.skip("there is no fixture `factory`, which makes the reward on a device")
        if not self.devices:
            pytest.skip("there is no device beside the CPU here")
        for device in self.devices:
            moved = self.values(factory(RewardContext(device=device, offline=True)), self.texts)
            expected = self.values(reward, self.texts)
            self._same(moved, expected, self.texts, f"{device} and cpu differ", self.device_tolerance)

    def test_no_network_at_import(self, reward: Reward) -> None:
        """Importing it asks no host for anything. (What a library's own native code asks for is not seen.)"""
        made = reward.reward if isinstance(reward, Windowed) else reward
        modules = tuple(self.imports) or (type(made).__module__,)
        assert not (asked := asked_at_import(*modules)), f"importing {' and '.join(modules)} uses the network: {asked}"

    def _same(self, values: Tensor, expected: Tensor, samples: Sequence[str], message: str, tolerance: float = 0.0) -> None:
        tolerance = tolerance or self.tolerance
        close = torch.isclose(values, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
        index = int((~close).nonzero()[0, 0]) if not close.all() else 0
        assert close.all(), f"{message}: {values[index]:.6g} and {expected[index]:.6g} for {samples[index][:40]!a}"


_IMPORT = """
import importlib, sys

asked = []

def hook(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        asked.append(f"{event}{tuple(arguments)[-2:]}")
        raise OSError("no network while a module is imported")

sys.addaudithook(hook)
for module in sys.argv[1:]:
    importlib.import_module(module)
print("asked:", "; ".join(asked))
"""


@functools.cache
def asked_at_import(*modules: str) -> str:
    """Return what modules ask of the network when they are imported, in a process of their own; "" for nothing.

    Raises:
        AssertionError: they cannot be imported.
    """
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", _IMPORT, *modules]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith("asked:")]
    assert found or "no network while" in done.stderr, f"{' and '.join(modules)} cannot be imported alone:\n{done.stderr}"
    return found[-1].removeprefix("asked:").strip() if found else done.stderr.strip().splitlines()[-1]
