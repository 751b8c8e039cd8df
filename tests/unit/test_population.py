"""What a population shows of itself."""

import math

import pytest
import torch

import fktext
from fktext.rewards import Weighted


class Words:
    """Few different values, so that texts that are equal meet."""

    def score(self, texts):
        return [float(len(str(text).split())) for text in texts]


class Never:
    def score(self, texts):
        return [-math.inf for _ in texts]


@pytest.fixture(scope="module")
def model():
    return fktext.load("tiny-mdlm")


@pytest.fixture(scope="module")
def population(model):
    [found] = fktext.generate(model, [Words(), Weighted("again", Words())], "the <b> cat", particles=6, length=8, steps=8, lam=3.0)
    return found


def test_equal_texts_share_their_weight(population):
    found = population.posterior()
    assert sum(item.particles for item in found) == 6
    assert sum(item.weight for item in found) == pytest.approx(1)
    assert len({str(item.sample) for item in found}) == len(found) == len(set(population.texts)) < 6
    assert [item.weight for item in found] == sorted((item.weight for item in found), reverse=True)
    for item in found:
        same = [place for place, text in enumerate(population.texts) if text == item.sample]
        assert item.weight == pytest.approx(float(population.log_w.exp()[same].sum()))
        assert item.reward == float(population.rewards[same[0]])


def test_a_table_has_a_row_per_particle(population):
    table = population.to_pandas()
    assert list(table.columns) == ["sample", "weight", "log_weight", "reward", "root", "Words", "again"]
    assert table["sample"].tolist() == [str(text) for text in population.texts]
    assert table["weight"].sum() == pytest.approx(1)
    assert (table["Words"] + table["again"] == table["reward"]).all()


def test_what_a_notebook_shows_is_escaped_and_short(population):
    assert len(repr(population)) < 200
    assert repr(population).startswith("<Population of 6: prompt 'the <b> cat', sample 0; log Z ")
    page = population._repr_html_()
    assert "<b>" not in page
    assert page.count("<tr>") == 1 + len(population.posterior())


def test_a_plot_has_the_weighings(population, tmp_path):
    figure = population.plot()
    upper, lower = figure.axes
    assert upper.lines[0].get_xdata().tolist() == [step.k for step in population.steps]
    assert upper.lines[0].get_ydata().tolist() == [float(step.ess) for step in population.steps]
    assert lower.lines[-1].get_ydata().tolist() == [float(step.reward.max()) for step in population.steps]
    figure.savefig(tmp_path / "run.png")


def test_a_dead_population_shows_itself_too(model):
    [dead] = fktext.generate(model, Never(), "the cat", particles=3, length=8, steps=4)
    assert "dead" in repr(dead)
    assert "log Z = -inf" in dead._repr_html_()
    assert dead.to_pandas()["weight"].tolist() == [0, 0, 0]
    dead.plot()
    assert torch.isinf(dead.log_w).all()
