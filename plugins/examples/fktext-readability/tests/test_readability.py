"""The reward by itself; `RewardConformance` has what every reward must do."""

import functools

import pytest
from fktext_readability.flesch import EASIEST, readability, reading_ease, syllables

from fktext import RewardContext
from fktext.testing import RewardConformance


class TestConformance(RewardConformance):
    imports = ("fktext_readability", "fktext_readability.flesch")

    @pytest.fixture(params=["easy", "hard"])
    def factory(self, request):
        return functools.partial(readability, target=request.param)


def test_syllables():
    words = {
        "cat": 1,
        "lake": 1,
        "table": 2,
        "banana": 3,
        "the": 1,
        "free": 1,
        "readability": 5,
        "hmm": 1,
        "na\u00efve": 1,
        "caf\u00e9": 2,
    }
    assert {word: syllables(word) for word in words} == words


def test_reading_ease():
    assert reading_ease("The cat sat on the mat.") == pytest.approx(206.835 - 1.015 * 6 - 84.6)
    assert reading_ease("The cat sat. The dog ran!") == pytest.approx(206.835 - 1.015 * 3 - 84.6)
    assert reading_ease("Go. Go. Go.") == pytest.approx(EASIEST)
    assert reading_ease("... 12!") == 0
    assert reading_ease("Incomprehensibility characterises institutionalisation.") == 0


def test_direction():
    easy, hard = "The cat sat.", "Economic considerations predominate."
    assert readability(RewardContext()).score([easy])[0] > readability(RewardContext()).score([hard])[0]
    assert (
        readability(RewardContext(), target="hard").score([easy])[0] < readability(RewardContext(), target="hard").score([hard])[0]
    )
