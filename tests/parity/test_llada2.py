"""LLaDA2, GLM-4 with experts under a block-causal mask, against its reference implementation (float32, CPU)."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from replay import follow
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny
from fktext.errors import ModelError
from fktext.masked.blocks import BlockModel
from fktext.masked.cache import Cached
from fktext.masked.sampling import token_probs
from fktext.models import load
from fktext.models.facts import facts
from fktext.testing.model_check import run as run_checks

GOLDEN = Path(__file__).parent / "golden"
Checkpoint = Callable[[str], Path]
BLOCK, MASK = 8, 112


@pytest.fixture
def model(checkpoint: Checkpoint) -> BlockModel:
    found = load(str(checkpoint("llada2")))
    assert isinstance(found, BlockModel)
    return found


@pytest.fixture(scope="module")
def io() -> dict[str, Tensor]:
    return load_file(GOLDEN / "llada2_tiny.io.safetensors")


def logits(model: BlockModel, ids: Tensor) -> Tensor:
    network = model.denoiser
    with torch.inference_mode():
        hidden = network.encode(ids, torch.ones(len(ids)))  # type: ignore[attr-defined]
        return network.logits(hidden.flatten(0, 1)).view(*hidden.shape[:2], -1)  # type: ignore[attr-defined,no-any-return]


def test_logits(model: BlockModel, io: dict[str, Tensor]) -> None:
    torch.testing.assert_close(logits(model, io["input_ids"]), io["logits"], atol=2e-5, rtol=0)
    cached = BlockModel(**{**vars(model), "denoiser": Cached(model.denoiser, BLOCK)})  # type: ignore[arg-type]
    for end in range(BLOCK, 25, BLOCK):
        expected = io["logits"][:, end - BLOCK : end]
        torch.testing.assert_close(logits(cached, io["input_ids"][:, :end]), expected, atol=2e-5, rtol=0)


def chosen(model: BlockModel, ids: Tensor) -> dict[int, Tensor]:
    """The experts of each token (R, L, k), sorted, of each layer that has some."""
    found: dict[int, Tensor] = {}
    for number, layer in enumerate(model.denoiser.model.model.layers):  # type: ignore[attr-defined]
        if hasattr(layer.mlp, "gate"):
            keep = lambda module, inputs, out, number=number: found.__setitem__(number, out[2].sort(-1).values)  # noqa: E731
            layer.mlp.gate.register_forward_hook(keep)
    logits(model, ids)
    return {number: experts.view(*ids.shape, -1) for number, experts in found.items()}


def test_the_routers_choose_the_same_experts(model: BlockModel, io: dict[str, Tensor]) -> None:
    found = chosen(model, io["input_ids"])
    assert sorted(found) == [1, 2]
    for number, experts in found.items():
        assert torch.equal(experts, io[f"router.{number}.experts"])
        gate = model.denoiser.model.model.layers[number].mlp.gate  # type: ignore[attr-defined]
        assert (gate.e_score_correction_bias < 0).any()


def test_groups_filled_with_zero_are_noticed(model: BlockModel, io: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """With negative biases an expert of a group that is left out would be chosen: as older versions of transformers did."""
    fill = Tensor.masked_fill
    monkeypatch.setattr(Tensor, "masked_fill", lambda self, mask, value: fill(self, mask, 0.0 if value == -torch.inf else value))
    found = chosen(model, io["input_ids"])
    assert sum(int((found[number] != io[f"router.{number}.experts"]).any(-1).sum()) for number in found) > 10
    assert (logits(model, io["input_ids"]) - io["logits"]).abs().max() > 0.1


def test_bfloat16_keeps_what_the_routers_choose_by(checkpoint: Checkpoint) -> None:
    network = load(str(checkpoint("llada2")), dtype="bfloat16").denoiser.model  # type: ignore[attr-defined]
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    gate = network.model.layers[1].mlp.gate
    assert gate.e_score_correction_bias.dtype == torch.float32
    expected = load_file(GOLDEN / "llada2_tiny" / "model.safetensors")["model.layers.1.mlp.gate.expert_bias"]
    assert torch.equal(gate.e_score_correction_bias, expected)


def test_one_step_of_the_kernel(model: BlockModel, io: dict[str, Tensor]) -> None:
    first, last = io["block"].tolist()
    masked = io["input_ids"][:, first:last] == MASK
    probs = token_probs(logits(model, io["input_ids"])[:, first:last].flatten(0, 1), torch.tensor([MASK]))
    for (t, s), q in zip(io["ts"].tolist(), io["q"], strict=True):
        law = probs.view(q.shape).double() * (1 - s / t)
        law[..., MASK] = s / t
        torch.testing.assert_close(law[masked], q[masked], atol=1e-6, rtol=0)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_ancestral_runs_are_replayed(index: int, model: BlockModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the prompt ends inside a block."""
    process = follow(model, load_file(GOLDEN / "llada2_decode.safetensors"), index, monkeypatch)
    assert process.process.num_steps == json.loads((GOLDEN / "llada2_decode.json").read_text())["ancestral_steps"]


def test_shards_that_split_the_experts_of_a_layer(checkpoint: Checkpoint, io: dict[str, Tensor]) -> None:
    folder = checkpoint("llada2")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"{number % 3}.safetensors" for number, name in enumerate(sorted(tensors))}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    torch.testing.assert_close(logits(load(str(folder)), io["input_ids"]), io["logits"], atol=2e-5, rtol=0)  # type: ignore[arg-type]
    lost = "model.layers.2.mlp.experts.5.up_proj.weight"
    save_file({n: t for n, t in tensors.items() if places[n] == places[lost] and n != lost}, folder / places[lost])
    with pytest.raises(
        ModelError, match=r"lacks weights of Glm4MoeForCausalLM, such as model\.layers\.2\.mlp\.experts\.gate_up_proj"
    ):
        load(str(folder))


WRONG = [
    ({"use_bias": True}, "config.json has use_bias True; LLaDA2 is run as a GLM-4, which needs False"),
    ({"score_function": "softmax"}, "config.json has score_function 'softmax'"),
    ({"num_key_value_heads": None}, "config.json lacks num_key_value_heads"),
    ({"n_group": None}, "config.json lacks n_group"),
    ({"rope_theta": None}, "config.json lacks rope_theta"),
    ({"partial_rotary_factor": None}, "config.json lacks partial_rotary_factor"),
    ({"rotary_dim": 16}, "config.json has rotary_dim 16; partial_rotary_factor and head_dim make 8.0"),
    ({"num_experts": 4}, "holds 'model.layers.1.mlp.experts.4."),
    ({"num_experts": 12}, "config.json asks for"),
    ({"moe_intermediate_size": 24}, "config.json asks for"),
    ({"num_key_value_heads": 1}, "config.json asks for"),
    ({"first_k_dense_replace": 2}, "which Glm4MoeForCausalLM does not have"),
    ({"fktext": {"block": 512}}, "fktext.block 512 in its config.json, expected a whole number of tokens up to the 256"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_config_that_cannot_be(change: dict[str, object], message: str, checkpoint: Checkpoint) -> None:
    folder = checkpoint("llada2")
    tiny.edit(folder / "config.json", **change)
    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)


def test_what_no_config_says(checkpoint: Checkpoint) -> None:
    """The mask is the tokenizer's, and a block has 32 tokens."""
    folder = checkpoint("llada2")
    tiny.edit(folder / "config.json", fktext=None)
    found = load(str(folder))
    assert (found.block, found.denoiser.mask_id, found.end_id, found.pad_id) == (32, MASK, 110, 109)  # type: ignore[attr-defined]
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace("<|mask|>", "<|other|>"))
    with pytest.raises(ModelError, match=r"names no mask_token_id, and its tokenizer has no <\|mask\|>$"):
        load(str(folder))


def test_another_border_is_noticed(checkpoint: Checkpoint, io: dict[str, Tensor]) -> None:
    folder = checkpoint("llada2")
    tiny.edit(folder / "config.json", fktext={"block": 4})
    assert (logits(load(str(folder)), io["input_ids"]) - io["logits"]).abs().max() > 0.1  # type: ignore[arg-type]


def test_facts_and_check(checkpoint: Checkpoint) -> None:
    folder = checkpoint("llada2")
    known = facts(str(folder))
    assert (known.family, known.most, known.kernels[0]) == ("llada2", 256, "ancestral")
    model = load(str(folder))
    state = model.denoiser.model.state_dict()  # type: ignore[attr-defined]
    assert known.parameters == sum(tensor.numel() for tensor in state.values())
    assert [row for row in run_checks(model) if not row.passed] == []
