"""The recipes of the embedded judges of acceptability and toxicity: their parts on small inputs."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "recipes"
pytest.importorskip("sklearn")
transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


def test_calibration_error_is_the_mean_distance_of_probability_and_frequency():
    from calibration import calibration_error

    logit = torch.special.logit
    even = logit(torch.tensor([0.25, 0.25, 0.25, 0.25, 0.75, 0.75, 0.75, 0.75]))
    assert calibration_error(even, [1, 0, 0, 0, 1, 1, 1, 0]) == pytest.approx(0, abs=1e-6)
    # two bins: four texts at .25 of which half are 1, one at .95 that is 0
    assert calibration_error(logit(torch.tensor([0.25, 0.25, 0.25, 0.25, 0.95])), [1, 1, 0, 0, 0]) == pytest.approx(
        0.2 * 0.95 + 0.8 * 0.25
    )
    assert calibration_error(torch.tensor([50.0, -50.0]), [1, 0]) == pytest.approx(0)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_best_scale_undoes_a_factor(factor):
    from calibration import best_scale

    true = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * 2
    labels = torch.bernoulli(true.sigmoid(), generator=torch.Generator().manual_seed(1)).long().tolist()
    assert best_scale(true / factor, labels) == pytest.approx(factor, rel=0.08)


def test_hatecheck_is_counted_by_functionality(tmp_path):
    from toxicity_scores import hatecheck

    file = tmp_path / "toxicity/hatecheck/test_suite_cases.csv"
    file.parent.mkdir(parents=True)
    cases = ["slur_h,bad one,hateful", "slur_h,plain,hateful", "ident_nh,plain,non-hateful", "ident_nh,bad one,non-hateful"]
    file.write_text("\n".join(["functionality,test_case,label_gold", *cases, "ident_nh,plain,non-hateful"]) + "\n")
    total, each = hatecheck(lambda texts: torch.tensor([1.0 if "bad" in text else -1.0 for text in texts]), tmp_path)
    assert each == {"slur_h": (0.5, 2), "ident_nh": (pytest.approx(2 / 3), 3)}
    assert total["accuracy hatecheck"] == pytest.approx(3 / 5)
    assert total["mean accuracy of its functionalities"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_the_rates_of_pairs_are_counted():
    from acceptability_scores import share_larger

    values = SimpleNamespace(good=2.0, bad=1.0, same=1.0)

    def score(texts):
        return torch.tensor([getattr(values, text) for text in texts])

    assert share_larger(score, ["good", "same", "bad"], ["bad", "bad", "good"]) == pytest.approx(1 / 3)


def test_matrices_in_int8_stay_within_half_a_step():
    from fktext.files.weights import dequantised, quantised

    matrix = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    small = quantised({"a": matrix})
    assert small["a"].abs().max() == 127
    half_a_step = small["a.int8_scale"].float()[:, None] / 2
    assert ((dequantised(small)["a"] - matrix).abs() <= 1.001 * half_a_step + 127 * 2**-11 * 2 * half_a_step).all()
    again = quantised(dequantised(small))
    assert torch.equal(again["a"], small["a"])  # rounding what was rounded changes nothing
