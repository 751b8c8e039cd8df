"""The loop's failures and its bookkeeping."""

import pytest
import torch

from fktext.errors import PopulationError, RewardError
from fktext.rewards import Scorer, Weighted
from fktext.smc.lookahead import Predictions
from fktext.smc.noise import Noise, population_key
from fktext.smc.potentials import POTENTIALS
from fktext.smc.schedules import At, Every
from fktext.smc.steer import Plan, steer, steer_steps
from fktext.testing.enumerable import Enumerable

MODEL = Enumerable()


class Only:
    """A hard constraint: 0 for texts that begin with the given digit, -inf for others."""

    def __init__(self, digit):
        self.digit = digit

    def score(self, samples):
        return [0.0 if sample[0] == self.digit else -torch.inf for sample in samples]


def run(reward, particles=6, populations=3, **plan):
    keys = [population_key(0, index) for index in range(populations)]
    plan = Plan(particles, **{"schedule": Every(1), "look_ahead": Predictions(2), **plan})
    return steer(MODEL.process(populations, particles), Scorer([Weighted("only", reward)]), Noise.of(keys, particles), plan)


def test_a_hard_constraint_is_met_by_every_particle_of_weight():
    result = run(Only("1"), particles=40, ess_threshold=0.5)
    weighty = result.log_w > -torch.inf
    texts = [text for text, alive in zip(result.samples, weighty.flatten().tolist(), strict=True) if alive]
    assert {text[0] for text in texts} == {"1"}
    share = MODEL.law[[text[0] == "1" for text in MODEL.texts]].sum().log()
    assert (result.log_z - share).abs().max() < 0.5


def test_a_population_without_weight_is_dead_and_stops_no_other():
    class Second:
        """-inf for what the second population writes, whose noise is its own."""

        def score(self, samples):
            return [0.0 if sample in alive else -torch.inf for sample in samples]

    alive = set(run(MODEL.reward, populations=1).samples)
    alone, three = run(Second(), populations=1), run(Second(), particles=6, populations=3)
    assert alone.log_z[0] > -torch.inf
    assert torch.equal(three.log_w[0], alone.log_w[0])
    nobody = run(Only("9"))
    assert (nobody.log_z == -torch.inf).all()
    assert (nobody.log_w == -torch.inf).all()
    assert [step.k for step in nobody.steps] == [1, 2, 3, 4]


@pytest.mark.parametrize("potential", POTENTIALS)
def test_a_finite_reward_whose_tilt_is_no_number_is_an_error(potential):
    class Bottomless:
        def score(self, samples):
            return [-1e308 if sample[0] == "1" else 0.0 for sample in samples]

    with pytest.raises(PopulationError, match=r"a log-weight is -inf at step \d: lambda times the reward is beyond any number"):
        run(Bottomless(), lam=10.0, potential=POTENTIALS[potential])


def test_a_weighing_that_tells_nothing_leaves_weights_and_carry_alone():
    class Late:
        """-inf for everything until the last weighing but one, whatever it is."""

        calls = 0

        def score(self, samples):
            self.calls += 1
            return [-torch.inf if self.calls <= 2 else MODEL.reward.values[sample] - 5.0 for sample in samples]

    class NoMemo(Scorer):
        def __init__(self, terms):
            super().__init__(terms, memo=0)

    keys = [population_key(0, 0)]
    for potential in POTENTIALS.values():
        found = []
        for reward, schedule in ((Late(), Every(1)), (Late(), At([3]))):
            reward.calls = 2 if schedule == At([3]) else 0
            plan = Plan(4, schedule, potential, ess_threshold=0)
            found.append(steer(MODEL.process(1, 4), NoMemo([Weighted("late", reward)]), Noise.of(keys, 4), plan))
        assert torch.equal(found[0].steps[2].log_w, found[1].steps[0].log_w)  # `max` remembers no maximum that nobody saw


@pytest.mark.parametrize("potential", POTENTIALS)
def test_a_weight_beyond_any_number_is_an_error_that_names_the_step(potential):
    class Huge:
        def score(self, samples):
            return [1e200 if sample[0] == "1" else 0.0 for sample in samples]

    with pytest.raises(PopulationError, match=r"a log-weight is inf at step \d: lambda times the reward is beyond any number"):
        run(Huge(), lam=1e200, potential=POTENTIALS[potential])


def test_a_bad_reward_names_the_step():
    class Late:
        calls = 0

        def score(self, samples):
            self.calls += 1
            return [float("nan") if self.calls == 3 else 0.1 * len(set(sample)) for sample in samples]

    class NoMemo(Scorer):
        def __init__(self, terms):
            super().__init__(terms, memo=0)

    keys = [population_key(0, 0)]
    plan = Plan(4, Every(1))
    steps = steer_steps(MODEL.process(1, 4), NoMemo([Weighted("late", Late())]), Noise.of(keys, 4), plan)
    seen = []
    with pytest.raises(RewardError, match=r"'late' returned nan for sample 0 .* at step 3 of 4"):
        seen.extend(step.k for step in steps)
    assert seen == [1, 2]  # what was weighed before is not lost


def test_best_of_n_is_the_same_loop_and_scores_once():
    result = run(MODEL.reward, schedule=At([]))
    assert len(result.steps) == 1
    assert result.ledger.reward_requests == 18
    assert torch.equal(result.roots, torch.arange(6).expand(3, 6))
    assert (result.reward == result.values[..., 0]).all()


def test_ledger_counts_this_run_only():
    scorer = Scorer([Weighted("table", MODEL.reward)])
    noise = Noise.of([population_key(0, 0)], 4)
    first = steer(MODEL.process(1, 4), scorer, noise, Plan(4, Every(1)))
    second = steer(MODEL.process(1, 4), scorer, noise, Plan(4, Every(1)))
    assert first.ledger.reward_requests == second.ledger.reward_requests == 16
    assert second.ledger.reward_calls == 0  # remembered
    assert second.ledger.cache_hits == 16
    assert first.ledger.denoiser_rows > 0


def test_resampling_happens_per_population():
    result = run(MODEL.reward, populations=200, lam=2.0, ess_threshold=0.6)
    shares = [step.resampled.double().mean().item() for step in result.steps[:-1]]
    assert any(0 < share < 1 for share in shares)
    for step in result.steps:
        stays = ~step.resampled
        assert (step.ancestors[stays] == torch.arange(6)).all()
        assert (step.ess[step.resampled] < 0.6 * 6).all()
