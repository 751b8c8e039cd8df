"""`fktext models check` finds what is wrong: each check on a model that lacks what it looks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import tiny
from fktext.files.catalogue import published_as
from fktext.files.weights import read_tensors
from fktext.masked.dit import DiT, from_tensors
from fktext.masked.model import MaskedModel
from fktext.models import load
from fktext.smc.noise import Noise
from fktext.testing.model_check import YARDSTICKS, Case, Yardstick, measure, run
from fktext.testing.selftest import Row


class Around:
    """A network of another one's, with something about it changed."""

    def __init__(self, network: Any, **changes: Callable[..., Tensor]) -> None:
        self.network, self.changes = network, changes

    def __getattr__(self, name: str) -> Any:
        return self.changes.get(name, getattr(self.network, name))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MaskedModel:
    """A small random BERT."""
    folder = tmp_path_factory.mktemp("bert")
    tiny.masked_lm(folder, tiny.word_level(["[MASK]", *map(str, range(49))], special=["[MASK]"]), initializer_range=0.5)
    return load(str(folder))


def failed(model: MaskedModel, **changes: Callable[..., Tensor]) -> set[str]:
    return {row.check for row in run(replace(model, denoiser=Around(model.denoiser, **changes))) if not row.passed}  # type: ignore[arg-type]


def test_a_sound_model_passes(model: MaskedModel) -> None:
    rows = list(run(model))
    assert all(row.passed for row in rows)
    assert len({row.check for row in rows}) == len(rows) == 8


def test_each_check_can_fail(model: MaskedModel) -> None:
    network: Any = model.denoiser

    def mixing(ids: Tensor, t: Tensor) -> Tensor:
        hidden = network.encode(ids, t)
        return hidden + 0.1 * hidden.mean(0, keepdim=True) * (len(ids) - 1)

    def causal(ids: Tensor, t: Tensor) -> Tensor:
        return torch.cat([network.encode(ids[:, : place + 1], t)[:, -1:] for place in range(ids.shape[1])], 1)

    def broken(hidden: Tensor) -> Tensor:
        logits = network.logits(hidden)
        logits[:, 40] = torch.nan
        return logits

    def counting(hidden: Tensor) -> Tensor:
        return network.logits(hidden) * (1 + 0.01 * len(hidden))

    assert "rows alone equal rows in a batch" in failed(model, encode=mixing)
    assert {"the first position sees the last", "encoder and head make up the whole model"} <= failed(model, encode=causal)
    assert "logits of tokens that may be drawn are finite" in failed(model, logits=broken)
    assert {"the head on some positions equals the head on all", "encoder and head make up the whole model"} <= failed(
        model, logits=counting
    )


def test_a_sampler_that_depends_on_when_it_is_weighed_is_caught(model: MaskedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from fktext.masked.process import MaskedDiffusion

    whole = MaskedDiffusion.advance

    def advance(self: Any, state: Any, k: int, k_next: int, noise: Noise) -> Any:
        return whole(self, state, k, k_next, replace(noise, key=noise.key + k))

    monkeypatch.setattr(MaskedDiffusion, "advance", advance)
    assert {row.check for row in run(model) if not row.passed} == {"N = 1 is the plain sampler"}


def test_forbidden_tokens_are_looked_for(model: MaskedModel) -> None:
    def free(wanted: Iterable[int]) -> list[Row]:
        """Checked for tokens that the process knows nothing of."""
        plain = type(model).process
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MaskedModel, "process", lambda self, *arguments: plain(model, *arguments))
            return [row for row in run(replace(model, forbidden=tuple(wanted))) if not row.passed]

    some = range(0, model.denoiser.vocab_size, 2)
    assert {row.check for row in free(some)} == {"forbidden tokens are never drawn"}


# Published numbers


@pytest.fixture(scope="module")
def golden(model: MaskedModel) -> tuple[MaskedModel, Yardstick]:
    """The golden MDLM, and a yardstick of what its reference implementation said."""
    io = load_file(tiny.GOLDEN / "mdlm_tiny.io.safetensors")
    cases = []
    for ids, logits in zip(io["input_ids"], io["raw_logits"], strict=True):
        place = int((ids == 100).nonzero()[0, 0])
        top = logits[place, :100].topk(3)
        values = dict(zip(top.indices.tolist(), top.values.tolist(), strict=True))
        cases.append(Case("...", tuple(ids.tolist()), values))
    dit: DiT = from_tensors(read_tensors(tiny.GOLDEN / "mdlm_tiny" / "model.safetensors"), {"model_length": 24}, "it").eval()
    return replace(model, denoiser=dit), Yardstick("the golden file", 1e-3, tuple(cases))


def test_the_published_weights_pass(golden: tuple[MaskedModel, Yardstick]) -> None:
    rows = list(measure(*golden))
    assert [row.passed for row in rows] == [True] * 3
    assert all(":" in row.expected and ":" in row.measured for row in rows)


def test_other_weights_do_not(golden: tuple[MaskedModel, Yardstick]) -> None:
    model, yardstick = golden
    raw = Around(model.denoiser, logits=lambda hidden: model.denoiser.logits(hidden) + 0.002)  # type: ignore[attr-defined]
    assert not any(row.passed for row in measure(replace(model, denoiser=raw), yardstick))  # type: ignore[arg-type]
    # the right numbers, but another token is likelier
    cases = tuple(case._replace(logits=dict(list(case.logits.items())[1:])) for case in yardstick.cases)
    assert not any(row.passed for row in measure(model, yardstick._replace(cases=cases)))


def test_yardsticks_are_of_models_by_name() -> None:
    assert set(YARDSTICKS) == {"mdlm-owt"}
    assert published_as("kuleshov-group/mdlm-owt") == published_as("mdlm-owt") == "mdlm-owt"
    assert published_as("./folder") == ""
    for case in YARDSTICKS["mdlm-owt"].cases:
        assert case.ids.count(50257) == 1
        assert list(case.logits.values()) == sorted(case.logits.values(), reverse=True)
