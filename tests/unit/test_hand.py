"""A hand that reaches into a run: nothing without it, and what it does to a lineage, its place and its reward."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import tiny
from fktext.errors import RewardError, UsageError
from fktext.models import load
from fktext.population import Population
from fktext.rewards import Weighted
from fktext.settings import Settings
from fktext.smc.hand import Hand
from fktext.texts.generate import generate
from fktext.texts.model import TextModel
from fktext.trace import Weighing

N = 6
SETTINGS = Settings(particles=N, length=10, steps=8, resample_every=2, lam=2.0, seed=4, x0_samples=1)


class Words:
    def score(self, samples: list[str]) -> list[float]:
        return [float(len(set(sample.split()))) for sample in samples]


class Red:
    def score(self, samples: list[str]) -> list[float]:
        return [float(sample.split().count("red")) for sample in samples]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    return load(str(tiny.mdlm(tmp_path_factory.mktemp("hand") / "model")))


def run(
    model: TextModel, act: Callable[[Hand, int], None] | None = None, settings: Settings = SETTINGS, held: bool = True
) -> tuple[Population, list[Weighing]]:
    """Run, and let `act` reach in after each weighing, which it is told the number of."""
    hand = Hand(settings.particles) if held else None
    seen: list[Weighing] = []
    population = None
    terms = [Weighted("words", Words()), Weighted("red", Red())]
    for item in generate(model, terms, ["the city"], settings, watch=True, hand=hand):
        if isinstance(item, Population):
            population = item
            continue
        found: Iterator[Any] = (event for event in item.events if isinstance(event, Weighing))
        for event in found:
            seen.append(event)
            if hand is not None:
                hand.saw(event.ancestors)
            if act and hand is not None:
                act(hand, len(seen))
    assert population is not None
    return population, seen


@pytest.mark.parametrize("kernel", ["ancestral", "first-hitting", "remdm-cap"])
@pytest.mark.parametrize("look_ahead", ["predictions", "none"])
def test_a_hand_that_does_nothing_changes_nothing(kernel: str, look_ahead: str, model: TextModel) -> None:
    settings = Settings(**{**vars(SETTINGS), "kernel": kernel, "look_ahead": look_ahead})
    (one, first), (other, second) = run(model, settings=settings), run(model, settings=settings, held=False)
    assert one.texts == other.texts
    assert torch.equal(one.log_w, other.log_w)
    assert one.log_z == other.log_z
    assert [event.revealed for event in first] == [event.revealed for event in second]


def test_what_is_dropped_has_no_offspring(model: TextModel) -> None:
    kept = run(model)[1][0].ancestors[0]

    def act(hand: Hand, number: int) -> None:
        if number == 1:
            for particle in range(N):
                if particle != kept:
                    hand.drop(particle)

    population, seen = run(model, act)
    survivors = {place for place, ancestor in enumerate(seen[0].ancestors) if ancestor == kept}
    assert 0 < len(survivors) < N
    assert seen[1].resampled
    assert set(seen[1].ancestors) <= survivors
    assert -20 < population.log_z < 20  # the dropped ones' share of the weight is gone, no more


def test_all_may_be_dropped(model: TextModel) -> None:
    population, _ = run(model, lambda hand, number: [hand.drop(each) for each in range(N)] and None if number == 1 else None)
    assert not population.dead
    assert population.log_w.exp().sum() == pytest.approx(1)


def test_a_fork_multiplies_a_weight(model: TextModel) -> None:
    _, plain = run(model)
    chosen = 2 if 2 in plain[0].ancestors else plain[0].ancestors[0]
    _, seen = run(model, lambda hand, number: hand.fork(chosen) if number == 1 else None)
    for place, ancestor in enumerate(plain[0].ancestors):
        change = seen[1].log_weights[place] - plain[1].log_weights[place]
        assert change == pytest.approx(torch.tensor(float(N)).log().item() if ancestor == chosen else 0.0)


def test_what_is_pinned_keeps_its_place(model: TextModel) -> None:
    """Even where it is dropped in weight: it is its own ancestor until the end."""
    settings = Settings(**{**vars(SETTINGS), "ess_threshold": 1.1, "lam": 6.0})
    _, plain = run(model, settings=settings)
    stayed = (particle for particle in range(N) if plain[0].ancestors[particle] == particle)
    lost = next(particle for particle in stayed if particle not in plain[1].ancestors)

    def act(hand: Hand, number: int) -> None:
        if number == 1:
            hand.pin(lost)

    _, seen = run(model, act, settings)
    assert all(event.ancestors[lost] == lost for event in seen[1:])


def test_other_weights_count_from_the_next_weighing_on(model: TextModel) -> None:
    def act(hand: Hand, number: int) -> None:
        if number == 1:
            hand.weigh({"red": 5.0})

    population, seen = run(model, act)
    for event in seen[:1]:
        assert event.rewards == pytest.approx([sum(values) for values in event.values])
    for event in seen[1:]:
        assert event.rewards == pytest.approx([words + 5 * red for words, red in event.values])
    assert population.rewards.tolist() == pytest.approx([words + 5 * red for words, red in population.values.tolist()])
    if not any(event.resampled for event in seen):  # then the weights are of the last reward alone
        assert torch.allclose(population.log_w, (2.0 * population.rewards).log_softmax(0))


def test_what_cannot_be_done_is_refused(model: TextModel) -> None:
    hand = Hand(3)
    for wrong in (-1, 3):
        with pytest.raises(UsageError, match=f"there is no particle {wrong}: there are 3"):
            hand.drop(wrong)
    with pytest.raises(UsageError, match="the run has not begun"):
        hand.weigh({"red": 1.0})
    hand.saw([1, 1, 2])
    with pytest.raises(UsageError, match="particle 0 has no offspring"):
        hand.pin(0)
    hand.pin(1)
    hand.pin(2)
    hand.saw([0, 1, 2])
    with pytest.raises(UsageError, match="not all particles"):
        hand.pin(0)
    with pytest.raises(UsageError, match="one population of 3 particles"):
        list(generate(model, [Weighted("red", Red())], ["the city", "the lake"], Settings(particles=3, length=8), hand=Hand(3)))

    def act(hand: Hand, number: int) -> None:
        with pytest.raises(UsageError, match="no reward of this run is called 'blue'"):
            hand.weigh({"blue": 1.0})
        with pytest.raises(RewardError, match="must be finite and not zero"):
            hand.weigh({"red": 0.0})

    run(model, act)
