"""What the cards of the embedded models say is found again in the files that ship."""

import json
import re

import pytest

import fktext
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


def test_the_bound_in_tiny_mdlms_card_is_the_last_of_its_log():
    last = json.loads((embedded.path("tiny-mdlm") / "training.jsonl").read_text().splitlines()[-1])
    said = re.search(r"at most ([\d.]+) nats per\s+token and ([\d.]+) nats per character", card("tiny-mdlm"))
    assert said is not None
    assert [float(said[1]), float(said[2])] == [round(last["held_out"], 2), round(last["held_out_per_character"], 3)]


def test_the_first_texts_in_tiny_mdlms_card_are_those_it_writes():
    rows = re.findall(r"^\| (.+) \|$", card("tiny-mdlm").split("## The first 20 texts")[1], re.MULTILINE)[1:]
    assert len(rows) == 20
    texts = [str(found.texts[0]) for found in fktext.generate("tiny-mdlm", samples=20, seed=77)]
    assert [row.replace("\\|", "|") for row in rows] == texts


def test_tiny_ssdlms_card_says_where_its_log_begins_and_ends():
    log = [json.loads(line) for line in (embedded.path("tiny-ssdlm") / "training.jsonl").read_text().splitlines()]
    rows = dict(re.findall(r"^\| (\w+ block, before) \| (.+) \|$", card("tiny-ssdlm"), re.MULTILINE))
    for name, key in (("first block, before", "held_out"), ("second block, before", "held_out_second")):
        assert [float(cell) for cell in rows[name].split(" | ")] == log[0][key]
    assert f"{log[-1]['step']:,} steps from there, {log[-1]['tokens'] / 1e6:.2f} M tokens" in card("tiny-ssdlm")
    assert log[-1]["held_out"][2] < log[0]["held_out"][2]


@pytest.mark.parametrize("name", ["toxic", "nontoxic", "positive", "negative"])
def test_a_values_card_says_what_its_file_does_and_belongs_to_the_models_here(name):
    folder = embedded.path(f"tiny-mdlm-{name}")
    about = json.loads((folder / "value.json").read_text())
    assert about["model_digest"] == digest(weight_files(embedded.path("tiny-mdlm"))) in card(folder.name)
    said = re.search(r"Held-out loss (\d\.\d+), of the best constant (\d\.\d+)", card(folder.name))
    assert said is not None
    assert [float(said[1]), float(said[2])] == [round(about["loss"], 4), round(about["chance"], 4)]
    assert about["loss"] < about["chance"]
