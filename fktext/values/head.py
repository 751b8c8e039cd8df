"""Read a reward's value off what a network computed of an unfinished particle."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fktext.smc.process import Features

POOLED = 4  # attention-pooled vectors of a particle
WIDTH = 256  # of the two hidden layers


class Head(nn.Module):
    """Estimate the value of a finished sample's reward from the hidden states of an unfinished one.

    `POOLED` queries weigh the positions, each gives a vector; with the share of positions that are not yet known they go through
    two layers to one number z. The network itself is not touched.

    Args:
        size: D, the width of the hidden states.
        link: what z means; see `value`.
        center, scale: of the link "mean": the value is center + scale * z.
    """

    def __init__(self, size: int, link: str, center: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.size, self.link, self.center, self.scale = size, link, center, scale
        self.queries = nn.Linear(size, POOLED)
        self.layers = nn.Sequential(
            nn.LayerNorm(POOLED * size + 1),
            nn.Linear(POOLED * size + 1, WIDTH),
            nn.GELU(),
            nn.Linear(WIDTH, WIDTH),
            nn.GELU(),
            nn.Linear(WIDTH, 1),
        )

    def logit(self, features: Features) -> Tensor:
        """Return z, (M,) float32, for (M, L, D) hidden states."""
        hidden = features.hidden.float()
        weights = self.queries(hidden).softmax(1)
        pooled = torch.einsum("mlk,mld->mkd", weights, hidden).flatten(1)
        z: Tensor = self.layers(torch.cat([pooled, features.unknown[:, None].float()], 1)).squeeze(1)
        return z

    def value(self, z: Tensor) -> Tensor:
        """Map z to the estimate of the reward: log sigmoid(z) = log E[exp(r) | x_t] ("logistic"), or E[r | x_t] ("mean")."""
        return functional.logsigmoid(z) if self.link == "logistic" else self.center + self.scale * z

    @torch.inference_mode()
    def forward(self, features: Features) -> Tensor:
        """Return (M,) estimates of the reward."""
        return self.value(self.logit(features))

    def loss(self, z: Tensor, reward: Tensor) -> Tensor:
        """Return the mean loss whose minimiser is `value`.

        "logistic": the cross-entropy of the soft label exp(r), for rewards that are at most 0; bounded, and minimised by
        sigmoid(z) = E[exp(r) | x_t]. "mean": half the squared error, minimised by E[r | x_t].
        """
        if self.link == "logistic":
            return functional.binary_cross_entropy_with_logits(z, reward.exp())
        return (z - (reward - self.center) / self.scale).square().mean() / 2
