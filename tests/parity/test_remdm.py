"""ReMDM's transitions against the reference implementation."""

from pathlib import Path

import pytest
import torch
from replay import Fixed
from safetensors.torch import load_file
from torch import Tensor

from fktext.masked.remdm import Rates, ReMDM, rates, shares
from fktext.masked.sampling import token_probs
from fktext.smc.noise import Noise

GOLDEN = Path(__file__).parent / "golden"
MASK = 100
FORBIDDEN = torch.tensor([MASK])


@pytest.fixture(scope="module")
def kernel() -> dict[str, Tensor]:
    fixed = load_file(GOLDEN / "mdlm_transitions.safetensors")
    return load_file(GOLDEN / "remdm_transitions.safetensors") | {"logits": fixed["fixed_logits"], "x_t": fixed["x_t"]}


def law(kernel: dict[str, Tensor], rate: Rates, sigma: Tensor | float) -> Tensor:
    """(2, 24, 101): where each position goes."""
    ids = kernel["x_t"]
    masked = ids == MASK
    sigma = torch.as_tensor(sigma, dtype=torch.float64).expand(ids.shape)
    reveal = torch.as_tensor(rate.reveal(sigma))
    probs = token_probs(kernel["logits"].flatten(0, 1), FORBIDDEN).view(kernel["logits"].shape).double()
    revealed = probs * reveal[..., None]
    revealed[..., MASK] = 1 - reveal
    kept = torch.nn.functional.one_hot(ids, 101) * (1 - sigma[..., None])
    kept[..., MASK] = sigma
    return torch.where(masked[..., None], revealed, kept)


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize(
    ("name", "strategy", "eta"), [("cap_0.008", "cap", 0.008), ("cap_1.0", "cap", 1.0), ("rescale_0.015", "rescale", 0.015)]
)
def test_cap_and_rescale(kernel: dict[str, Tensor], name: str, strategy: str, eta: float, index: int) -> None:
    t, s = kernel["ts"][index].tolist()
    rate = rates(strategy, eta, t, s)
    torch.testing.assert_close(law(kernel, rate, rate.sigma).float(), kernel[f"{name}.{index}.q"], atol=2e-4, rtol=0)
    if index == 2:
        other = rates(strategy, eta / 2, t, s)
        assert (law(kernel, other, other.sigma) - kernel[f"{name}.{index}.q"]).abs().max() > 1e-3


@pytest.mark.parametrize("index", range(4))
def test_conf(kernel: dict[str, Tensor], index: int) -> None:
    t, s = kernel["ts"][index].tolist()
    rate = rates("conf", 1.0, t, s)
    sigma = rate.sigma * shares(-kernel["conf"].double())
    torch.testing.assert_close(law(kernel, rate, sigma).float(), kernel[f"conf.{index}.q"], atol=2e-4, rtol=0)


@pytest.mark.parametrize("index", range(4))
def test_loop(kernel: dict[str, Tensor], index: int) -> None:
    t, s = kernel["ts"][index].tolist()
    rate = rates("loop", 0.02, t, s)
    assert (rate.sigma > 0) == (0.05 < t <= 0.55)
    ours, golden = law(kernel, rate, rate.sigma).float(), kernel[f"loop.{index}.q"]
    masked = kernel["x_t"] == MASK
    torch.testing.assert_close(ours[masked], golden[masked], atol=2e-4, rtol=0)
    if rate.sigma:  # outside the loop the reference's q is not meant for revealed positions: it copies them afterwards
        torch.testing.assert_close(ours[~masked], golden[~masked], atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("cap_1.0", {"strategy": "cap", "eta": 1.0}), ("loop", {"strategy": "loop"}), ("conf", {"strategy": "conf"})],
)
def test_process_draws_from_the_transition(kernel: dict[str, Tensor], name: str, settings: dict[str, object]) -> None:
    """From t = 0.5 to 0.4, step 6 of ten, out of a half revealed state in which nothing is clamped."""
    particles = 20_000
    ids = kernel["x_t"][:1]
    process = ReMDM(Fixed(kernel["logits"][:1]), torch.full_like(ids, MASK), particles, 10, lambda *_: [], **settings)
    noise = Noise.of([5], particles)
    state = process.init(noise)
    state.ids[:] = ids
    state.confidence[:] = -kernel["conf"][:1]
    after = process.advance(state, 5, 6, noise).ids
    golden = kernel[f"{name}.1.q"][0].double()
    counts = torch.zeros_like(golden).scatter_add_(1, after.T, torch.ones(24, particles, dtype=torch.float64))
    expected = golden * particles
    seen = expected > 5
    deviations = ((counts - expected) ** 2 / expected)[seen]
    freedom = len(deviations) - 24
    assert abs(float(deviations.sum()) - freedom) < 5 * (2 * freedom) ** 0.5
    revealed = ids[0] != MASK
    assert 0 < int(counts[revealed, MASK].sum()) == int((after[:, revealed] == MASK).sum())
