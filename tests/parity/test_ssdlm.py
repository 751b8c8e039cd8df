"""SSD-LM's network, projections, schedule, guidance and block decode against the reference implementation (float32, CPU)."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from fktext.errors import ModelError
from fktext.simplex import ssdlm
from fktext.simplex.guidance import ClassifierGuidance
from fktext.simplex.process import SimplexDiffusion, alpha_bar, renoise
from fktext.simplex.projections import PROJECTIONS, K, nucleus, one_hot
from fktext.simplex.ssdlm import SimplexLM
from fktext.smc.noise import Noise
from fktext.text import Text

GOLDEN = Path(__file__).parent / "golden"
TINY = GOLDEN / "ssdlm_tiny"
TIMES = (50, 25, 2, 1)  # of 50


@pytest.fixture(scope="module")
def network() -> SimplexLM:
    return ssdlm.load(TINY)


@pytest.fixture(scope="module")
def one() -> dict[str, Tensor]:
    return load_file(GOLDEN / "ssdlm_onestep.safetensors")


def logits(network: SimplexLM, one: dict[str, Tensor], t: int) -> Tensor:
    return network.logits(network.encode(one["context_ids"], one[f"t{t}.x_t"], t / 50))


@pytest.mark.parametrize("t", TIMES)
def test_embeddings_and_logits(network: SimplexLM, one: dict[str, Tensor], t: int) -> None:
    torch.testing.assert_close(network.embed(one[f"t{t}.x_t"], t / 50), one[f"t{t}.diffusion_embeds"], atol=2e-5, rtol=0)
    torch.testing.assert_close(logits(network, one, t), one[f"t{t}.logits"], atol=2e-5, rtol=0)


def test_legacy_weights(one: dict[str, Tensor], tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "bin", ignore=shutil.ignore_patterns("model.safetensors"))
    torch.testing.assert_close(logits(ssdlm.load(tmp_path / "bin"), one, 25), one["t25.logits"], atol=2e-5, rtol=0)


def without_embed_sum(network: SimplexLM) -> None:
    network.embed_sum.weight = torch.nn.Parameter(network.model.get_input_embeddings().weight.T.clone())


def without_time(network: SimplexLM) -> None:
    network.timestep.weight.data.zero_()


@pytest.mark.parametrize("damage", [without_embed_sum, without_time])
def test_a_wrong_network_is_noticed(damage, one: dict[str, Tensor]) -> None:
    changed = ssdlm.load(TINY)
    damage(changed)
    assert (logits(changed, one, 25) - one["t25.logits"]).abs().max() > 1e-3


@pytest.mark.parametrize("steps", [500, 1000, 2500, 5000])
def test_schedule(one: dict[str, Tensor], steps: int) -> None:
    for t, now, before in zip(*(one[f"schedule.{steps}.{name}"] for name in ("t", "alpha_bar_t", "alpha_bar_prev")), strict=True):
        assert alpha_bar(float(t) / steps) == pytest.approx(float(now), abs=2e-5)
        assert alpha_bar((float(t) - 1) / steps) == pytest.approx(float(before), abs=2e-5)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("top_p", [0.0, 0.2, 0.95])
def test_projections_and_the_step(one: dict[str, Tensor], t: int, top_p: float) -> None:
    flat = one[f"t{t}.logits"].flatten(0, 1)
    none = torch.empty(len(flat), 1, dtype=torch.float64)
    for name in ("even", "uneven"):
        point = PROJECTIONS[name](flat, top_p, none)
        torch.testing.assert_close(point, one[f"t{t}.{name}.{top_p}"].flatten(0, 1), atol=2e-5, rtol=0)
    x = renoise(one[f"t{t}.even.{top_p}"], (t - 1) / 50, one[f"t{t}.z_t"] / K)
    torch.testing.assert_close(x, one[f"t{t}.even.{top_p}.x_prev"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("top_p", [0.0, 0.2, 0.95])
def test_sampling_projection(one: dict[str, Tensor], t: int, top_p: float) -> None:
    flat = one[f"t{t}.logits"].flatten(0, 1)
    probs = nucleus(flat, top_p)
    expected = one[f"t{t}.sampling.{top_p}.nucleus_probs"].flatten(0, 1)
    torch.testing.assert_close(probs / probs.sum(-1, keepdim=True), expected, atol=2e-5, rtol=0)
    point = PROJECTIONS["sampling"](flat, top_p, torch.full((len(flat), 1), 0.3, dtype=torch.float64))
    drawn = point.argmax(-1)
    assert torch.equal(point, one_hot(drawn, flat.shape[-1]))
    assert (expected.gather(1, drawn[:, None]) > 0).all()
    reference = one[f"t{t}.sampling.{top_p}.seed5"].flatten(0, 1)
    assert torch.equal(one_hot(reference.argmax(-1), flat.shape[-1]), reference)


def classifier(one: dict[str, Tensor]) -> transformers.RobertaForSequenceClassification:
    weights = {name.removeprefix("guidance.clf."): value for name, value in one.items() if name.startswith("guidance.clf.")}
    config = transformers.RobertaConfig(
        vocab_size=97,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=82,
        type_vocab_size=1,
        num_labels=3,
    )
    model = transformers.RobertaForSequenceClassification(config)
    missing = model.load_state_dict(weights, strict=False).missing_keys
    assert not [name for name in missing if "position_ids" not in name and "token_type_ids" not in name]
    return model.eval().requires_grad_(False)


def test_guidance(one: dict[str, Tensor]) -> None:
    raw, expected = one["t25.logits"], one["guidance.lr2000.label2"]
    # The reference takes the mean over its batch of two.
    guided = ClassifierGuidance(classifier(one), label=2, strength=2000 / 2)
    scale = float((expected - raw).abs().max())  # 70: the step multiplies the gradient's rounding by a thousand
    torch.testing.assert_close(guided(raw), expected, atol=2e-6 * scale, rtol=0)
    # A row's guidance is its own, whatever is beside it and whether or not autograd is on.
    with torch.inference_mode():
        torch.testing.assert_close(guided(raw[1:]), expected[1:], atol=2e-6 * scale, rtol=0)


@dataclass(frozen=True)
class Recorded(Noise):
    """The reference's normals: for each block one draw for its beginning and one for each of its six steps."""

    normals: Tensor

    def normal(self, stream: int, step: int, count: int, rows: Tensor) -> Tensor:
        block, inside = divmod(step, 6)
        return self.normals[7 * block + inside].flatten(1)[rows]


@pytest.mark.parametrize(("projection", "top_p"), [("even", 0.2), ("sampling", 0.0), ("sampling", 0.95)])
def test_blocks_of_the_reference_are_replayed(network: SimplexLM, projection: str, top_p: float) -> None:
    golden = load_file(GOLDEN / "ssdlm_decode.safetensors")
    name = f"{projection}.{top_p}"
    plain = Noise.of([1, 2], 1)
    noise = Recorded(plain.key, plain.slot, golden[f"{name}.normals"])
    chosen = iter(golden[f"{name}.selected"][[0, 1, 2, 3, 4, 6, 7, 8, 9, 10]]) if projection == "sampling" else None

    def recorded(flat: Tensor, p: float, uniforms: Tensor) -> Tensor:
        """What the reference drew; it must lie in our nucleus, and be our draw where there is no choice."""
        tokens = next(chosen).flatten()
        assert (nucleus(flat, p).gather(1, tokens[:, None]) > 0).all()
        if p == 0:
            assert torch.equal(PROJECTIONS["sampling"](flat, p, uniforms).argmax(-1), tokens)
        return one_hot(tokens, flat.shape[-1])

    templates = torch.cat([golden["context_ids"], torch.full((2, 10), network.mask_id)], 1)
    process = SimplexDiffusion(
        network,
        templates,
        1,
        6,
        lambda ids, _: [Text("") for _ in ids],
        projection=recorded if chosen else PROJECTIONS[projection],
        top_p=top_p,
        block=5,
    )
    state = process.init(noise)
    state = process.advance(process.advance(state, 0, 4, noise), 4, process.num_steps, noise)
    ids, _ = process.predict(state, process.num_steps, noise, 1)
    assert torch.equal(ids[:, 7:], golden[f"{name}.tokens"])
    assert process.ledger.denoiser_rows == 2 * 12


@pytest.mark.parametrize("missing", ssdlm.LAYERS)
def test_a_missing_layer(missing: str, tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "part", ignore=shutil.ignore_patterns(missing))
    with pytest.raises(ModelError, match=f"has no {missing}"):
        ssdlm.load(tmp_path / "part")


def test_a_layer_of_another_model(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "other")
    torch.save({"weight": torch.zeros(32, 96)}, tmp_path / "other" / "embed_sum_layer.pt")
    with pytest.raises(ModelError, match=r"embed_sum_layer.pt holds .*96.* config.json asks for .*97"):
        ssdlm.load(tmp_path / "other")


def test_a_layer_that_carries_code(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "code")
    torch.save({"weight": Path("x")}, tmp_path / "code" / "timestep_layer.pt")
    with pytest.raises(ModelError, match="holds more than tensors"):
        ssdlm.load(tmp_path / "code")
