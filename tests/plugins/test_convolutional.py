"""Gated convolutions, the held-out sentiment judge's architecture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import logsigmoid

import tiny
from fktext.errors import ModelError, UsageError
from fktext.files.weights import quantised
from fktext.plugins import load_plugins
from fktext.rewards import LogProbability, Reward, RewardContext
from fktext_plugins.convolutional import MODEL_TYPE, ConvolutionalJudge, GatedConvolutions


def create(spec: str) -> Reward:
    return load_plugins().create(spec, RewardContext(offline=True, batch_size=4)).reward


def network() -> GatedConvolutions:
    torch.manual_seed(0)
    made = GatedConvolutions(20, 8, 3, [1, 2]).eval()
    for parameter in made.norms.parameters():
        torch.nn.init.normal_(parameter)  # as after training: a norm gives even padding a value
    return made


def test_padding_does_not_matter() -> None:
    ids = torch.randint(1, 20, (3, 6))
    padded = torch.cat([ids, torch.zeros(3, 4, dtype=torch.long)], 1)
    with torch.no_grad():
        torch.testing.assert_close(network()(padded), network()(ids))


def test_windows_reach_both_ways() -> None:
    """A token's vector depends on tokens up to the sum of the dilations away, and on no other."""
    ids = torch.randint(1, 20, (1, 12))
    changed = ids.clone()
    changed[0, 5] = 1 + ids[0, 5] % 19
    with torch.no_grad():
        moved = (network().tokens(ids) != network().tokens(changed)).any(-1)[0]
    assert moved.nonzero()[:, 0].tolist() == list(range(2, 9))


def save(folder: Path, **changes: object) -> None:
    tiny.word_level(["[PAD]", "a", "b"], "a", marks=True).save(str(folder / "tokenizer.json"))
    config = {"model_type": MODEL_TYPE, "label": "positive", "width": 8, "kernel": 3, "dilations": [1, 2], "longest": 4}
    (folder / "config.json").write_text(json.dumps(config | changes))
    save_file(quantised(GatedConvolutions(3, 8, 3, [1, 2]).state_dict()), folder / "model.safetensors")


def test_a_folder(tmp_path: Path) -> None:
    save(tmp_path)
    reward = create(f"sentiment:model={tmp_path}")
    assert isinstance(reward, LogProbability)
    assert isinstance(reward.judge, ConvolutionalJudge)
    ids = torch.tensor([[1, 2, 1, 1]])  # cut at four tokens
    torch.testing.assert_close(reward.score(["a b a a b"]), logsigmoid(reward.judge.network(ids).detach().double()))


def test_contradictions(tmp_path: Path) -> None:
    save(tmp_path, width=4)
    with pytest.raises(ModelError, match=r"contradict each other: .*size mismatch"):
        create(f"sentiment:model={tmp_path}")
    save(tmp_path, label="rude")
    with pytest.raises(UsageError, match="unknown label"):
        create(f"sentiment:model={tmp_path}")
