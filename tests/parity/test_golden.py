"""Every golden file is listed, and some test uses it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fktext.masked.dit import DiT

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"


def test_every_file_is_listed_and_used() -> None:
    listed = (GOLDEN / "README.md").read_text()
    used = "".join(file.read_text() for file in HERE.glob("*.py") if file != Path(__file__))
    for file in GOLDEN.iterdir():
        if file.name not in ("README.md", "mdlm_keys.json", "sedd_keys.json"):  # these are used below
            assert f"`{file.name}" in listed, file.name
            assert file.name in used, file.name


@pytest.mark.parametrize("name", ["mdlm", "sedd"])
def test_names_and_shapes(name: str) -> None:
    listed = json.loads((GOLDEN / f"{name}_keys.json").read_text())
    shapes = {key.removeprefix("backbone."): torch.Size(shape) for key, shape in listed.items()}
    tensors = load_file(GOLDEN / f"{name}_tiny" / "model.safetensors")
    assert {key.removeprefix("backbone."): tensor.shape for key, tensor in tensors.items()} == shapes
    size = shapes["vocab_embed.embedding"][0]
    with torch.device("meta"):
        ours = DiT(vocab_size=size, hidden_dim=48, n_blocks=2, n_heads=3, cond_dim=20)
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == shapes
