"""Describes who runs a suite this time: machine, versions of libraries, git commit."""

from __future__ import annotations

import platform
import subprocess
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fktext

_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "detoxify", "datasets")


def session(device: str, batch_size: int | None, shard: tuple[int, int]) -> dict[str, Any]:
    """Describe this process for `sessions.jsonl`."""
    import torch

    versions = {}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "shard": "/".join(map(str, shard)),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(Path(fktext.__file__)),
    }


def _commit(file: Path) -> str | None:
    """Ask git for the commit of a source file, "-dirty" if the checkout has changes; None if it is not tracked."""
    commands = (["ls-files", "--error-unmatch", file.name], ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])
    try:
        *_, found = [
            subprocess.run(["git", "-C", str(file.parent), *command], capture_output=True, check=True, text=True).stdout
            for command in commands
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.strip()
