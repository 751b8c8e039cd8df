"""Large families spread by accelerate."""

import builtins
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

import fktext
import tiny
from fktext.errors import ModelError, UsageError
from fktext.masked import llm
from fktext.masked.blocks import BlockModel
from fktext.masked.cache import Cached, Extending
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


BLOCKS = ("sdar", "a2d-bd3lm", "llada2")


def by_layer(first: object, others: object) -> Mapping[str, object]:
    """Places of a network of three layers; a tied head goes with its embedding."""
    inner = {f"model.layers.{number}": others if number else first for number in range(3)}
    return {"model.embed_tokens": first, **inner, "model.norm": others, "model.rotary_emb": first, "lm_head": first}


@pytest.mark.parametrize("family", [*BLOCKS, "diffusiongemma"])
def test_a_spread_model_writes_the_same(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that are split or stacked find their places, and remembered blocks theirs."""
    accelerate = pytest.importorskip("accelerate")
    if family in BLOCKS:
        monkeypatch.setattr(accelerate, "infer_auto_device_map", lambda *_, **__: dict(by_layer("cpu", "cpu")))
    folder = str(tiny.golden(family, tmp_path / family))
    whole, parts = load(folder), load(folder, device_map="auto")
    assert parts.denoiser.main == torch.device("cpu")  # type: ignore[attr-defined]
    settings: dict[str, Any] = {"particles": 4, "length": 16, "steps": 2, "lam": 1.0}
    one, other = (fktext.generate(model, "length:words=9", ["w5 w6"], **settings)[0] for model in (whole, parts))
    assert one.texts == other.texts


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", BLOCKS)
def test_blocks_over_a_gpu_and_memory(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate = pytest.importorskip("accelerate")
    monkeypatch.setattr(accelerate, "infer_auto_device_map", lambda *_, **__: dict(by_layer(0, "cpu")))
    torch.backends.cuda.matmul.allow_tf32 = False
    folder = str(tiny.golden(family, tmp_path / family))
    whole, parts = load(folder, device="cpu"), load(folder, device="cuda:0", device_map="auto")
    ids, said = torch.randint(5, 80, (3, 24), generator=torch.Generator().manual_seed(0)), []
    for model in (whole, parts):
        assert isinstance(model, BlockModel)
        cached = Cached(cast("Extending", model.denoiser), model.block)
        for end in (16, 24, 24):  # the second reads what the first has left, and the third what the second has
            hidden = cached.encode(ids[:, :end].to(str(model.denoiser.device)), torch.ones(3))
        said.append(cached.logits(hidden.flatten(0, 1)).cpu())
        assert cached.pages
    torch.testing.assert_close(said[1], said[0], atol=1e-4, rtol=0)


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
