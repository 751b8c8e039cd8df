"""The golden checkpoints as folders that `--model` takes, and a masked LM beside them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[str], Path]:
    """The folder of a family's tiny model, to break as one likes."""

    def make(family: str) -> Path:
        place = tmp_path / family
        if family == "mlm":
            tiny.masked_lm(place, tiny.numbered(50, ["[PAD]", "[CLS]", "[SEP]", "[MASK]"]), initializer_range=0.5)
            return place
        tiny.golden(family, place)
        if family in ("llada", "dream"):
            (place / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
        if family == "ssdlm":
            tiny.edit(place / "config.json", fktext={"block": 5})
        return place

    return make
