"""Every built-in reward that works offline passes `RewardConformance`, and rewards that break a rule do not."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fktext.plugins import load_plugins
from fktext.rewards import Reward, RewardContext
from fktext.testing import RewardConformance
from fktext.text import Text

SPECS = [
    'keywords:words="book lake",avoid=fool',
    'keywords:words="book lake",penalty=inf',
    "length:words=3",
    "length:min=2,max=5",
    "json",
    "length:words=3,part=continuation",
    r"regex:pattern=\bthe\b",
    "regex:pattern=zz,penalty=3",
    "toxicity:model=heldout-toxicity,target=nontoxic",
    "toxicity",
    "toxicity:part=continuation,trim=3,empty=-9",
]


@functools.cache
def built_in(spec: str, device: str = "cpu") -> Reward:
    return load_plugins().create(spec, RewardContext(device=device, offline=True, batch_size=4)).reward


class TestBuiltIn(RewardConformance):
    imports = ("fktext_plugins.builtin",)

    @pytest.fixture(params=SPECS)
    def factory(self, request: pytest.FixtureRequest) -> Callable[[RewardContext], Reward]:
        return lambda context: built_in(request.param, context.device)


class Own:
    """A reward that is a function of all samples of a call."""

    def __init__(self, score: Callable[[Sequence[str]], list[float]]) -> None:
        self.score = score


def lengths(samples: Sequence[str]) -> list[float]:
    return [float(len(text)) for text in samples]


BROKEN: dict[str, Callable[[Sequence[str]], list[float]]] = {
    "test_no_sample": lambda samples: lengths(samples) or [0.0],
    "test_one_sample": lambda samples: lengths(samples) if len(samples) > 1 else [0.0, 0.0],
    "test_equal_samples": lambda samples: [float(index) for index, _ in enumerate(samples)],
    "test_order": lambda samples: sorted(lengths(samples)),
    "test_batch_equals_singles": lambda samples: [value - sum(lengths(samples)) for value in lengths(samples)],
    "test_finite_or_minus_infinity": lambda samples: [math.log(len(text)) if text else math.nan for text in samples],
    "test_text_and_str_alike": lambda samples: [float(isinstance(text, Text)) for text in samples],
}


def test_a_control_passes() -> None:
    for name in BROKEN:
        getattr(RewardConformance(), name)(Own(lengths))


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_a_rule_is_caught(name: str) -> None:
    with pytest.raises(AssertionError):
        getattr(RewardConformance(), name)(Own(BROKEN[name]))


def test_every_rule_has_such_a_control() -> None:
    rules = {name for name in dir(RewardConformance) if name.startswith("test_")}
    assert rules - {"test_other_devices", "test_no_network_at_import"} == set(BROKEN)  # theirs follow


def test_what_depends_on_the_device_is_caught() -> None:
    rules = RewardConformance()
    rules.devices = ("meta",)  # a device that every torch has
    rules.test_other_devices(lambda context: Own(lengths), Own(lengths))
    with pytest.raises(AssertionError, match="meta and cpu differ"):
        rules.test_other_devices(lambda context: Own(lambda samples: [float(context.device == "cpu")] * len(samples)), Own(lengths))
    with pytest.raises(pytest.skip.Exception, match="no fixture `factory`"):
        rules.test_other_devices(None, Own(lengths))


@pytest.mark.parametrize("swallows", [False, True])
def test_a_network_at_import_is_caught(swallows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = "import urllib.request\nurllib.request.urlopen('http://localhost:9/model.bin', timeout=1)"
    text = f"try:\n    {call.replace(chr(10), chr(10) + '    ')}\nexcept OSError:\n    pass" if swallows else call
    (tmp_path / f"asks_{swallows}.py").write_text(text)
    (tmp_path / f"silent_{swallows}.py").write_text("import socket, urllib.request")
    (tmp_path / f"wrong_{swallows}.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    rules = RewardConformance()
    rules.imports = (f"silent_{swallows}",)
    rules.test_no_network_at_import(Own(lengths))
    rules.imports = (f"silent_{swallows}", f"asks_{swallows}")
    with pytest.raises(AssertionError, match=rf"importing silent_{swallows} and asks_{swallows} uses the network: .*"):
        rules.test_no_network_at_import(Own(lengths))
    rules.imports = (f"wrong_{swallows}",)
    with pytest.raises(AssertionError, match=r"cannot be imported alone:\n(.*\n)*ZeroDivisionError"):
        rules.test_no_network_at_import(Own(lengths))
