"""SEDD's network, scores and analytic kernel against the reference implementation (float32, CPU)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import tiny
from fktext.errors import ModelError
from fktext.families import Checkpoint
from fktext.families.sedd import SEDD
from fktext.files.weights import read_tensors
from fktext.masked import dit, sedd
from fktext.masked.process import MaskedDiffusion
from fktext.masked.sampling import token_probs
from fktext.models import load
from fktext.rewards import Weighted
from fktext.settings import Settings
from fktext.smc.noise import Noise
from fktext.texts.generate import Population, generate

GOLDEN = Path(__file__).parent / "golden"
TINY = GOLDEN / "sedd_tiny"
CONFIG = json.loads((TINY / "config.json").read_text())
MASK = 60
FORBIDDEN = torch.tensor([MASK])


@pytest.fixture(scope="module")
def io() -> dict[str, Tensor]:
    return load_file(GOLDEN / "sedd_tiny.io.safetensors")


@pytest.fixture(scope="module")
def network() -> dit.DiT:
    return (
        dit.from_tensors(read_tensors(TINY / "model.safetensors"), SEDD().settings(Checkpoint.read(TINY)), TINY)
        .eval()
        .requires_grad_(False)
    )


def logits(network: dit.DiT, ids: Tensor, t: Tensor) -> Tensor:
    return network.logits(network.encode(ids, t).flatten(0, 1)).view(*ids.shape, -1)


def test_log_scores(network: dit.DiT, io: dict[str, Tensor]) -> None:
    t = -torch.expm1(-io["sigma"].double()) / (1 - dit.EPS)  # sigma(t) solved for t
    raw = logits(network, io["input_ids"], t)
    masked = io["input_ids"] == MASK
    for row, noise_level in enumerate(io["sigma"].tolist()):
        assert sedd.sigma(float(t[row])) == pytest.approx(noise_level, abs=1e-6)
        scores = sedd.log_scores(raw[row][masked[row]], noise_level)
        torch.testing.assert_close(scores.float(), io["log_score"][row][masked[row]][:, :MASK], atol=2e-5, rtol=0)
    # with the other row's noise level the network says something else
    assert (logits(network, io["input_ids"], t.flip(0)) - raw).abs().max() > 1e-2


@pytest.mark.parametrize("index", [0, 1])
def test_analytic_kernel(network: dit.DiT, io: dict[str, Tensor], index: int) -> None:
    t, s = io["ts"][index].tolist()
    masked = io["input_ids"] == MASK
    raw = logits(network, io["input_ids"], torch.full((2,), t))[masked]
    law = sedd.reveal_law(sedd.log_scores(raw, sedd.sigma(t)), sedd.sigma(t) - sedd.sigma(s))
    expected = io[f"analytic.{index}.probs_raw"][masked]
    torch.testing.assert_close(law.float(), expected[:, :MASK], atol=2e-5, rtol=0)
    torch.testing.assert_close((1 - law.sum(-1)).float(), expected[:, MASK], atol=2e-5, rtol=0)
    # the normalised kernel is another one: here scores and schedule disagree about when to reveal
    assert ((1 - law.sum(-1)) - s / t).abs().max() > 1e-2
    torch.testing.assert_close((law / law.sum(-1, keepdim=True)).float(), token_probs(raw, FORBIDDEN)[:, :MASK], atol=2e-5, rtol=0)


@pytest.mark.parametrize(("kind", "index", "k"), [("analytic", 0, 2), ("normalised", 0, 2)])
def test_process_draws_from_its_kernel(network: dit.DiT, io: dict[str, Tensor], kind: str, index: int, k: int) -> None:
    particles = 6000
    t, s = 1 - k / 20, 0.95 - k / 20
    if kind == "analytic":
        assert io["ts"][index].tolist() == pytest.approx([0.9, 0.8])
    ids = io["input_ids"][:1]
    cls = sedd.AnalyticSEDD if kind == "analytic" else MaskedDiffusion
    process = cls(network, ids, particles, 20, lambda *_: [])
    noise = Noise.of([3], particles)
    after = process.advance(process.init(noise), k, k + 1, noise).ids
    masked = ids[0] == MASK
    raw = logits(network, ids, torch.full((1,), t))[0][masked]
    law = torch.zeros(len(raw), MASK + 1, dtype=torch.float64)
    if kind == "analytic":
        law[:, :MASK] = sedd.reveal_law(sedd.log_scores(raw, sedd.sigma(t)), sedd.sigma(t) - sedd.sigma(s))
    else:
        law[:, :MASK] = (1 - s / t) * token_probs(raw, FORBIDDEN)[:, :MASK]
    law[:, MASK] = 1 - law.sum(-1)
    counts = torch.zeros_like(law).scatter_add_(1, after[:, masked].T, torch.ones(len(raw), particles, dtype=torch.float64))
    expected = law * particles
    seen = expected > 5
    deviations = ((counts - expected) ** 2 / expected)[seen]
    freedom = len(deviations) - len(raw)
    assert abs(float(deviations.sum()) - freedom) < 5 * (2 * freedom) ** 0.5
    assert torch.equal(after[:, ~masked], ids[:, ~masked].expand(particles, -1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"graph": {"type": "uniform"}}, "graph.type 'uniform'"),
        ({"noise": {"type": "geometric"}}, "noise.type 'geometric'"),
        ({"model": CONFIG["model"] | {"scale_by_sigma": False}}, "model.scale_by_sigma False"),
        ({"model": CONFIG["model"] | {"n_heads": 4}}, "config.json says n_heads 4, the tensors say 3"),
        ({"tokens": 61}, "config.json says vocab_size 62, the tensors say 61"),
    ],
)
def test_another_sedd_is_refused(change: dict[str, object], message: str, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(ModelError, match=message):
        load(str(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.golden("sedd", tmp_path / "sedd")


class Fives:
    """How many words hold a five."""

    def score(self, samples: list[str]) -> list[float]:
        return [float(sum("5" in word for word in sample.split())) for sample in samples]


def test_a_folder_is_known_and_its_kernels_are_named(folder: Path) -> None:
    model = load(str(folder))
    assert (model.family, model.denoiser.mask_id, model.bos_id, model.end_id, model.denoiser.max_length) == (
        "sedd",
        60,
        None,
        59,
        16,
    )
    assert model.kernels[:2] == ("sedd-analytic", "sedd-normalised")
    texts, best = {}, {}
    for kernel in (kernel for kernel in model.kernels if not kernel.startswith("confidence")):  # which is not steered
        for method in ("base", "fk"):
            settings = Settings(particles=6, samples=4, length=12, steps=8, kernel=kernel, lam=4.0, method=method, resample_every=2)
            found = [
                item for item in generate(model, [Weighted("fives", Fives())], ["w5"], settings) if isinstance(item, Population)
            ]
            texts[kernel, method] = [text for item in found for text in item.texts]
            best[kernel, method] = sum(float(item.rewards.max()) for item in found)
        assert best[kernel, "base"] < best[kernel, "fk"]
        assert all(text.startswith("w5") for text in texts[kernel, "fk"])
    assert texts["sedd-analytic", "fk"] != texts["sedd-normalised", "fk"]
