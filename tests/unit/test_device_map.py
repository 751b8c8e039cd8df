"""LLaDA and Dream spread by accelerate."""

import builtins
import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny
from fktext.errors import ModelError, UsageError
from fktext.masked import llm
from fktext.models import load

NAMES = ("llada_tiny", "dream_tiny")


def spread(name: str, device: str = "cpu") -> llm.FullAttentionLM:
    config = json.loads((tiny.GOLDEN / name / "config.json").read_text())
    files = [tiny.GOLDEN / name / "model.safetensors"]
    family = name.removesuffix("_tiny")
    return llm.load(family, files, config, config["mask_token_id"], torch.float32, torch.device(device), spread=True)


def compare(model: llm.FullAttentionLM, name: str, device: str = "cpu") -> None:
    golden = load_file(tiny.GOLDEN / f"{name}.io.safetensors")
    ids = golden["input_ids"].to(device)
    expected = golden["logits"] if name == "llada_tiny" else golden["logits_unshifted"]
    if name == "dream_tiny":
        expected = torch.cat([expected[:, :1], expected[:, :-1]], 1)
    logits = model.logits(model.encode(ids, torch.ones(len(ids))).flatten(0, 1)).view(*ids.shape, -1)
    assert logits.device == ids.device
    torch.testing.assert_close(logits.cpu(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_spread_model_says_the_same(name: str) -> None:
    pytest.importorskip("accelerate")
    model = spread(name)
    assert model.model.hf_device_map == {"": "cpu"}
    assert model.device == torch.device("cpu")
    compare(model, name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_over_a_gpu_and_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate = pytest.importorskip("accelerate")
    places: Mapping[str, Any] = {
        "model.embed_tokens": 0,
        "model.layers.0": 0,
        "model.layers.1": "cpu",
        "model.norm": "cpu",
        "model.rotary_emb": 0,
        "lm_head": "cpu",
    }
    monkeypatch.setattr(accelerate, "infer_auto_device_map", lambda *_, **__: dict(places))
    model = spread(name, "cuda:0")
    assert model.device == torch.device("cuda:0")
    torch.backends.cuda.matmul.allow_tf32 = False
    compare(model, name, "cuda:0")


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate = pytest.importorskip("accelerate")
    monkeypatch.setattr(accelerate, "infer_auto_device_map", lambda *_, **__: {"model": "cpu", "lm_head": "disk"})
    with pytest.raises(ModelError, match="the memory of all devices does not hold LlamaForCausalLM in float32"):
        spread("llada_tiny")


def test_without_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "accelerate":
            raise ImportError(f"No module named {name!r}")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ModelError, match="a device map needs accelerate, which is not installed: pip install accelerate"):
        spread("llada_tiny")


def test_a_device_map_is_for_large_models() -> None:
    with pytest.raises(UsageError, match=r"a device map is for families llada, dream, .*; model 'tiny-mdlm' is of family 'mlm'"):
        load("tiny-mdlm", device_map="auto")
    with pytest.raises(UsageError, match="unknown device map 'balance'"):
        load("tiny-mdlm", device_map="balance")
