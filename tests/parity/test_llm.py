"""LLaDA and Dream on transformers' classes against the outputs of their reference implementations (float32, CPU)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fktext.errors import ModelError
from fktext.masked.llm import FullAttentionLM, load

GOLDEN = Path(__file__).parent / "golden"


def settings(name: str) -> dict[str, object]:
    return json.loads((GOLDEN / name / "config.json").read_text())


def model(name: str, dtype: torch.dtype = torch.float32, **changes: object) -> FullAttentionLM:
    config = settings(name) | changes
    return load(
        name.removesuffix("_tiny"),
        [GOLDEN / name / "model.safetensors"],
        config,
        config["mask_token_id"],
        dtype,
        torch.device("cpu"),
    )


def logits(model: FullAttentionLM, ids: Tensor) -> Tensor:
    return model.logits(model.encode(ids, torch.ones(len(ids))).flatten(0, 1)).view(*ids.shape, -1)


@pytest.fixture(scope="module")
def llada() -> dict[str, Tensor]:
    return load_file(GOLDEN / "llada_tiny.io.safetensors")


@pytest.fixture(scope="module")
def dream() -> dict[str, Tensor]:
    golden = load_file(GOLDEN / "dream_tiny.io.safetensors")
    # Its reference samplers move every row of logits one place to the right and repeat the first.
    golden["logits"] = torch.cat([golden["logits_unshifted"][:, :1], golden["logits_unshifted"][:, :-1]], 1)
    return golden


def test_llada(llada: dict[str, Tensor]) -> None:
    torch.testing.assert_close(logits(model("llada_tiny"), llada["input_ids"]), llada["logits"], atol=2e-5, rtol=0)


def test_dream(dream: dict[str, Tensor]) -> None:
    torch.testing.assert_close(logits(model("dream_tiny"), dream["input_ids"]), dream["logits"], atol=2e-5, rtol=0)


def test_forgetting_the_shift_is_noticed(dream: dict[str, Tensor]) -> None:
    forgetful = model("dream_tiny")
    forgetful.shifted = False
    assert (logits(forgetful, dream["input_ids"]) - dream["logits"]).abs().max() > 1


def test_causal_attention_is_noticed(llada: dict[str, Tensor]) -> None:
    good = model("llada_tiny")
    causal = good.model(input_ids=llada["input_ids"], use_cache=False).logits
    assert (causal - llada["logits"]).abs().max() > 1
    forward = good.model.model.forward
    good.model.model.forward = lambda **options: forward(**options | {"is_causal": True})
    with pytest.raises(ModelError, match="full attention"):
        FullAttentionLM(good.model, good.mask_id, shifted=False)


def test_no_attention_mask_is_made(monkeypatch: pytest.MonkeyPatch, llada: dict[str, Tensor]) -> None:
    masks = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def spy(*args, attn_mask=None, **options):
        masks.append(attn_mask)
        return attention(*args, attn_mask=attn_mask, **options)

    small = model("llada_tiny")
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    logits(small, llada["input_ids"])
    assert masks == [None, None]


@pytest.mark.parametrize("name", ["llada_tiny", "dream_tiny"])
def test_bfloat16_keeps_rotary_frequencies(name: str, request: pytest.FixtureRequest) -> None:
    golden = request.getfixturevalue(name.removesuffix("_tiny"))
    small = model(name, torch.bfloat16)
    assert small.model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert {parameter.dtype for parameter in small.parameters()} == {torch.bfloat16}
    assert (logits(small, golden["input_ids"]) - golden["logits"]).pow(2).mean().sqrt() < 0.03 * golden["logits"].std()


def test_shards(tmp_path: Path, llada: dict[str, Tensor]) -> None:
    tensors = load_file(GOLDEN / "llada_tiny" / "model.safetensors")
    names = sorted(tensors)
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    save_file({name: tensors[name] for name in names[:9]}, files[0])
    save_file({name: tensors[name] for name in names[9:]}, files[1])
    whole = load("llada", files, settings("llada_tiny"), 63, torch.float32, torch.device("cpu"))
    torch.testing.assert_close(logits(whole, llada["input_ids"]), llada["logits"], atol=2e-5, rtol=0)
    with pytest.raises(ModelError, match="lacks weights of LlamaForCausalLM"):
        load("llada", files[:1], settings("llada_tiny"), 63, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 64}, "has shape"),
        ({"n_layers": 1}, "does not have"),
        ({"alibi": True}, "alibi"),
        ({"layer_norm_type": "default"}, "layer_norm_type"),
        ({"mask_token_id": 64}, "mask token 64"),
    ],
)
def test_a_config_that_contradicts_the_tensors(change: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        model("llada_tiny", **change)
