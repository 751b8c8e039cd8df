"""Scoring: equal samples once, every value checked."""

import pytest
import torch

from fktext.errors import RewardError
from fktext.rewards import Scorer, Text, Weighted


class Length:
    def __init__(self, of=len):
        self.of, self.seen = of, []

    def score(self, samples):
        self.seen += samples
        return [self.of(sample) for sample in samples]


def test_equal_samples_are_scored_once_and_remembered():
    reward = Length()
    scorer = Scorer([Weighted("length", reward)])
    assert scorer(["a", "bb", "a", "a"])[:, 0].tolist() == [1, 2, 1, 1]
    assert scorer(["bb", "ccc"])[:, 0].tolist() == [2, 3]
    assert reward.seen == ["a", "bb", "ccc"]
    assert (scorer.ledger.reward_requests, scorer.ledger.reward_calls, scorer.ledger.cache_hits) == (6, 3, 3)


def test_equal_texts_of_different_prompts_are_different_samples():
    reward = Length(of=lambda text: len(text.continuation))
    values = Scorer([Weighted("length", reward)])(
        [Text("the book is", "the book"), Text("the book is", "the"), Text("the book is")]
    )
    assert values[:, 0].tolist() == [3, 8, 11]


def test_memory_is_bounded_and_least_recently_used_goes_first():
    reward = Length()
    scorer = Scorer([Weighted("length", reward)], memo=2)
    scorer(["a", "b"])
    scorer(["a"])
    scorer(["c"])
    scorer(["a", "b"])
    assert reward.seen == ["a", "b", "c", "b"]
    assert scorer([str(n) for n in range(10)]).shape == (10, 1)  # more than it remembers, in one call


def test_weighted_sum_keeps_each_value():
    scorer = Scorer([Weighted("length", Length(), 0.5), Weighted("minus", Length(of=lambda text: -1.0), 3.0)])
    values = scorer(["abcd"])
    assert values.tolist() == [[4.0, -1.0]]
    assert scorer.total(values).tolist() == [-1.0]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda text: float("nan"), r"'bad' returned nan for sample 0 of 2 at step 3 \('first'"),
        (lambda text: float("inf"), "returned inf"),
        (lambda text: 1 / 0, "failed at step 3: ZeroDivisionError"),
    ],
)
def test_bad_values_name_reward_sample_and_step(bad, message):
    with pytest.raises(RewardError, match=message):
        Scorer([Weighted("bad", Length(of=bad))])(["first", "second"], " at step 3")


def test_wrong_number_of_values():
    class Short:
        def score(self, samples):
            return torch.zeros(1)

    with pytest.raises(RewardError, match=r"shape \(1,\) for 2 samples"):
        Scorer([Weighted("short", Short())])(["a", "b"])


def test_minus_infinity_is_allowed_and_weight_zero_is_not():
    assert Scorer([Weighted("never", Length(of=lambda text: -torch.inf))])(["a"])[0, 0] == -torch.inf
    with pytest.raises(RewardError, match="weight 0"):
        Weighted("none", Length(), 0.0)
