"""Replay runs of reference implementations: their uniforms in the place of noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fktext.masked.blocks import BlockModel
from fktext.masked.strides import Strides
from fktext.settings import Settings
from fktext.smc import noise as streams
from fktext.smc.noise import Noise
from fktext.texts.model import TextModel


class Fixed:
    """A denoiser that says the same whatever it sees; the mask is its last token."""

    max_length, time_dependent = 24, False
    device = torch.device("cpu")

    def __init__(self, raw: Tensor) -> None:
        self.raw, self.vocab_size, self.mask_id = raw, raw.shape[-1], raw.shape[-1] - 1

    def encode(self, ids: Tensor, t: Tensor) -> Tensor:
        return self.raw.expand(len(ids), -1, -1)

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden


class Recorded:
    """The golden file's uniforms of a block in the place of noise."""

    def __init__(self, reveal: Tensor, token: Tensor, begin: int) -> None:
        steps = len(reveal)
        first = (reveal < (1 / torch.arange(steps, 0, -1))[:, None]).double().argmax(0)  # 1 - s/t of each step
        self.when, self.token, self.begin = 1 - (first + 0.5) / steps, token, begin

    def uniform(self, stream: int, step: Tensor | int, position: Tensor, rows: Tensor | None = None) -> Tensor:
        if stream == streams.REVEAL:
            return self.when[(position - self.begin).clamp(min=0)][None]
        assert stream == streams.TOKEN
        return self.token[step - 1, position - self.begin]


def follow(model: TextModel, decoded: dict[str, Tensor], index: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Take a model through an ancestral run of its reference, and compare each state; return its process."""
    reveal, token, states, tokens = (decoded[f"ancestral.{index}{part}"] for part in (".u_reveal", ".u_token", ".states", ""))
    prompt = decoded[f"prompt.{index}"].tolist()
    words, block = " ".join(f"w{token}" for token in prompt), model.block if isinstance(model, BlockModel) else None
    begins = [(len(prompt) // block + number) * block for number in range(len(reveal))] if block else [0]
    recorded: list[Any] = [Recorded(*block) for block in zip(reveal, token, begins, strict=True)]
    monkeypatch.setattr(Strides, "_noise", lambda self, noise, number: recorded[number])
    run = model.resolve(Settings(method="base", particles=1, length=len(tokens), steps=reveal.shape[1], kernel="ancestral"))
    template = model.template(words, len(tokens))
    assert template.tolist() == [*prompt, *[model.denoiser.mask_id] * (len(tokens) - len(prompt))]
    process = model.process([words], [template], run, 8)
    noise = Noise.of([0], 1) if block else recorded[0]
    state = process.init(noise)
    for k in range(process.num_steps):
        state = process.advance(state, k, k + 1, noise)
        assert torch.equal(state.ids[0], states[k])
    assert torch.equal(state.ids[0], tokens)
    return process
