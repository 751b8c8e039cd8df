"""SDAR and dllm's A2D models, Qwen3 under a block-causal or no mask, against their reference implementations (float32, CPU)."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from replay import follow
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny
from fktext.errors import ModelError
from fktext.masked.block_llm import BlockCausalLM
from fktext.masked.blocks import BlockModel
from fktext.masked.cache import Cached
from fktext.masked.llm import FullAttentionLM
from fktext.masked.sampling import token_probs
from fktext.models import load
from fktext.models.facts import facts
from fktext.testing.model_check import run as run_checks
from fktext.texts.model import TextModel

GOLDEN = Path(__file__).parent / "golden"
Checkpoint = Callable[[str], Path]
BLOCK, MASK = 4, 93  # SDAR's


def golden(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / name)


def logits(model: TextModel, ids: Tensor) -> Tensor:
    network = model.denoiser
    hidden = network.encode(ids, torch.ones(len(ids)))  # type: ignore[attr-defined]
    return network.logits(hidden.flatten(0, 1)).view(*hidden.shape[:2], -1)  # type: ignore[attr-defined,no-any-return]


@pytest.fixture
def sdar(checkpoint: Checkpoint) -> BlockModel:
    found = load(str(checkpoint("sdar")))
    assert isinstance(found, BlockModel)
    return found


@pytest.fixture
def a2d(checkpoint: Checkpoint) -> TextModel:
    return load(str(checkpoint("a2d-mdlm")))


@pytest.fixture
def a2d_blocks(checkpoint: Checkpoint) -> BlockModel:
    found = load(str(checkpoint("a2d-bd3lm")))
    assert isinstance(found, BlockModel)
    assert found.block == 8
    return found


def test_sdar(sdar: BlockModel) -> None:
    io = golden("sdar_tiny.io.safetensors")
    torch.testing.assert_close(logits(sdar, io["input_ids"]), io["logits"], atol=1e-5, rtol=0)
    remembering = replace(sdar, denoiser=Cached(sdar.denoiser, BLOCK))  # type: ignore[arg-type]
    for model in (sdar, remembering):
        for at in range(0, 16, BLOCK):  # of all blocks in one pass of [noisy ; clean]
            ids = torch.cat([io["clean"][:, :at], io["noisy"][:, at : at + BLOCK]], 1)
            expected = io["logits_noisy"][:, at : at + BLOCK]
            torch.testing.assert_close(logits(model, ids)[:, -BLOCK:], expected, atol=1e-5, rtol=0)


def test_a2d(a2d: TextModel, a2d_blocks: BlockModel) -> None:
    io = golden("a2d_qwen3_tiny.io.safetensors")
    assert type(a2d.denoiser) is FullAttentionLM
    torch.testing.assert_close(logits(a2d, io["input_ids"]), io["logits"], atol=2e-5, rtol=0)
    torch.testing.assert_close(logits(a2d_blocks, io["block_ids"]), io["block_logits"], atol=2e-5, rtol=0)
    assert (logits(a2d, io["block_ids"]) - io["block_logits"]).abs().max() > 0.1
    assert (logits(a2d_blocks, io["input_ids"]) - io["logits"]).abs().max() > 0.1


@pytest.mark.parametrize("family", ["sdar", "a2d"])
def test_one_step_of_the_kernel(family: str, request: pytest.FixtureRequest) -> None:
    io, model = (
        golden("sdar_tiny.io.safetensors" if family == "sdar" else "a2d_qwen3_tiny.io.safetensors"),
        request.getfixturevalue(family),
    )
    first, last = io["block"].tolist() if family == "sdar" else (0, 24)
    mask = model.denoiser.mask_id
    masked = io["input_ids"][:, first:last] == mask
    probs = token_probs(logits(model, io["input_ids"])[:, first:last].flatten(0, 1), torch.tensor([mask]))
    for (t, s), q in zip(io["ts"].tolist(), io["q"], strict=True):
        law = probs.view(q.shape).double() * (1 - s / t)
        law[..., mask] = s / t
        torch.testing.assert_close(law[masked], q[masked], atol=1e-6, rtol=0)


def attending(seen: Tensor, before: int) -> dict[str, object]:
    position = torch.arange(seen.shape[1])[None, before:]
    return {"use_cache": False, "is_causal": False, "attention_mask": seen[None, None], "position_ids": position}


def causal(self: object, length: int, before: int | None = None) -> dict[str, object]:
    before = before or 0
    return attending(torch.ones(before + length, before + length, dtype=torch.bool).tril()[before:], before)


def shifted_border(self: object, length: int, before: int | None = None) -> dict[str, object]:
    before = before or 0
    block = (torch.arange(before + length) + 1) // BLOCK
    return attending(block[before:, None] >= block, before)


@pytest.mark.parametrize(
    "options", [causal, shifted_border, lambda self, length, before=None: FullAttentionLM.options(self, length)]
)
def test_another_mask_is_noticed(options: Callable[..., object], sdar: BlockModel, monkeypatch: pytest.MonkeyPatch) -> None:
    io = golden("sdar_tiny.io.safetensors")
    monkeypatch.setattr(BlockCausalLM, "options", options)
    assert (logits(sdar, io["input_ids"]) - io["logits"]).abs().max() > 0.1
    assert not all(row.passed for row in run_checks(sdar))
    if options is not shifted_border:
        with pytest.raises(ModelError, match="cannot be run with block-causal attention"):
            BlockCausalLM(sdar.denoiser.model, MASK, BLOCK)  # type: ignore[attr-defined]


def test_a_causal_pass_over_finished_blocks_is_noticed(sdar: BlockModel, monkeypatch: pytest.MonkeyPatch) -> None:
    io = golden("sdar_tiny.io.safetensors")
    first, last = io["block"].tolist()
    cached = replace(sdar, denoiser=Cached(sdar.denoiser, BLOCK))  # type: ignore[arg-type]
    assert (logits(cached, io["input_ids"]) - io["logits"][:, first:last]).abs().max() < 1e-5
    monkeypatch.setattr(BlockCausalLM, "options", causal)
    cached = replace(sdar, denoiser=Cached(sdar.denoiser, BLOCK))  # type: ignore[arg-type]
    logits(cached, io["input_ids"])
    monkeypatch.undo()
    assert (logits(cached, io["input_ids"]) - io["logits"][:, first:last]).abs().max() > 0.1


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_sdar_is_replayed(index: int, cached: bool, sdar: BlockModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the prompt ends inside a block."""
    process = follow(replace(sdar, cached=cached), golden("sdar_decode.safetensors"), index, monkeypatch)
    assert (process.ledger.cached_positions > 0) == cached


@pytest.mark.parametrize("index", [0, 1])
def test_a2d_is_replayed(index: int, a2d: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    follow(a2d, golden("a2d_qwen3_decode.safetensors"), index, monkeypatch)


WRONG = [
    ({"block_size": 0}, "block_size 0 in its config.json"),
    ({"block_size": "4"}, "block_size '4' in its config.json"),
    (
        {"block_size": 512},
        "block_size 512 in its config.json, expected a whole number of tokens up to the 256 that the network takes",
    ),
    ({"head_dim": None}, "config.json lacks head_dim"),
    ({"rope_theta": None}, "config.json lacks rope_theta"),
    ({"num_key_value_heads": None}, "config.json lacks num_key_value_heads"),
    ({"num_hidden_layers": 2}, "which Qwen3ForCausalLM does not have"),
    ({"num_hidden_layers": 4}, "lacks weights of Qwen3ForCausalLM"),
    ({"head_dim": 12}, "config.json asks for"),
    ({"mask_token_id": 100}, "mask token 100 is outside the vocabulary of 100"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_config_that_cannot_be(change: dict[str, object], message: str, checkpoint: Checkpoint) -> None:
    folder = checkpoint("sdar")
    tiny_settings = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps({key: value for key, value in tiny_settings.items() if value is not None}))
    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)


def test_a_truncated_shard(checkpoint: Checkpoint) -> None:
    file = checkpoint("sdar") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load(str(file.parent))


def test_what_config_leaves_open_is_told_otherwise(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block by the folder's name, or 4; the mask by the tokenizer, which writes it in one of two ways."""
    folder = checkpoint("sdar")
    settings = json.loads((folder / "config.json").read_text())
    del settings["block_size"], settings["mask_token_id"]
    (folder / "config.json").write_text(json.dumps(settings))
    found = load(str(folder))
    assert (found.block, found.denoiser.mask_id) == (4, MASK)  # type: ignore[attr-defined]
    named = folder.rename(folder.with_name("SDAR-1.7B-Chat-b16"))
    assert load(str(named)).block == 16  # type: ignore[attr-defined]
    monkeypatch.chdir(named)
    assert load(".").block == 16  # type: ignore[attr-defined]


def test_a_tokenizer_without_a_mask(checkpoint: Checkpoint) -> None:
    folder = checkpoint("a2d-mdlm")
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace("<|mask|>", "<|other|>"))
    with pytest.raises(ModelError, match=r"names no mask_token_id, and its tokenizer has no <\|mask\|>$"):
        load(str(folder))


def test_files_that_do_not_say_how_they_were_trained(checkpoint: Checkpoint) -> None:
    folder = checkpoint("a2d-mdlm")
    folder = folder.rename(folder.with_name("Qwen3"))
    with pytest.raises(ModelError, match=r"whole texts or on blocks: put mdlm or bd3lm into the name of its folder"):
        load(str(folder))
    hub = folder.parent / "models--dllm-hub--Qwen3-0.6B-diffusion-bd3lm-v0.1" / "snapshots"
    hub.mkdir(parents=True)
    assert load(str(folder.rename(hub / "0a1b2c"))).block == 32  # type: ignore[attr-defined]


def test_tied_heads_are_no_missing_weights(checkpoint: Checkpoint) -> None:
    folder = checkpoint("a2d-mdlm")
    known = facts(str(folder))
    assert (known.family, known.most) == ("a2d-mdlm", 256)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    network = load(str(folder)).denoiser.model  # type: ignore[attr-defined]
    assert network.lm_head.weight.data_ptr() == network.model.embed_tokens.weight.data_ptr()


def test_shards_and_a_missing_tensor(checkpoint: Checkpoint) -> None:
    folder = checkpoint("sdar")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.self_attn.q_norm.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.self_attn\.q_norm"):
        load(str(folder))


def test_ends_of_a_turn_end_a_text(checkpoint: Checkpoint) -> None:
    found = load(str(checkpoint("sdar")))
    assert (found.end_id, found.pad_id) == (90, 91)
    row = torch.tensor([[5, 6, 7, 90, 8, MASK], [5, 6, 91, 7, 8, MASK]])
    assert [text.text if hasattr(text, "text") else str(text) for text in found.decode(row, "w5")] == ["w5 w6 w7", "w5 w6"]


@pytest.mark.parametrize("family", ["sdar", "a2d-mdlm", "a2d-bd3lm"])
def test_chat(family: str, checkpoint: Checkpoint) -> None:
    """dllm's models were trained with an empty thought before an answer."""
    folder = checkpoint(family)
    template = "{% for m in messages %}<|im_end|> {{ m.content }} {% endfor %}{% if enable_thinking is false %}w1 w2 {% endif %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    asked = load(str(folder), chat=True).template("w5", 16).tolist()
    end = 90 if family == "sdar" else 102
    assert asked[:4] == ([end, 5, MASK, MASK] if family == "sdar" else [end, 5, 1, 2])


def test_facts(checkpoint: Checkpoint) -> None:
    known = facts(str(checkpoint("sdar")))
    assert (known.family, known.most, known.kernels[0]) == ("sdar", 256, "ancestral")
    assert (known.defaults["length"], known.defaults["steps"]) == (128, 4)


MOE = {
    "model_type": "sdar_moe",
    "architectures": ["SDARMoeForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [1],
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "block_size": BLOCK,
    "mask_token_id": MASK,
}


@pytest.fixture
def experts(tmp_path: Path) -> tuple[Path, Any]:
    """A folder of SDAR with experts, a tensor for each as on the hub, and the network of transformers that it was written from."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    network = Qwen3MoeForCausalLM(Qwen3MoeConfig(**{**MOE, "model_type": "qwen3_moe", "initializer_range": 0.3})).eval()
    tensors = {}
    for name, tensor in network.state_dict().items():
        layer, found, part = name.partition(".experts.")
        if not found:
            tensors[name] = tensor
        for number in range(len(tensor) if found else 0):
            halves = {"gate_proj": tensor[number][:16], "up_proj": tensor[number][16:]}
            for each, rows in (halves if part == "gate_up_proj" else {"down_proj": tensor[number]}).items():
                tensors[f"{layer}.experts.{number}.{each}.weight"] = rows
    folder = tmp_path / "SDAR-30B-A3B"
    folder.mkdir()
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(MOE))
    tiny.numbered(100, ["<|endoftext|>", "<|im_end|>", "<|MASK|>"], 91).save(str(folder / "tokenizer.json"))
    return folder, network


def test_sdar_with_experts_is_qwen3_moe_over_blocks(experts: tuple[Path, Any]) -> None:
    folder, network = experts
    model = load(str(folder))
    assert isinstance(model, BlockModel)
    assert (model.family, model.block, facts(str(folder)).family) == ("sdar-moe", BLOCK, "sdar-moe")
    ids = torch.randint(90, (2, 12), generator=torch.Generator().manual_seed(1))
    ids[:, -2:] = MASK
    block = torch.arange(12) // BLOCK
    with torch.inference_mode():
        expected = network(input_ids=ids, attention_mask=(block[:, None] >= block)[None, None], use_cache=False).logits
    torch.testing.assert_close(logits(model, ids), expected, atol=1e-5, rtol=0)
    remembering = replace(model, denoiser=Cached(model.denoiser, BLOCK))  # type: ignore[arg-type]
    torch.testing.assert_close(logits(remembering, ids), expected[:, -BLOCK:], atol=1e-5, rtol=0)
    assert [row for row in run_checks(model) if not row.passed] == []
    assert all(row.passed for row in run_checks(load(str(folder), dtype="bfloat16")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts": 3}, "which Qwen3MoeForCausalLM does not have"),
        ({"num_experts": 5}, "has shape (4, 32), config.json asks for (5, 32)"),
        ({"moe_intermediate_size": 12}, "config.json asks for"),
        ({"norm_topk_prob": None}, "config.json lacks norm_topk_prob"),
        ({"mlp_only_layers": []}, "which Qwen3MoeForCausalLM does not have"),
    ],
)
def test_experts_that_config_contradicts(change: dict[str, object], message: str, experts: tuple[Path, Any]) -> None:
    folder, _ = experts
    tiny.edit(folder / "config.json", **change)
    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)


OTHERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "Qwen2": ({}, ["<|endoftext|>", "<|im_end|>"]),
    "Llama": (
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0}, "head_dim": 12},
        ["<|end_of_text|>", "<|eot_id|>"],
    ),
}


@pytest.mark.parametrize("kind", ["mdlm", "bd3lm"])
@pytest.mark.parametrize("base", sorted(OTHERS))
def test_a2d_on_other_networks(base: str, kind: str, tmp_path: Path) -> None:
    """dllm's Qwen2.5-Coder, or a Llama: transformers' own class under a mask that shows everything, or whole blocks of 32."""
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    own, ends = OTHERS[base]
    sizes: dict[str, Any] = {name: MOE[name] for name in (*names, "rms_norm_eps", "hidden_act")} | own
    sizes |= {"max_position_embeddings": 64, "tie_word_embeddings": base == "Qwen2"}
    scaling = sizes.pop("rope_scaling", {"rope_type": "default"})  # in published files it stands beside rope_theta
    rope = {"rope_parameters": scaling | {"rope_theta": 1e6, "original_max_position_embeddings": 16}}
    network = tiny.network(f"{base}ForCausalLM", **sizes, **rope, initializer_range=0.3)
    for name, tensor in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(tensor)
    folder = tmp_path / f"{base}-0.5B-Instruct-diffusion-{kind}-v0.1"
    folder.mkdir()
    tensors = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}  # a tied head is in no file
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    settings = sizes | {
        "model_type": f"a2d-{base.lower()}",
        "rope_theta": 1e6,
        "rope_scaling": scaling | {"original_max_position_embeddings": 16},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    tiny.numbered(100, [*ends, "<|mask|>"], 91).save(str(folder / "tokenizer.json"))
    model = load(str(folder))
    assert (model.family, model.denoiser.mask_id, model.pad_id, model.end_id) == (f"a2d-{kind}", MASK, 91, 92)
    ids = torch.randint(90, (2, 64), generator=torch.Generator().manual_seed(1))
    block = torch.arange(64) // (32 if kind == "bd3lm" else 64)
    with torch.inference_mode():
        expected = network(input_ids=ids, attention_mask=(block[:, None] >= block)[None, None], use_cache=False).logits
    torch.testing.assert_close(logits(model, ids), expected, atol=1e-5, rtol=0)
    assert [row for row in run_checks(model) if not row.passed] == []
