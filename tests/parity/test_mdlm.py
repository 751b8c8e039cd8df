"""MDLM's network, its checkpoints and its kernel against the outputs of the reference implementation (float32, CPU)."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from replay import Fixed
from safetensors.torch import load_file
from torch import Tensor

from fktext.errors import ModelError
from fktext.files.lightning import Lightning
from fktext.files.weights import read_tensors
from fktext.masked import dit
from fktext.masked.process import MaskedDiffusion
from fktext.masked.sampling import token_probs
from fktext.smc.noise import Noise

GOLDEN = Path(__file__).parent / "golden"
TINY = GOLDEN / "mdlm_tiny"
SETTINGS = json.loads((TINY / "config.json").read_text())
MASK = 100
FORBIDDEN = torch.tensor([MASK])
CHECKPOINTS = ("mdlm_tiny/model.safetensors", "mdlm_tiny/pytorch_model.bin", "mdlm_tiny.ckpt", "mdlm_tiny_hparams.ckpt")


def network(tensors: dict[str, Tensor], **changes: object) -> dit.DiT:
    return dit.from_tensors(tensors, SETTINGS | changes, "the tiny model").eval().requires_grad_(False)


def logits(model: dit.DiT, ids: Tensor, t: Tensor) -> Tensor:
    return model.logits(model.encode(ids, t).flatten(0, 1)).view(*ids.shape, -1)


@pytest.fixture(scope="module")
def io() -> dict[str, Tensor]:
    return load_file(GOLDEN / "mdlm_tiny.io.safetensors")


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return read_tensors(TINY / "model.safetensors")


@pytest.mark.parametrize("file", CHECKPOINTS)
def test_logits(file: str, io: dict[str, Tensor]) -> None:
    model = network(read_tensors(GOLDEN / file))
    torch.testing.assert_close(logits(model, io["input_ids"], torch.rand(3)), io["raw_logits"], atol=2e-5, rtol=0)


def test_logits_with_live_sigma(io: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    model = network(weights, time_conditioning=True)
    t = -torch.expm1(-io["sigma"].double()) / (1 - dit.EPS)  # sigma(t) solved for t
    assert model.time_dependent
    torch.testing.assert_close(logits(model, io["input_ids"], t), io["raw_logits_sigma"], atol=2e-5, rtol=0)
    assert (logits(model, io["input_ids"], t / 2) - io["raw_logits_sigma"]).abs().max() > 1e-2


def test_subs_log_probs(io: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    masked = io["input_ids"] == MASK
    model = network(weights)
    probs = token_probs(model.logits(model.encode(io["input_ids"], torch.ones(3))[masked]), FORBIDDEN)
    torch.testing.assert_close(probs.log()[:, :MASK], io["log_probs"][masked][:, :MASK], atol=2e-5, rtol=0)
    assert (probs[:, MASK] == 0).all()
    # Revealed positions keep their token in the reference's output; here nobody asks the network about them.
    assert (io["log_probs"].argmax(-1) == io["input_ids"])[~masked].all()


@pytest.mark.parametrize("file", ["mdlm_tiny.ckpt", "mdlm_tiny_hparams.ckpt"])
def test_the_moving_average_is_what_lightning_checkpoints_give(
    file: str, weights: dict[str, Tensor], io: dict[str, Tensor]
) -> None:
    checkpoint = Lightning.read(GOLDEN / file)
    averaged, raw = checkpoint.weights(), checkpoint.weights(ema=False)
    assert averaged.keys() == raw.keys() == weights.keys()
    assert all(torch.equal(averaged[name], weights[name]) for name in weights)
    assert (logits(network(raw), io["input_ids"], torch.ones(3)) - io["raw_logits"]).abs().max() > 1e-2


def test_hyper_parameters_are_read_without_their_classes() -> None:
    config = Lightning.read(GOLDEN / "mdlm_tiny_hparams.ckpt").settings["config"]
    assert config["model"]["length"] == 24
    assert config["time_conditioning"] is False


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone.", "backbone._orig_mod."])
def test_prefixes_are_stripped(prefix: str, weights: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    renamed = {prefix + name.removeprefix("backbone."): tensor for name, tensor in weights.items()}
    torch.testing.assert_close(logits(network(renamed), io["input_ids"], torch.ones(3)), io["raw_logits"], atol=2e-5, rtol=0)


def swap_shift_and_scale(weights: dict[str, Tensor]) -> None:
    for part in ("weight", "bias"):
        chunks = weights[f"backbone.blocks.0.adaLN_modulation.{part}"].chunk(6)
        weights[f"backbone.blocks.0.adaLN_modulation.{part}"] = torch.cat([chunks[1], chunks[0], *chunks[2:]])


def open_a_gate(weights: dict[str, Tensor]) -> None:
    weight = weights["backbone.blocks.1.adaLN_modulation.weight"] = weights["backbone.blocks.1.adaLN_modulation.weight"].clone()
    bias = weights["backbone.blocks.1.adaLN_modulation.bias"] = weights["backbone.blocks.1.adaLN_modulation.bias"].clone()
    weight[-48:], bias[-48:] = 0, 1


def swap_query_and_key_of_a_head(weights: dict[str, Tensor]) -> None:
    name = "backbone.blocks.0.attn_qkv.weight"
    weights[name] = torch.cat([weights[name][16:32], weights[name][:16], weights[name][32:]])


@pytest.mark.parametrize("damage", [swap_shift_and_scale, open_a_gate, swap_query_and_key_of_a_head])
def test_a_wrong_network_is_noticed(damage, weights: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    changed = dict(weights)
    damage(changed)
    assert (logits(network(changed), io["input_ids"], torch.ones(3)) - io["raw_logits"]).abs().max() > 1e-3


def test_bfloat16_is_close(weights: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    model = network(weights).to(torch.bfloat16)
    out = logits(model, io["input_ids"], torch.ones(3))
    assert out.dtype == torch.bfloat16
    assert (out - io["raw_logits"]).pow(2).mean().sqrt() < 0.02 * io["raw_logits"].std()


def test_names_and_shapes_of_the_published_model() -> None:
    published = {name: torch.Size(shape) for name, shape in json.loads((GOLDEN / "mdlm_owt_keys.json").read_text()).items()}
    with torch.device("meta"):
        model = dit.DiT(vocab_size=50258, hidden_dim=768, n_blocks=12, n_heads=12, cond_dim=128)
    assert {f"backbone.{name}": tensor.shape for name, tensor in model.state_dict().items()} == published


@pytest.mark.parametrize(
    ("name", "value"), [("n_heads", 4), ("cond_dim", 129), ("vocab_size", 100), ("n_blocks", 3), ("hidden_dim", 96)]
)
def test_a_config_that_contradicts_the_tensors(name: str, value: int, weights: dict[str, Tensor]) -> None:
    with pytest.raises(ModelError, match=f"config.json says {name} {value}, the tensors say"):
        network(weights, **{name: value})


def test_sizes_come_from_the_tensors(weights: dict[str, Tensor], io: dict[str, Tensor]) -> None:
    model = dit.from_tensors(weights, {}, "it").eval().requires_grad_(False)
    torch.testing.assert_close(logits(model, io["input_ids"], torch.ones(3)), io["raw_logits"], atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "message"), [("backbone.blocks.1.norm2.weight", "norm2"), ("backbone.vocab_embed.embedding", "vocab_embed.embedding")]
)
def test_a_missing_tensor(name: str, message: str, weights: dict[str, Tensor]) -> None:
    with pytest.raises(ModelError, match=message):
        network({other: tensor for other, tensor in weights.items() if other != name})


def test_an_average_that_does_not_fit(tmp_path: Path) -> None:
    value = torch.load(GOLDEN / "mdlm_tiny.ckpt", weights_only=True)
    value["ema"]["shadow_params"].pop()
    torch.save(value, tmp_path / "short.ckpt")
    with pytest.raises(ModelError, match="moving average"):
        Lightning.read(tmp_path / "short.ckpt").weights()


def test_a_truncated_checkpoint(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "mdlm_tiny.ckpt", tmp_path / "cut.ckpt")
    with (tmp_path / "cut.ckpt").open("r+b") as stream:
        stream.truncate(400_000)
    with pytest.raises(ModelError, match="not a whole checkpoint"):
        read_tensors(tmp_path / "cut.ckpt")


@pytest.fixture(scope="module")
def kernel() -> dict[str, Tensor]:
    return load_file(GOLDEN / "mdlm_transitions.safetensors")


def test_transition_is_reveal_probability_times_prediction(kernel: dict[str, Tensor]) -> None:
    masked = kernel["x_t"] == MASK
    probs = token_probs(kernel["fixed_logits"][masked], FORBIDDEN)
    torch.testing.assert_close(probs, kernel["denoiser.q"][masked], atol=2e-4, rtol=0)
    for index, (t, s) in enumerate(kernel["ts"].tolist()):
        expected = (1 - s / t) * probs
        expected[:, MASK] = s / t
        for update in ("ddpm", "ddpm_cache", "analytic"):
            if f"{update}.{index}.q" in kernel:
                torch.testing.assert_close(kernel[f"{update}.{index}.q"][masked], expected, atol=2e-4, rtol=0)
                assert torch.equal(kernel[f"{update}.{index}.q"].argmax(-1)[~masked], kernel["x_t"][~masked])


@pytest.mark.parametrize(("index", "k"), [(0, 0), (2, 5)])
def test_process_draws_from_the_transition(kernel: dict[str, Tensor], index: int, k: int) -> None:
    particles, row = 10_000, 0  # ten steps: step k + 1 goes from t = 1 - k / 10 to s = t - 0.1
    assert kernel["ts"][index].tolist() == pytest.approx([1 - k / 10, 0.9 - k / 10])
    process = MaskedDiffusion(
        Fixed(kernel["fixed_logits"][row : row + 1]), kernel["x_t"][row : row + 1], particles, 10, lambda *_: []
    )
    noise = Noise.of([7], particles)
    ids = process.advance(process.init(noise), k, k + 1, noise).ids
    law = kernel[f"ddpm.{index}.q"][row].double()
    counts = torch.zeros_like(law).scatter_add_(1, ids.T, torch.ones(ids.T.shape, dtype=torch.float64))
    masked = kernel["x_t"][row] == MASK
    assert (counts[~masked].gather(1, kernel["x_t"][row][~masked, None]) == particles).all()
    expected = law[masked] * particles
    seen = expected > 5
    deviations = ((counts[masked] - expected) ** 2 / expected)[seen]
    freedom = len(deviations) - int(masked.sum())
    assert abs(float(deviations.sum()) - freedom) < 5 * (2 * freedom) ** 0.5
    # All particles begin alike and share one row of the network; the head sees what is revealed, nothing else.
    assert process.ledger.denoiser_rows == 1
    assert process.ledger.head_positions == int(counts[masked].sum() - counts[masked, MASK].sum())


@pytest.mark.parametrize("update", ["ddpm", "ddpm_cache"])
def test_trajectories_of_the_reference_are_replayed(update: str, weights: dict[str, Tensor]) -> None:
    """With the reference's own uniforms and its Gumbel race, our predictions give its every token."""
    golden, model, steps = load_file(GOLDEN / "mdlm_trajectory.safetensors"), network(weights), 8
    x = torch.full((2, 24), MASK)

    def predict() -> Tensor:
        return token_probs(logits(model, x, torch.ones(2)).flatten(0, 1), FORBIDDEN).view(*x.shape, -1)

    times = torch.linspace(1, 1e-5, steps + 1)
    scale = 1 - dit.EPS if update == "ddpm" else 1
    for k, uniforms in enumerate(golden[f"{update}.uniforms"]):
        moved, kept = scale * times[k], scale * (times[k] - (1 - 1e-5) / steps)
        law = predict() * (moved - kept)
        law[..., MASK] = kept
        drawn = (law / (1e-10 - (uniforms + 1e-10).log())).argmax(-1)
        x = torch.where(x == MASK, drawn, x)
        assert torch.equal(x, golden[f"{update}.x"][k])
    assert torch.equal(torch.where(x == MASK, predict().argmax(-1), x), golden[f"{update}.final"])
