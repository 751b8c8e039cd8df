"""A bag of hashed word and character n-grams with a weight each: the logistic regression behind the held-out judges.

It shares nothing with the networks that steer: no encoder, no tokenizer, no training text; so what it says of a steered text is a
second opinion. Features are hashed (Weinberger et al. 2009, arXiv 0902.2206) by CRC-32, which is the same everywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import torch
from safetensors.torch import load_file
from torch import Tensor

from fktext.errors import ModelError, unknown_name
from fktext.text import well_formed

MODEL_TYPE = "fktext-ngram"
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Features:
    """Say which n-grams count, and into how many buckets they are hashed.

    Attributes:
        buckets: B, the size of the weight vector.
        words: longest n-gram of words and punctuation marks.
        characters: shortest and longest n-gram of characters; each within one word, whose ends count as a space.
    """

    buckets: int
    words: int
    characters: tuple[int, int]

    def __call__(self, text: str) -> dict[int, float]:
        """Map a text to bucket -> value: 1 for a bucket that is hit, divided by the square root of how many are."""
        hit = {crc32(gram.encode()) % self.buckets for gram in self.grams(text)}
        return dict.fromkeys(hit, len(hit) ** -0.5) if hit else {}

    def grams(self, text: str) -> Iterator[str]:
        """Yield every n-gram of the lower-cased text."""
        words = _WORD.findall(well_formed(text).lower())
        for size in range(1, self.words + 1):
            for start in range(len(words) - size + 1):
                yield "w" + " ".join(words[start : start + size])
        shortest, longest = self.characters
        for word in words:
            padded = f" {word} "
            for size in range(shortest, longest + 1):
                for start in range(len(padded) - size + 1):
                    yield "c" + padded[start : start + size]


class NgramJudge:
    """Give the log-odds of one class by logistic regression over `Features`.

    Args:
        features: the featuriser.
        weights: (B,) a weight per bucket.
        bias: log-odds of a text without features, such as "".
        label: name of the class.
    """

    def __init__(self, features: Features, weights: Tensor, bias: float, label: str) -> None:
        self.features, self.weights, self.bias, self.label = features, weights.double(), bias, label

    def log_odds(self, texts: Sequence[str]) -> Tensor:
        """Return (M,) float64 log(p / (1 - p)) of the class."""
        return torch.tensor([self.bias + self._sum(self.features(text)) for text in texts], dtype=torch.float64)

    def _sum(self, values: dict[int, float]) -> float:
        found = self.weights[torch.tensor(list(values), dtype=torch.long)]
        return float(found @ torch.tensor(list(values.values()), dtype=torch.float64))

    @classmethod
    def load(cls, folder: Path, label: str | None = None) -> NgramJudge:
        """Read `config.json` and `model.safetensors`.

        Raises:
            UsageError: `label` is not its class.
            ModelError: the files contradict each other.
        """
        config = json.loads((folder / "config.json").read_text())
        if label not in (None, config["label"]):
            raise unknown_name(f"label of {folder}:", label, [config["label"]])
        tensors = load_file(folder / "model.safetensors")
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if shapes != {"weight": (config["buckets"],), "bias": (1,)}:
            raise ModelError(f"{folder}/model.safetensors holds {shapes}; expected weight ({config['buckets']},) and bias (1,)")
        features = Features(config["buckets"], config["words"], tuple(config["characters"]))
        return cls(features, tensors["weight"], float(tensors["bias"]), config["label"])
