"""A small gated convolutional network over its own word pieces: the held-out sentiment judge.

It shares nothing with the judge that steers: no architecture, no tokenizer, no text, so what it says of a steered text is a
second opinion. Gated convolutions are those of Dauphin et al. 2017 (arXiv 1612.08083), with dilation, over both sides of a word.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fktext.batches import Batches, judging
from fktext.errors import ModelError, one_line, unknown_name
from fktext.files.weights import read_tensors
from fktext.text import well_formed

MODEL_TYPE = "fktext-convolutional"
PAD = 0


class GatedConvolutions(nn.Module):
    """Map token ids to a vector per token and a log-odds per text.

    Args:
        vocabulary: V, number of pieces.
        width: D, size of a token's vector.
        kernel: odd number of tokens that one layer sees.
        dilations: for each layer the distance between them.
    """

    def __init__(self, vocabulary: int, width: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width, padding_idx=PAD)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in dilations])
        self.mixes = nn.ModuleList([nn.Linear(kernel * width, 2 * width) for _ in dilations])
        self.last = nn.LayerNorm(width)
        self.head = nn.Linear(2 * width, 1)
        self.offsets = [[distance * (step - kernel // 2) for step in range(kernel)] for distance in dilations]

    def tokens(self, ids: Tensor) -> Tensor:
        """Map (R, L) ids to (R, L, D); zero at padding, which no other position ever sees as anything else."""
        real = (ids != PAD)[..., None]
        hidden = self.embed(ids)
        for norm, mix, offsets in zip(self.norms, self.mixes, self.offsets, strict=True):
            inner = norm(hidden) * real
            windows = torch.cat([_shifted(inner, offset) for offset in offsets], -1)
            hidden = (hidden + nn.functional.glu(mix(windows), -1)) * real
        result: Tensor = self.last(hidden) * real
        return result

    def forward(self, ids: Tensor) -> Tensor:
        """Map (R, L) ids to (R,) log-odds: linear in the mean and the maximum of the tokens' vectors."""
        return self.pooled(ids, self.tokens(ids))

    def pooled(self, ids: Tensor, hidden: Tensor) -> Tensor:
        """Map (R, L) ids and (R, L, D) vectors to (R,) log-odds."""
        real = (ids != PAD)[..., None]
        mean = hidden.sum(1) / real.sum(1)
        most = hidden.masked_fill(~real, -torch.inf).amax(1)
        odds: Tensor = self.head(torch.cat([mean, most], -1))[:, 0]
        return odds


def _shifted(hidden: Tensor, offset: int) -> Tensor:
    """Give position i the vector of position i + offset, zero beyond the ends."""
    length = hidden.shape[1]
    if abs(offset) >= length:
        return torch.zeros_like(hidden)
    if offset >= 0:
        return nn.functional.pad(hidden[:, offset:], (0, 0, 0, offset))
    return nn.functional.pad(hidden[:, :offset], (0, 0, -offset, 0))


class ConvolutionalJudge:
    """Give the log-odds of one class by `GatedConvolutions`.

    Args:
        network: in eval mode, on its device.
        tokenizer: it puts a mark at both ends of a text.
        label: name of the class.
        longest: most tokens of a text; longer texts are cut.
        batch_size: most texts per forward pass.
    """

    def __init__(self, network: GatedConvolutions, tokenizer: Tokenizer, label: str, longest: int, batch_size: int | None) -> None:
        self.network, self.tokenizer, self.label, self.longest = network, tokenizer, label, longest
        self.batches = Batches(batch_size)

    def log_odds(self, texts: Sequence[str]) -> Tensor:
        """Return (M,) float64 log(p / (1 - p)) of the class."""
        return self.batches.by_length(self._odds, [self.tokenizer.encode(well_formed(text)).ids[: self.longest] for text in texts])

    def _odds(self, rows: Sequence[Sequence[int]]) -> Tensor:
        device = self.network.embed.weight.device
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD)
        with judging(device):
            odds: Tensor = self.network(ids.to(device))
        return odds

    @classmethod
    def load(cls, folder: Path, label: str | None, device: str, batch_size: int | None) -> ConvolutionalJudge:
        """Read `config.json`, `tokenizer.json` and `model.safetensors` (int8 matrices).

        Raises:
            UsageError: `label` is not its class.
            ModelError: the files contradict each other.
        """
        config = json.loads((folder / "config.json").read_text())
        if label not in (None, config["label"]):
            raise unknown_name(f"label of {folder}:", label, [config["label"]])
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        network = GatedConvolutions(tokenizer.get_vocab_size(), config["width"], config["kernel"], config["dilations"])
        try:
            network.load_state_dict({name: tensor.float() for name, tensor in read_tensors(folder / "model.safetensors").items()})
        except RuntimeError as error:
            raise ModelError(f"{folder}: weights and config.json contradict each other: {one_line(error, None)}") from error
        return cls(network.to(device).eval(), tokenizer, config["label"], config["longest"], batch_size)
