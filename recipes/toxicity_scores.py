"""What the card of a toxicity judge says of it, from the files that ship.

    python recipes/toxicity_scores.py FOLDER --data DATA

prints the table of held-out scores, HateCheck by functionality, and the log-odds of a few sentences that a test compares with the
card's.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from collections import defaultdict
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score

from acceptability_scores import Score, specimens
from calibration import calibration_error
from corpus import read_snippets
from fktext.rewards import RewardContext
from fktext_plugins.toxicity import toxicity

SENTENCES = (
    "thank you for your help.",
    "you are an idiot.",
    "you are not an idiot.",
    "this is damn good.",
    "my neighbours are muslims.",
    "nobody wants you here, go away.",
)
SNIPPETS = ("tatoeba", "stories", "sgd", "wikipedia", "books")

MEASURES = """ROC-AUC jigsaw: 1,000 toxic and 1,000 other comments of Wikipedia talk pages. ROC-AUC impermium_verif: 2,214
comments of another site (the Impermium insults challenge), with other ideas of what an insult is. ECE: expected calibration error,
the mean distance of probability and frequency over ten bins, on these files, of which half and {share:.0%} are toxic. p > .5: the
share of clean held-out snippets that get more than one half; some of those are rude indeed.

HateCheck (Roettger et al. 2021) is made of short cases that differ in who is meant and how, not in their words. Share of the cases
of each functionality that are on the right side of p = .5; `_h` are hateful, `_nh` are not; never trained on:"""


def read_labelled(path: Path) -> list[tuple[str, int]]:
    """(text, label) rows of a JSONL file, gzipped or not; label 1 is toxic."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        return [(row["text"], row["label"]) for row in map(json.loads, lines)]


def held_out(score: Score, data: Path) -> dict[str, float]:
    """The held-out scores of a judge that gives (n,) log-odds of n texts."""
    scores = {}
    for name in ("jigsaw", "impermium_verif"):
        texts, labels = zip(*read_labelled(data / f"toxicity/ready/tox_heldout_{name}.jsonl"), strict=True)
        found = score(texts)
        scores[f"ROC-AUC {name}"] = float(roc_auc_score(labels, found))
        scores[f"ECE {name}"] = calibration_error(found, labels)
    valid = list(read_snippets(data / "lm_mix/valid.txt.gz"))
    for source in SNIPPETS:
        found = score([text for origin, text in valid if origin == source])
        scores[f"p > .5 on {source}"] = float((found > 0).double().mean())
    return scores


def hatecheck(score: Score, data: Path) -> tuple[dict[str, float], dict[str, tuple[float, int]]]:
    """ROC-AUC and accuracy over all cases; of each functionality, the accuracy and the number of cases."""
    with (data / "toxicity/hatecheck/test_suite_cases.csv").open(encoding="utf-8", newline="") as lines:
        cases = list(csv.DictReader(lines))
    hateful = [case["label_gold"] == "hateful" for case in cases]
    found = score([case["test_case"] for case in cases])
    right = ((found > 0) == torch.tensor(hateful)).double()
    members: dict[str, list[int]] = defaultdict(list)
    for index, case in enumerate(cases):
        members[case["functionality"]].append(index)
    each = {name: (float(right[rows].mean()), len(rows)) for name, rows in members.items()}
    total = {"ROC-AUC hatecheck": float(roc_auc_score(hateful, found)), "accuracy hatecheck": float(right.mean())}
    total["mean accuracy of its functionalities"] = sum(value for value, _ in each.values()) / len(each)
    return total, each


def table(scores: dict[str, float]) -> str:
    """The held-out scores as Markdown."""
    rows = [f"| {name} | {value:.3f} |" for name, value in scores.items()]
    return "\n".join(["| held out | |", "|---|---|", *rows])


def shipped(folder: Path) -> Score:
    """The judge of a folder as the `toxicity` reward loads it."""
    return toxicity(RewardContext(offline=True), model=f"{folder.resolve()}").judge.log_odds


def figures(folder: Path, data: Path) -> str:
    """What the card says of the judge in `folder`: held-out scores, how they are measured, HateCheck, specimens."""
    score = shipped(folder)
    total, each = hatecheck(score, data)
    labels = [label for _, label in read_labelled(data / "toxicity/ready/tox_heldout_impermium_verif.jsonl")]
    rows = [f"| {name} | {count} | {value:.2f} |" for name, (value, count) in each.items()]
    cases = "\n".join(["| HateCheck | cases | right |", "|---|---|---|", *rows])
    text = MEASURES.format(share=sum(labels) / len(labels))
    return "\n\n".join([table(held_out(score, data) | total), text, cases, specimens(folder, score, SENTENCES)])


def main() -> None:
    """Print the figures of a judge's card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a judge")
    parser.add_argument("--data", type=Path, required=True, help="directory holding toxicity/ and lm_mix/valid.txt.gz")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(figures(args.folder, args.data))


if __name__ == "__main__":
    main()
