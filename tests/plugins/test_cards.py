"""What the cards of the embedded judges say is found again in the files that ship."""

import re

import pytest

from fktext import embedded
from fktext.files.weights import digest, tensor_shapes, weight_files
from fktext.rewards import RewardContext
from fktext_plugins.cola import cola
from fktext_plugins.toxicity import toxicity

JUDGES = {"tiny-cola": cola, "heldout-cola": cola, "tiny-toxicity": toxicity, "heldout-toxicity": toxicity}


def card(name: str) -> str:
    return (embedded.path(name) / "MODEL_CARD.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", JUDGES)
def test_a_card_is_of_the_weights_beside_it(name):
    found = re.search(r"^Weights (\w{16}) ", card(name), re.MULTILINE)
    assert found is not None
    assert found[1] == digest(weight_files(embedded.path(name)))


@pytest.mark.parametrize("name", JUDGES)
def test_the_log_odds_in_a_card_are_those_of_the_judge(name):
    rows = re.findall(r"^\| (.+) \| (-?[\d.]+) \|$", card(name).split("Log-odds of some texts:")[1], re.MULTILINE)
    assert len(rows) == 6
    odds = JUDGES[name](RewardContext(offline=True), model=name).judge.log_odds([text for text, _ in rows])
    assert odds.tolist() == pytest.approx([float(value) for _, value in rows], abs=1e-3)


@pytest.mark.parametrize("name", [name for name in JUDGES if name != "heldout-toxicity"])
def test_the_parameters_in_a_card_are_those_of_the_weights(name):
    count = 0
    for file in weight_files(embedded.path(name)):
        for shape in tensor_shapes(file).values():
            size = 1
            for axis in shape:
                size *= axis
            count += size
    said = re.search(r"([\d,]+) parameters", card(name))
    assert said is not None
    assert int(said[1].replace(",", "")) == count
