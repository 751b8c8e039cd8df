"""Muon, an optimizer for matrices: momentum whose every step is made orthogonal.

Jordan et al. 2024; the step's length as in Liu et al. 2025, arXiv 2502.16982. `torch.optim.Muon` computes in bfloat16 whatever the
weights are, and on a processor without bfloat16 such a product took 22 times as long as in float32. This one computes in the
precision of its weights, or in that of an autocast around `step`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

ITERATIONS = 4
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's: singular values end in about (0.7, 1.2), small ones rise fastest


def orthogonal(matrix: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """U V^T, nearly, of a matrix U S V^T, by Newton-Schulz iteration."""
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(iterations):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum, decoupled weight decay and steps as long as AdamW's (root mean square 0.2 `lr`)."""

    def __init__(self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Make one step along the orthogonal momentum of each matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum"] = torch.zeros_like(matrix)
                state["momentum"].lerp_(matrix.grad, 1 - group["momentum"])
                direction = orthogonal(matrix.grad.lerp(state["momentum"], group["momentum"]))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(direction, alpha=-0.2 * math.sqrt(max(matrix.shape)) * group["lr"])
