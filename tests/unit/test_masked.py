"""The masked-diffusion process: economy, clamping, invariance."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from fktext.errors import ModelError
from fktext.masked.first_hitting import FirstHitting
from fktext.masked.process import MaskedDiffusion
from fktext.masked.sampling import draw_tokens, token_probs
from fktext.rewards import Scorer, Weighted
from fktext.smc import RESAMPLERS
from fktext.smc import noise as streams
from fktext.smc.lookahead import Predictions
from fktext.smc.noise import Noise, population_key
from fktext.smc.potentials import POTENTIALS
from fktext.smc.schedules import At, Every
from fktext.smc.steer import Plan, steer, steer_steps
from fktext.testing.enumerable import Enumerable
from fktext.text import Text


class Counting:
    """A small network over a longer canvas that counts what it is asked, and knows which inputs it saw."""

    def __init__(self, length=24, vocab=11, time_dependent=False):
        generator = torch.Generator().manual_seed(0)
        self.max_length, self.vocab_size, self.mask_id, self.time_dependent = length, vocab + 1, vocab, time_dependent
        self.mix = torch.randn(length, length, generator=generator) / length**0.5
        self.embed = torch.randn(vocab + 1, 8, generator=generator)
        self.head = torch.randn(8, vocab + 1, generator=generator)
        self.seen = []
        self.times = []

    device = torch.device("cpu")

    def encode(self, ids, t):
        self.seen += [tuple(row) for row in ids.tolist()]
        self.times += t.tolist()
        shift = t[:, None, None] if self.time_dependent else 0
        return torch.tanh(torch.einsum("ij,rjd->rid", self.mix, self.embed[ids]) + shift)

    def logits(self, hidden):
        return hidden @ self.head


def decode(ids, population):
    return [Text(" ".join(map(str, row))) for row in ids.tolist()]


def make(net, populations=1, particles=1, steps=100, templates=None, **settings):
    if templates is None:
        templates = torch.full((populations, net.max_length), net.mask_id)
    return MaskedDiffusion(net, templates, particles, steps, decode, **settings)


class Parity:
    """A cheap deterministic reward in nats."""

    def score(self, samples):
        return [-(sum(map(int, sample.split())) % 7) / 3 for sample in samples]


SCORER = [Weighted("parity", Parity())]


def run(net, keys, particles, schedule=None, lam=2.0, threshold=0.5, resampler="systematic", potential="difference", **settings):
    plan = Plan(
        particles, schedule or Every(10), POTENTIALS[potential], RESAMPLERS[resampler], lam, threshold, look_ahead=Predictions(2)
    )
    return steer(make(net, len(keys), particles, **settings), Scorer(SCORER), Noise.of(keys, particles), plan)


KEYS = [population_key(0, name) for name in "abcd"]


def test_network_runs_only_on_states_it_has_not_seen():
    net = Counting()
    noise = Noise.of(KEYS[:1], 1)
    process = make(net, steps=1000)
    process.advance(process.init(noise), 0, 1000, noise)
    assert len(net.seen) == len(set(net.seen)) == process.ledger.denoiser_rows
    assert process.ledger.denoiser_rows <= net.max_length
    assert process.ledger.head_positions == net.max_length


def test_equal_rows_share_one_forward():
    net = Counting()
    noise = Noise.of(KEYS, 8)
    process = make(net, populations=4, particles=8)
    process.predict(process.init(noise), 0, noise, 2)
    assert process.ledger.denoiser_rows == 1


def test_predict_and_the_next_window_share_a_forward():
    net = Counting()
    noise = Noise.of(KEYS[:1], 1)
    process = make(net, steps=1000)
    state = process.init(noise)
    for k in range(0, 1000, 20):
        state = process.advance(state, k, k + 20, noise)
        _, state = process.predict(state, k + 20, noise, 4)
    assert len(net.seen) == len(set(net.seen))
    assert process.ledger.denoiser_rows <= net.max_length


class Calls(Counting):
    """Counts calls as well as rows."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.calls = self.heads = 0

    def encode(self, ids, t):
        self.calls += 1
        return super().encode(ids, t)

    def logits(self, hidden):
        self.heads += 1
        return super().logits(hidden)


def test_cost_at_the_papers_size():
    """T = 1000, L = 128, N = 8, weighed every 20 steps with 4 predictions: what it costs, in counts, which no machine changes."""
    net, particles, steps, length = Calls(length=128), 32, 1000, 128
    states = steps * (1 - (1 - 1 / steps) ** length)  # expected distinct states of a particle; dense: 1000
    noise = Noise.of(KEYS, 8)
    process = make(net, 4, 8, steps)
    process.advance(process.init(noise), 0, steps, noise)
    assert process.ledger.denoiser_rows / particles == pytest.approx(states, rel=0.03)
    assert process.ledger.head_positions == length * particles
    # every call takes all rows that have so many states, and its tokens are drawn in one piece
    assert net.calls == net.heads <= 125

    net = Calls(length=128)
    plan = Plan(8, Every(20), POTENTIALS["difference"], RESAMPLERS["systematic"], 2.0, 0.5, look_ahead=Predictions(4))
    ledger = steer(make(net, 4, 8, steps), Scorer(SCORER), Noise.of(KEYS, 8), plan).ledger
    masked = sum(length * (1 - k / steps) for k in range(20, steps, 20))  # predictions are drawn where nothing is revealed yet
    assert ledger.denoiser_rows / particles == pytest.approx(states, rel=0.03)
    assert ledger.head_positions / particles == pytest.approx(length + masked, rel=0.03)
    assert net.calls <= 50 + 233  # a prediction a window, and the jumps within
    assert net.heads <= net.calls + 49
    assert ledger.reward_requests == (49 * 4 + 1) * particles
    assert ledger.reward_calls <= ledger.reward_requests


class Waits(TorchFunctionMode):
    """Counts what the host of a GPU has to wait for: sizes and numbers that depend on what the device computes."""

    NAMES = ("nonzero", "unique", "unique_consecutive", "bincount", "item", "tolist", "equal", "cpu", "tensor", "as_tensor")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in ("__getitem__", "__setitem__"):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            self.count += any(isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in index)
        self.count += name in (*self.NAMES, "__bool__", "__int__", "__float__", "__index__")
        return function(*args, **(kwargs or {}))


class Silent(Counting):
    """Looks at no number."""

    calls = 0

    def encode(self, ids, t):
        self.calls += 1
        return torch.tanh(torch.einsum("ij,rjd->rid", self.mix, self.embed[ids]))


def test_host_and_device_meet_once_a_window_not_once_a_call():
    noise = Noise.of(KEYS[:1], 3)
    waits, calls = [], []
    for until in (100, 1000):
        net = Silent()
        process = make(net, 1, 3, 1000)
        state = process.init(noise)
        with Waits() as counted:
            process.advance(state, 0, until, noise)
        waits.append(counted.count)
        calls.append(net.calls)
    assert calls[1] >= 22 > 3 * calls[0] > 3
    assert waits[0] == waits[1] <= 10


@pytest.mark.parametrize("schedule", [Every(10), Every(7), At([50])])
@pytest.mark.parametrize("resampler", RESAMPLERS)
def test_one_particle_is_the_base_sampler(resampler, schedule):
    base = run(Counting(), KEYS, 1, schedule=At([]), potential="terminal")
    steered = run(Counting(), KEYS, 1, schedule=schedule, threshold=1.1, resampler=resampler)
    assert steered.samples == base.samples


def test_lambda_zero_keeps_every_lineage():
    base = run(Counting(), KEYS, 6, schedule=At([]), potential="terminal")
    flat = run(Counting(), KEYS, 6, lam=0.0, threshold=1.1)
    assert flat.samples == base.samples
    assert torch.equal(flat.roots, torch.arange(6).expand(4, 6))
    assert torch.equal(flat.log_z, torch.zeros(4, dtype=torch.float64))


def test_result_does_not_depend_on_batches_or_company():
    together = run(Counting(), KEYS, 6)
    chunked = run(Counting(), KEYS, 6, batch_size=5)
    assert chunked.samples == together.samples
    assert torch.equal(chunked.roots, together.roots)
    torch.testing.assert_close(chunked.log_w, together.log_w)
    for index, key in enumerate(KEYS):
        alone = run(Counting(), [key], 6)
        assert alone.samples == together.samples[6 * index : 6 * index + 6]
        torch.testing.assert_close(alone.log_z, together.log_z[index : index + 1])
    turned = run(Counting(), KEYS[::-1], 6)
    assert turned.samples[-6:] == together.samples[:6]


def test_changing_the_resampler_changes_no_particle_before_it_acts():
    firsts = {tuple(steps[0].samples) for name in RESAMPLERS if (steps := watch(name))}
    assert len(firsts) == 1


def watch(resampler):
    plan = Plan(6, Every(10), resampler=RESAMPLERS[resampler], lam=2.0, look_ahead=Predictions(2))
    return list(steer_steps(make(Counting(), 1, 6), Scorer(SCORER), Noise.of(KEYS[:1], 6), plan))


def test_lineage_sums_to_the_final_tilt():
    """Along every surviving lineage the log-potentials since the last reset and log Z account for lambda r(x0)."""
    for potential in POTENTIALS:
        for threshold in (0.0, 0.5, 1.1):
            plan = Plan(6, Every(10), POTENTIALS[potential], lam=2.0, ess_threshold=threshold, look_ahead=Predictions(2))
            steps = list(steer_steps(make(Counting(), 1, 6), Scorer(SCORER), Noise.of(KEYS[:1], 6), plan))
            lineage = torch.arange(6)  # slots after the last step, traced back
            total = torch.zeros(6, dtype=torch.float64)
            for index in range(len(steps) - 1, -1, -1):
                step = steps[index]
                lineage = lineage if index == len(steps) - 1 else step.ancestors[0][lineage]
                if step.resampled[0] or index == len(steps) - 1:
                    total += step.log_w[0][lineage]
            torch.testing.assert_close(total, 2.0 * steps[-1].reward[0])


def test_clamped_positions_never_change():
    net = Counting()
    templates = torch.full((2, net.max_length), net.mask_id)
    templates[0, [0, 5, 23]] = torch.tensor([3, 1, 4])
    templates[1, :10] = 2
    result = run(net, KEYS[:2], 8, templates=templates)
    ids = torch.tensor([list(map(int, text.split())) for text in result.samples]).reshape(2, 8, -1)
    assert (ids[0][:, [0, 5, 23]] == torch.tensor([3, 1, 4])).all()
    assert (ids[1][:, :10] == 2).all()
    assert (ids != net.mask_id).all()


def test_a_network_that_sees_time_gets_the_time_of_each_row():
    net = Counting(time_dependent=True)
    noise = Noise.of(KEYS[:1], 1)
    process = make(net, steps=50)
    process.advance(process.init(noise), 0, 50, noise)
    assert net.times == sorted(net.times, reverse=True)
    grid = {round(1 - step / 50, 6) for step in range(50)}
    assert {round(time, 6) for time in net.times} <= grid
    # weighing in between changes what it is asked, not what comes out
    base = run(Counting(time_dependent=True), KEYS, 1, schedule=At([]), potential="terminal")
    assert run(Counting(time_dependent=True), KEYS, 1).samples == base.samples


def test_token_probs_temperature_and_nucleus():
    logits = torch.tensor([[2.0, 1.0, 0.0, 5.0]])
    forbidden = torch.tensor([3])
    probs = token_probs(logits, forbidden)
    assert probs[0, 3] == 0
    torch.testing.assert_close(probs[0, :3], torch.softmax(logits[0, :3], -1))
    torch.testing.assert_close(token_probs(logits, forbidden, temperature=0.5)[0, :3], torch.softmax(2 * logits[0, :3], -1))
    assert (token_probs(logits, forbidden, top_p=0.5) > 0).tolist() == [[True, False, False, False]]
    assert (token_probs(logits, forbidden, top_p=0.7) > 0).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0])
def test_nucleus_is_that_of_a_whole_sort(top_p, spread):
    """However many tokens it holds: few are looked at first, and the rest only where these do not suffice."""
    logits = spread * torch.randn(20, 3000, generator=torch.Generator().manual_seed(1))
    probs = token_probs(logits, torch.tensor([7]), top_p=top_p)
    whole = token_probs(logits, torch.tensor([7]))
    ordered, order = whole.sort(-1, descending=True)
    expected = torch.zeros_like(whole)
    for row in range(20):
        before = 0.0
        for place, token in zip(ordered[row].tolist(), order[row].tolist(), strict=True):
            if before >= top_p - 1e-6 and before:
                break
            expected[row, token] = place
            before += place
    differ = (expected > 0) != (probs > 0)
    assert differ.sum(-1).max() <= 1  # at the edge, where sums round
    assert torch.equal(probs[probs > 0], whole[probs > 0])


def test_tokens_as_likely_as_the_last_of_a_nucleus_are_kept():
    probs = token_probs(torch.zeros(1, 200), torch.tensor([0]), top_p=0.01)
    assert (probs > 0).sum() == 199


def test_a_token_of_probability_zero_is_never_drawn():
    probs = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]])
    edge = torch.tensor([[2.0**-53, 1 - 2.0**-53, 0.3, 0.5]], dtype=torch.float64)
    assert set(draw_tokens(probs, edge).flatten().tolist()) == {1, 3}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_an_error(bad):
    logits = torch.zeros(3, 600)
    logits[1, 5] = bad
    uniforms = torch.full((3, 2), 0.4, dtype=torch.float64)
    with pytest.raises(ModelError, match="logits are not finite"):
        draw_tokens(token_probs(logits, torch.tensor([599])), uniforms)
    logits[1, 5] = -torch.inf  # a token that cannot be is no error
    assert draw_tokens(token_probs(logits, torch.tensor([599])), uniforms).shape == (3, 2)


def test_rare_tokens_keep_their_mass():
    """A tail of 4,000 tokens sharing 0.5%: float32 Gumbel noise loses a quarter of it, the inverse CDF none."""
    probs = torch.full((1, 4001), 0.005 / 4000)
    probs[0, 0] = 0.995
    uniforms = Noise.of(KEYS[:1], 1).uniform(0, 0, torch.arange(400_000))
    share = (draw_tokens(probs, uniforms) > 0).double().mean()
    assert abs(share - 0.005) < 5 * (0.005 / 400_000) ** 0.5


def test_enumerable_law_sums_to_one():
    model = Enumerable(length=2, tokens=3, num_steps=3, seed=5)
    assert model.law.sum() == pytest.approx(1, abs=1e-12)
    assert model.law.min() > 0


@pytest.mark.parametrize("size", [3, 255, 256, 257, 1000, 50_258])
def test_draws_are_the_inverse_of_the_whole_cumulative_sum(size):
    generator = torch.Generator().manual_seed(size)
    probs = torch.rand(20, size, generator=generator) ** 8
    probs[torch.rand(20, size, generator=generator) < 0.7] = 0.0
    probs[:, size // 2] = 0.5
    probs[0] = 0.0
    probs[0, -1] = 1e-30  # all mass in the last place
    uniforms = torch.rand(20, 40, dtype=torch.float64, generator=generator)
    uniforms[:, 0], uniforms[:, 1] = 2.0**-53, 1 - 2.0**-53
    drawn = draw_tokens(probs, uniforms)
    assert (probs.gather(1, drawn) > 0).all()
    cumulative = probs.double().cumsum(-1) / probs.double().sum(-1, keepdim=True)
    below = torch.nn.functional.pad(cumulative, (1, 0)).gather(1, drawn)
    assert (below - 1e-6 <= uniforms).all()
    assert (uniforms <= cumulative.gather(1, drawn) + 1e-6).all()


def test_a_rare_token_after_a_likely_one_keeps_its_share():
    probs = torch.zeros(1, 600)
    probs[0, 10], probs[0, 590] = 1.0, 1e-9  # float32 sums to the end would lose it
    edge = 1 - torch.tensor([[1.1e-9, 0.9e-9, 1e-12]], dtype=torch.float64)
    assert draw_tokens(probs, edge).tolist() == [[10, 590, 590]]


def test_first_hitting_asks_the_network_once_per_token_at_its_reveal_time():
    net = Counting(time_dependent=True)
    noise = Noise.of(KEYS[:1], 2)
    process = FirstHitting(net, torch.full((1, net.max_length), net.mask_id), 2, 4, decode)
    state = process.init(noise)
    for k in range(4):
        state = process.advance(state, k, k + 1, noise)
    assert (state.ids != net.mask_id).all()
    assert process.ledger.denoiser_rows == 2 * net.max_length
    when = noise.uniform(streams.REVEAL, 0, torch.arange(net.max_length))
    torch.testing.assert_close(torch.tensor(net.times).sort().values, when.flatten().sort().values.float(), rtol=0, atol=0)
    masks = sorted(row.count(net.mask_id) for row in net.seen)
    assert masks == sorted([*range(1, net.max_length + 1)] * 2)


def test_a_batch_that_memory_does_not_hold_is_halved():
    class Small(Counting):
        sizes = ()

        def encode(self, ids, t):
            self.sizes += (len(ids),)
            if len(ids) > 3:
                raise torch.OutOfMemoryError("a device of three rows")
            return super().encode(ids, t)

    net = Small()
    small, whole = run(net, KEYS, 4), run(Counting(), KEYS, 4)
    assert small.samples == whole.samples
    assert torch.equal(small.log_w, whole.log_w)
    failed = [size for size in net.sizes if size > 3]
    assert 0 < len(failed) <= 4  # then it is known

    class Full(Counting):
        def encode(self, ids, t):
            raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        run(Full(), KEYS, 4)
