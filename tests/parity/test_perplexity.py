"""Log-probabilities of tokens against the reference's generative perplexity (golden/genppl_tiny)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import tiny
from fktext.rewards import RewardContext
from fktext.text import Text, Tokens
from fktext_plugins.causal import NetworkLM, load
from fktext_plugins.perplexity import Perplexity

GOLDEN = load_file(Path(__file__).parent / "golden" / "genppl_tiny.safetensors")
EOS, HEADS = 119, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference's GPT-2 as a folder; token i is written ti, and the last one ends and begins texts."""
    path = tmp_path_factory.mktemp("gpt2")
    tokens = [f"t{index}" for index in range(120)]
    tiny.save_fast(tiny.word_level(tokens, "t0"), path, bos_token=f"t{EOS}", eos_token=f"t{EOS}")
    weights = {name.removeprefix("gpt2."): tensor for name, tensor in GOLDEN.items() if name.startswith("gpt2.")}
    layers = len({name.split(".")[2] for name in weights if ".h." in name})
    positions, width = weights["transformer.wpe.weight"].shape
    model = GPT2LMHeadModel(GPT2Config(vocab_size=120, n_positions=positions, n_embd=width, n_layer=layers, n_head=HEADS))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    model.tie_weights()
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def judge(folder: Path) -> NetworkLM:
    return load(str(folder), None, False, RewardContext(offline=True, batch_size=2))


def counted(samples: Tensor) -> Tensor:
    """What the reference counts: targets that are no EOS, and the first EOS of a row (which here begins it, and is no target)."""
    end = samples == EOS
    return (~end | (end & (end.cumsum(1) == 1)))[:, 1:]


def test_sum_of_log_probabilities(judge: NetworkLM) -> None:
    samples = GOLDEN["samples"]
    assert (samples[:, 0] == EOS).all()
    found = torch.stack(judge.log_probs([row[1:].tolist() for row in samples]))
    mask = counted(samples)
    assert mask.sum() == GOLDEN["count"]
    assert (samples[:, 1:] == EOS).any(), "the rule must matter"
    torch.testing.assert_close(-found[mask].sum(), GOLDEN["sum_nll"][0], rtol=1e-6, atol=1e-4)
    torch.testing.assert_close((-found[mask].mean()).exp(), GOLDEN["gen_ppl"][0], rtol=1e-4, atol=1e-4)
    assert abs(float((-found.mean()).exp() - GOLDEN["gen_ppl"][0])) > 0.01  # of all targets it is another number


def test_the_reward_reads_the_same_off_texts_and_off_tokens(judge: NetworkLM) -> None:
    """Sums of rewards over rows, up to the first EOS after the beginning, where a generated text ends."""
    rows = [row[1:].tolist() for row in GOLDEN["samples"]]
    rows = [row[: row.index(EOS)] if EOS in row else row for row in rows]
    texts = [" ".join(f"t{index}" for index in row) for row in rows]
    tokens = [Text("another text", tokens=Tokens(tuple(row), 0, judge.token_digest)) for row in rows]
    expected = [found.sum().item() for found in judge.log_probs(rows)]
    reward = Perplexity(judge, "golden", reduce="sum")
    assert reward.score(texts).tolist() == pytest.approx(expected, abs=1e-5)
    assert reward.score(tokens).tolist() == pytest.approx(expected, abs=1e-5)
    assert Perplexity(judge, "golden", reduce="sum", tokens="text").score(tokens)[0] != pytest.approx(expected[0])
