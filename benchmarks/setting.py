"""What the benchmarks share: networks of random weights, and the name of the machine, the fit of a power."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path
from typing import Any

import torch

from fktext.masked.dit import DiT

SIZES = {
    "owt": {"vocab_size": 50_258, "hidden_dim": 768, "n_blocks": 12, "n_heads": 12, "cond_dim": 128},
    "embedded": {"vocab_size": 12_001, "hidden_dim": 384, "n_blocks": 6, "n_heads": 12, "cond_dim": 32},
    "small": {"vocab_size": 2_000, "hidden_dim": 128, "n_blocks": 2, "n_heads": 4, "cond_dim": 32},
}


def network(size: str, length: int, device: str, dtype: torch.dtype = torch.float32) -> Any:
    """A DiT in MDLM's layout, random weights."""
    torch.manual_seed(0)
    net = DiT(**SIZES[size], model_length=length).eval().requires_grad_(False)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return net.to(device, dtype)


def exponent(x: list[int], y: list[float]) -> float:
    """Slope of log y against log x."""
    logs = [(math.log(a), math.log(b)) for a, b in zip(x, y, strict=True)]
    mean_x, mean_y = (sum(column) / len(logs) for column in zip(*logs, strict=True))
    return sum((a - mean_x) * (b - mean_y) for a, b in logs) / sum((a - mean_x) ** 2 for a, _ in logs)


def hardware(device: str) -> str:
    """What this runs on, for the head of a table."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    name = next(named, platform.processor() or platform.machine())
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"
