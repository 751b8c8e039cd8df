"""E2D2, its two kinds, against the outputs of the reference implementation (float32, CPU)."""

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import tiny
from fktext.errors import ModelError
from fktext.masked import e2d2
from fktext.masked.blocks import BlockModel
from fktext.masked.cache import Cached
from fktext.masked.sampling import token_probs
from fktext.models import load
from fktext.models.facts import facts
from fktext.testing.model_check import run as run_checks

GOLDEN = Path(__file__).parent / "golden"
Checkpoint = Callable[[str], Path]
BLOCK = 4
IO = {"e2d2": "e2d2_tiny.io.safetensors", "e2d2-share": "e2d2_share_tiny.io.safetensors"}
RUNS = {"e2d2": "e2d2_decode.safetensors", "e2d2-share": "e2d2_share_decode.safetensors"}
ABOUT = {"e2d2": "e2d2_decode.json", "e2d2-share": "e2d2_share_decode.json"}
KINDS = sorted(IO)


def model_of(kind: str, checkpoint: Checkpoint) -> BlockModel:
    found = load(str(checkpoint(kind)))
    assert isinstance(found, BlockModel)
    return found


def last_block(model: BlockModel, ids: Tensor) -> Tensor:
    """Logits (R, BLOCK, V) of the last block."""
    with torch.inference_mode():
        hidden = model.denoiser.encode(ids, torch.ones(len(ids)))[:, -BLOCK:]  # type: ignore[attr-defined]
        return model.denoiser.logits(hidden.flatten(0, 1)).view(len(ids), BLOCK, -1)  # type: ignore[attr-defined,no-any-return]


def block_by_block(model: BlockModel, io: dict[str, Tensor]) -> Tensor:
    rows = (torch.cat([io["clean"][:, :at], io["noisy"][:, at : at + BLOCK]], 1) for at in range(0, 16, BLOCK))
    return torch.cat([last_block(model, ids) for ids in rows], 1)


@pytest.mark.parametrize("remembered", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_logits(kind: str, remembered: bool, checkpoint: Checkpoint) -> None:
    io, model = load_file(GOLDEN / IO[kind]), model_of(kind, checkpoint)
    model = replace(model, denoiser=Cached(model.denoiser, BLOCK)) if remembered else model  # type: ignore[arg-type]
    out = block_by_block(model, io)
    torch.testing.assert_close(out, io["logits"], atol=2e-5, rtol=0)  # of all blocks in one pass
    torch.testing.assert_close(out, io["logits_cached"], atol=2e-5, rtol=0)


def causal(x: Tensor, seen: Tensor | None) -> Tensor | None:
    return seen.tril() if seen is not None and len(seen) == seen.shape[1] else seen


def everything(x: Tensor, seen: Tensor | None) -> Tensor | None:
    return None if seen is not None and len(seen) == seen.shape[1] else seen


def no_context(x: Tensor, seen: Tensor | None) -> Tensor | None:
    if seen is None or len(seen) == seen.shape[1]:
        return seen
    return torch.cat([torch.zeros_like(seen[:, : len(seen)]), seen[:, len(seen) :]], 1)


@pytest.mark.parametrize("mask", [causal, everything, no_context])
@pytest.mark.parametrize("kind", KINDS)
def test_another_mask_is_noticed(
    kind: str, mask: Callable[[Tensor, Tensor | None], Tensor | None], checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A causal or bidirectional pass over what is finished, and none, as the reference's after it lost its cache."""
    io, model, layer = load_file(GOLDEN / IO[kind]), model_of(kind, checkpoint), e2d2._layer
    monkeypatch.setattr(e2d2, "_layer", lambda one, x, turn, pair, seen: layer(one, x, turn, pair, mask(x, seen)))
    assert (block_by_block(model, io) - io["logits"]).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_of_the_kernel(kind: str) -> None:
    """From the reference's own logits, in whose rounding q was made; ours are compared above."""
    io, mask = load_file(GOLDEN / IO[kind]), json.loads((GOLDEN / ABOUT[kind]).read_text())["mask_id"]
    masked = io["noisy"] == mask
    probs = token_probs(io["logits"].flatten(0, 1), torch.tensor([mask])).double()
    for (t, s), q in zip(io["ts"].tolist(), io["q"], strict=True):
        law = probs.view(q.shape) * (1 - s / t)
        law[..., mask] = s / t
        torch.testing.assert_close(law[masked], q[masked].double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("remembered", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_runs_are_replayed(kind: str, remembered: bool, checkpoint: Checkpoint) -> None:
    """By its race of Gumbel draws and its grid of times, whose last is not 0: a mask could survive there, and none does here."""
    model, about = model_of(kind, checkpoint), json.loads((GOLDEN / ABOUT[kind]).read_text())
    decoded = load_file(GOLDEN / RUNS[kind])
    model = replace(model, denoiser=Cached(model.denoiser, BLOCK)) if remembered else model  # type: ignore[arg-type]
    ids, mask, draws = decoded["prompt"][None], about["mask_id"], 0
    grid = torch.linspace(1, about["min_t"], about["num_steps"] + 1).tolist()
    for _ in range(2):
        ids = torch.cat([ids, torch.full((1, BLOCK), mask)], 1)
        for t, s in itertools.pairwise(grid):
            masked = ids[0, -BLOCK:] == mask
            if not masked.any():
                break
            q = token_probs(last_block(model, ids)[0], torch.tensor([mask])) * (1 - s / t)
            q[:, mask] = s / t
            drawn = (q / (1e-10 - (decoded["uniforms"][draws] + 1e-10).log())).argmax(-1)
            ids[0, -BLOCK:] = torch.where(masked, drawn, ids[0, -BLOCK:])
            draws += 1
    assert draws == len(decoded["uniforms"])
    assert torch.equal(ids[0], decoded["tokens"])


WRONG = [
    ({"block_size": None}, "block_size 0 in its config.json, expected a whole number of tokens"),
    ({"block_size": 128}, "block_size 128 in its config.json, expected a whole number of tokens up to the 64"),
    ({"length": None}, "has length None in its config.json"),
    ({"mask_token_id": None}, "names no mask_token_id"),
    ({"mask_token_id": 101}, "mask_token_id 101 outside its vocabulary"),
    ({"backbone_config": "x"}, "has backbone_config 'x'"),
    ({"backbone_config": {"_target_": "x.Other"}}, "backbone 'Other' in its config.json: expected LLMasEncoderDecoder"),
]
INSIDE = [
    ({"hidden_size": 64}, "config.json says hidden_size 64, the tensors say 48"),
    ({"head_dim": 8}, "config.json says head_dim 8, the tensors say 16"),
    ({"num_encoder_layers": 2}, "config.json says num_encoder_layers 2, the tensors say 3"),
    *(({"num_decoder_layers": size}, f"config.json says num_decoder_layers {size}, the tensors say 2") for size in (0, 1, 3)),
    ({"num_decoder_layers": "2"}, "has backbone_config.num_decoder_layers '2': Input should be a valid integer"),
    ({"use_encoder_causal_mask": True}, "only encoders are known that see whole blocks"),
    ({"_target_": "x.LLMasEncoderDecoderShareKV"}, "shares keys and values between networks of different weights"),
]


@pytest.mark.parametrize(("change", "message"), [*WRONG, *(({"inside": change}, message) for change, message in INSIDE)])
def test_a_config_that_cannot_be(change: dict[str, object], message: str, checkpoint: Checkpoint) -> None:
    file = checkpoint("e2d2") / "config.json"
    if isinstance(inside := change.get("inside"), dict):
        change = {"backbone_config": json.loads(file.read_text())["backbone_config"] | inside}
    tiny.edit(file, **change)
    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        load(str(file.parent))
    assert "\n" not in str(caught.value)


def test_as_many_layers_as_there_are(checkpoint: Checkpoint) -> None:
    """What the published code calls -1."""
    folder, io = checkpoint("e2d2"), load_file(GOLDEN / IO["e2d2"])
    config = json.loads((folder / "config.json").read_text())["backbone_config"]
    tiny.edit(folder / "config.json", backbone_config=config | {"num_encoder_layers": -1, "num_decoder_layers": -1})
    model = load(str(folder))
    assert isinstance(model, BlockModel)
    torch.testing.assert_close(block_by_block(model, io), io["logits"], atol=2e-5, rtol=0)


def test_a_truncated_file(checkpoint: Checkpoint) -> None:
    file = checkpoint("e2d2") / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
        load(str(file.parent))


@pytest.mark.parametrize("kind", KINDS)
def test_facts_and_check(kind: str, checkpoint: Checkpoint) -> None:
    folder = checkpoint(kind)
    known, model = facts(str(folder)), load(str(folder))
    assert (known.family, known.most, known.kernels[0]) == ("e2d2", 64, "ancestral")
    network = model.denoiser
    sizes = [parameter.numel() for name, parameter in network.named_parameters() if not name.startswith("head")]  # type: ignore[attr-defined]
    if kind == "e2d2":
        assert known.parameters == sum(sizes)
    assert [row for row in run_checks(model) if not row.passed] == []
