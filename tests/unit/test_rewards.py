"""Scoring: equal samples once, every value checked."""

import sys

import pytest
import torch

from fktext.errors import RewardError, UsageError
from fktext.rewards import Scorer, Weighted, Window, Windowed
from fktext.text import Text, well_formed


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


def test_a_reward_cannot_end_the_program():
    with pytest.raises(RewardError, match="reward 'script' failed at step 3: SystemExit: 0"):
        Scorer([Weighted("script", Length(of=lambda _: sys.exit(0)))])(["first"], " at step 3")


class Mute(Length):
    """A reward that fails when it is asked about itself."""

    @property
    def goal(self):
        raise RuntimeError("no goal\nsecond line")

    @property
    def digest(self):
        raise OSError("no file")


def test_what_a_reward_cannot_say_of_itself_names_it():
    for reward in (Mute(), Windowed(Mute(), Window(trim=1))):
        with pytest.raises(RewardError, match=r"^reward 'mute': its goal raised RuntimeError: no goal$"):
            _ = Weighted("mute", reward).goal
        with pytest.raises(RewardError, match="reward 'mute': its digest raised OSError: no file"):
            Weighted("mute", reward).provenance()
    assert Weighted("length", Length()).goal is None


def test_a_sparse_tensor_has_the_values_it_stands_for():
    class Sparse:
        def score(self, samples):
            return torch.tensor([float(text == "a") for text in samples]).to_sparse()

    assert Scorer([Weighted("sparse", Sparse())])(["a", "b"]).tolist() == [[1], [0]]
    assert Windowed(Sparse(), Window(part="continuation")).score(["a", "b"]).tolist() == [1, 0]


def test_wrong_number_of_values():
    class Short:
        def score(self, samples):
            return torch.zeros(1)

    with pytest.raises(RewardError, match=r"shape \(1,\) for 2 samples"):
        Scorer([Weighted("short", Short())])(["a", "b"])


@pytest.mark.parametrize(("value", "weight"), [(-torch.inf, -1.0), (1e300, 1e300), (-1e300, -1e300)])
def test_a_weight_that_makes_infinity_is_named(value, weight):
    scorer = Scorer([Weighted("fine", Length()), Weighted("turned", Length(of=lambda text: value), weight)])
    with pytest.raises(
        RewardError, match=rf"'turned' returned {value:g} .* at step 3 .*Its weight {weight:g} makes that inf".replace("+", "[+]")
    ):
        scorer(["first", "second"], " at step 3")


def test_minus_infinity_is_allowed_and_weight_zero_is_not():
    assert Scorer([Weighted("never", Length(of=lambda text: -torch.inf))])(["a"])[0, 0] == -torch.inf
    assert Scorer([Weighted("never", Length(of=lambda text: -torch.inf), 2.0)])(["a"])[0, 0] == -torch.inf
    with pytest.raises(RewardError, match="weight 0"):
        Weighted("none", Length(), 0.0)


class Roomy:
    """A reward that has memory for a few samples at a time."""

    def __init__(self, room):
        self.room, self.sizes = room, []

    def score(self, samples):
        if len(samples) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        self.sizes.append(len(samples))
        return [float(sample) for sample in samples]


def test_out_of_memory_halves_the_batch_of_any_reward():
    reward = Roomy(3)
    scorer = Scorer([Weighted("length", Length()), Weighted("roomy", reward)])
    samples = [str(number) for number in range(16)]
    assert scorer(samples)[:, 1].tolist() == list(range(16))
    assert reward.sizes == [2] * 8
    assert scorer.ledger.reward_calls == 16
    assert scorer(["16", "17", "18"])[:, 1].tolist() == [16, 17, 18]
    assert reward.sizes[8:] == [2, 1]  # it is remembered
    with pytest.raises(RewardError, match=r"'roomy' ran out of memory on a single sample at step 2: CUDA out of memory"):
        Scorer([Weighted("roomy", Roomy(0))])(["1", "2"], " at step 2")


def total(terms, sample):
    scorer = Scorer(terms)
    return scorer.total(scorer([sample])).item()


def test_rewards_add_and_experts_multiply():
    long, short = Weighted("long", Length()), Weighted("short", Length(of=lambda text: -len(text)), 0.5)
    both = 2 * long + short / 5 - -long
    assert repr(both) == "3 * long + 0.1 * short"
    assert total(both, "abcd") == pytest.approx(3 * 4 - 0.1 * 4)
    assert total(both * 0.5, "abcd") == pytest.approx(total(both, "abcd") / 2)
    assert total(-both, "abcd") == -total(both, "abcd")
    assert total(long + (long + short), "abcd") == 2 * 4 - 0.5 * 4
    assert total(sum([long, short]), "abcd") == 4 - 0.5 * 4
    assert total(short - (long + short * 3), "abcd") == -1 * -0.5 * 2 * 4 - 4
    assert [term.name for term in both] == ["long", "short"]  # each keeps its own values
    assert Scorer(both)(["abcd"]).tolist() == [[4.0, -4.0]]
    assert len(both[:1]) == 1


def test_the_product_of_experts_is_the_exponential_of_the_sum():
    one, other = Weighted("one", Length()), Weighted("other", Length(of=lambda text: -len(text) / 3))
    lam = 0.7
    product = torch.exp(torch.tensor(lam * total([one], "abc"))) ** 2 * torch.exp(torch.tensor(lam * total([other], "abc"))) ** 0.5
    assert torch.exp(torch.tensor(lam * total(2 * one + 0.5 * other, "abc"))) == pytest.approx(product.item())


def test_what_cannot_be_added():
    one, same_name = Weighted("one", Length()), Weighted("one", Length())
    with pytest.raises(RewardError, match="two rewards of a sum are named 'one'"):
        one + same_name
    with pytest.raises(RewardError, match="weight 0"):
        one - one
    with pytest.raises(RewardError, match="weight 0"):
        0 * one
    with pytest.raises(TypeError):
        one * one
    with pytest.raises(TypeError):
        one + 1


@pytest.mark.parametrize(
    ("window", "seen", "prompt"),
    [
        (Window(), "the sea is  wide and blue", "the sea"),
        (Window(trim=2), "the sea is  wide", "the sea"),
        (Window(trim=9), "the sea is  wide and blue", "the sea"),
        (Window(part="continuation"), " is  wide and blue", ""),
        (Window(part="continuation", trim=1), " is", ""),
    ],
)
def test_windows(window, seen, prompt):
    found = window(Text("the sea is  wide and blue", "the sea"))
    assert (found, found.prompt) == (seen, prompt)


def test_a_window_of_all_is_the_text_itself():
    text = Text("the sea", "the")
    assert Window()(text) is text
    assert Window(trim=5)(text) is text
    plain = "no prompt"
    assert Window(part="continuation")(plain) is plain
    assert Window(part="continuation")(Text("", "")) == ""


def test_a_windowed_reward_asks_once_for_equal_parts():
    reward = Length()
    windowed = Windowed(reward, Window(part="continuation", trim=1, empty=-7.0))
    texts = [Text("a b", "a"), Text("c b d", "c"), Text("e", "e"), Text("e \n", "e"), "x y"]
    assert windowed.score(texts).tolist() == [2, 2, -7, -7, 1]
    assert reward.seen == [" b", "x"]
    assert windowed.score([]).tolist() == []
    assert windowed.score([Text("e", "e")]).tolist() == [-7]
    assert windowed.goal == "larger is better (of the first word after the prompt)"
    own = Windowed(reward, Window(part="continuation"))
    assert own.score([Text("e", "e")]).tolist() == [0]  # without `empty`, what the reward says of ""
    with pytest.raises(RewardError, match="for texts, and a sample is a Tensor"):
        windowed.score([torch.zeros(3)])
    for wrong in ({"trim": 0}, {"trim": 99_999_999_999}, {"empty": float("nan")}, {"empty": float("inf")}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))} came as"):
            Window(**wrong)


def test_a_windowed_reward_of_the_wrong_size_is_caught():
    class Short:
        def score(self, samples):
            return [1.0]

    with pytest.raises(RewardError, match=r"Short.score returned 1 values for 2 texts"):
        Scorer([Weighted("short", Windowed(Short(), Window(trim=1)))])(["a", "b"])


def test_well_formed():
    assert well_formed("plain \U0001f600") == "plain \U0001f600"
    assert well_formed("a\ud800b\udc00") == "a\ufffdb\ufffd"
    assert well_formed(Text("a", "a")) == "a"


def test_provenance_says_what_the_reward_tells():
    reward = Length()
    assert Weighted("length", reward).provenance() == {"plugin": ""}
    reward.model, reward.revision, reward.digest = "a/b", None, "0123"
    term = Weighted("length", Windowed(reward, Window(trim=1)), plugin="mine 1.0")
    assert term.provenance() == {"plugin": "mine 1.0", "model": "a/b", "digest": "0123"}
