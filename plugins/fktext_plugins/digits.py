"""`digit`: the embedded judges of handwritten digits, 8x8 pixels, and the reward they give. Made by `recipes/digits.py`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn

from fktext.batches import Batches
from fktext.embedded import path as embedded_path
from fktext.errors import RewardError
from fktext.rewards import Judged, RewardContext

SIZE = 8
CLASSES = 10
Judge = Literal["tiny-digit-judge", "heldout-digit-judge"]


class Convolutions(nn.Module):
    """`tiny-digit-judge`: two layers of convolutions.

    Args:
        channels: of the first layer; the second has twice as many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * channels * (SIZE // 2) ** 2, CLASSES),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (R, 1, 8, 8) in [0, 1] to (R, 10) logits."""
        logits: Tensor = self.layers(pixels)
        return logits


class Parzen(nn.Module):
    """`heldout-digit-judge`: Bayes' rule with a kernel density of each class, p(x | c) = mean_i N(x; x_i, bandwidth^2 I).

    Source: Parzen 1962, "On estimation of a probability density function and mode".

    Args:
        count: images it keeps.
        bandwidth: of the kernel, in pixel values of 0 to 1.
    """

    images: Tensor
    labels: Tensor

    def __init__(self, count: int, bandwidth: float) -> None:
        super().__init__()
        self.bandwidth = bandwidth
        self.register_buffer("images", torch.zeros(count, SIZE * SIZE, dtype=torch.uint8))
        self.register_buffer("labels", torch.zeros(count, dtype=torch.uint8))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (R, 1, 8, 8) in [0, 1] to (R, 10) log-densities, up to a constant; every class is equally likely beforehand."""
        kept, labels = self.images.float() / 16, self.labels.long()
        log_kernel = -torch.cdist(pixels.flatten(1), kept).square() / (2 * self.bandwidth**2)
        densities = [log_kernel[:, labels == label].logsumexp(1) - math.log((labels == label).sum()) for label in range(CLASSES)]
        return torch.stack(densities, 1)


KINDS = {"digit-convolutions": Convolutions, "digit-parzen": Parzen}


def load(folder: Path, device: str = "cpu") -> nn.Module:
    """Load a judge that `recipes/digits.py` wrote."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    judge: nn.Module = KINDS[config.pop("model_type")](**config)
    judge.load_state_dict(load_file(folder / "model.safetensors"))
    return judge.to(device).eval()


def small_grey(images: Sequence[Any]) -> Tensor:
    """Return (R, 1, 8, 8) of images: their mean over channels, each square of pixels averaged to one.

    Raises:
        RewardError: a side is not a multiple of 8.
    """
    grey = [image.pixels.mean(0, keepdim=True) for image in images]
    if wrong := [each for each in grey if any(side % SIZE for side in each.shape[1:])]:
        shape = "x".join(map(str, wrong[0].shape[1:]))
        raise RewardError(f"digits have {SIZE}x{SIZE} pixels or a multiple, and an image came as {shape}")
    return torch.stack([nn.functional.adaptive_avg_pool2d(each, SIZE) for each in grey])


class Digit(Judged):
    """Score images by log p(label | image).

    Args:
        name: an embedded judge.
        label: 0 to 9.
        context: where to compute.
    """

    log_probability = True

    def __init__(self, name: Judge, label: int, context: RewardContext) -> None:
        folder = embedded_path(name)
        super().__init__(name, f"towards the digit {label}", folder)
        self.label, self.context = label, context
        self._judge, self._batches = load(folder, context.device), Batches(context.batch_size)

    def second_opinion(self) -> Digit | None:
        """Make a judge of another kind that learned from other images; None for that one itself."""
        return None if self.model == "heldout-digit-judge" else Digit("heldout-digit-judge", self.label, self.context)

    def score(self, samples: Sequence[Any]) -> Tensor:
        """Return (M,) float64 log-probabilities."""
        return self._batches(self._log_p, samples)

    def _log_p(self, images: Sequence[Any]) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = self._judge(small_grey(images).to(self.context.device))
        return logits.double().log_softmax(1)[:, self.label]


def digit(context: RewardContext, *, label: Annotated[int, Field(ge=0, le=9)], model: Judge = "tiny-digit-judge") -> Digit:
    """Make the reward `digit`.

    Args:
        context: where to run, images per forward pass.
        label: the digit.
        model: the embedded judge; the held-out one is for measuring.
    """
    return Digit(model, label, context)
