"""What the card of an acceptability judge says of it, from the files that ship.

    python recipes/acceptability_scores.py FOLDER --data DATA

prints the table of held-out scores, and the log-odds of a few sentences that a test compares with the card's.
"""

from __future__ import annotations

import argparse
import json
import random
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from sklearn.metrics import matthews_corrcoef, roc_auc_score
from torch import Tensor

from calibration import calibration_error
from corpus import read_snippets, well_formed
from corruption import Corruptor, split_words
from fktext.files.weights import digest, weight_files
from fktext.rewards import RewardContext
from fktext_plugins.cola import cola

BLIMP_PAIRS = 100  # of each paradigm
SENTENCES = (
    "the cat sat on the mat.",
    "the cats sits on the mat.",
    "what did you leave before they did?",
    "she told me that he was late.",
    "she told me him that was late.",
    "of of the and with is.",
)

Score = Callable[[Sequence[str]], Tensor]

MEASURES = """MCC: Matthews correlation at p = .5 on CoLA's development sets, in domain (527 sentences of the sources of its
training set) and out of domain (516 of other sources). ECE: expected calibration error, the mean distance of probability and
frequency over ten bins. BLiMP (Warstadt et al. 2020): share of minimal pairs whose good sentence has the larger log-odds, the
first {blimp} pairs of each of its 67 paradigms; never trained on. JFLEG (Napoles et al. 2017): share of pairs of a learner's
sentence and a correction that differs from it, of which the correction has the larger log-odds; never trained on. Snippets: clean
held-out ones, as they are, and with one to three corruptions by the rules of `recipes/corruption.py`; their ECE is over both."""


def read_cola(path: Path) -> list[tuple[str, int]]:
    """(sentence, 1 where acceptable) of a CoLA file."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row[3], int(row[1])) for row in rows]


def held_out(score: Score, data: Path) -> dict[str, float]:
    """The held-out scores of a judge that gives (n,) log-odds of n texts."""
    scores = {}
    for name, file in (("in", "in_domain_dev"), ("out of", "out_of_domain_dev")):
        texts, labels = zip(*read_cola(data / f"acceptability/cola/{file}.tsv"), strict=True)
        found = score(texts)
        scores[f"MCC CoLA dev, {name} domain"] = float(matthews_corrcoef(labels, found > 0))
        scores[f"ROC-AUC CoLA dev, {name} domain"] = float(roc_auc_score(labels, found))
        scores[f"ECE CoLA dev, {name} domain"] = calibration_error(found, labels)
    scores["BLiMP pairs"] = share_larger(score, *blimp_pairs(data))
    scores["JFLEG pairs"] = share_larger(score, *jfleg_pairs(data))
    odds, labels = [], []
    for source, clean, worse in snippet_pairs(data):
        values, others = score(clean), score(worse)
        scores[f"p > .5, {source}"] = float((values > 0).double().mean())
        scores[f"p > .5, {source} corrupted"] = float((others > 0).double().mean())
        scores[f"{source} above its corruption"] = float((values > others).double().mean())
        odds += [values, others]
        labels += [1] * len(clean) + [0] * len(worse)
    scores["ECE snippets and corruptions"] = calibration_error(torch.cat(odds), labels)
    return scores


def share_larger(score: Score, good: Sequence[str], bad: Sequence[str]) -> float:
    """How often the good text of a pair has the larger value."""
    texts = list(dict.fromkeys([*good, *bad]))
    value = dict(zip(texts, score(texts).tolist(), strict=True))
    return sum(value[one] > value[other] for one, other in zip(good, bad, strict=True)) / len(good)


def blimp_pairs(data: Path) -> tuple[list[str], list[str]]:
    """Good sentences and bad ones."""
    good, bad = [], []
    with zipfile.ZipFile(data / "acceptability/blimp/BLiMP.zip") as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".jsonl") and "__MACOSX" not in name):
            for line in archive.read(name).decode().splitlines()[:BLIMP_PAIRS]:
                row = json.loads(line)
                good.append(row["sentence_good"])
                bad.append(row["sentence_bad"])
    return good, bad


def jfleg_pairs(data: Path) -> tuple[list[str], list[str]]:
    """Corrections and the sources they differ from, development and test set."""
    good, bad = [], []
    for part in ("dev", "test"):
        sources = (data / f"acceptability/jfleg/{part}.src").read_text(encoding="utf-8").splitlines()
        for number in range(4):
            fixed = (data / f"acceptability/jfleg/{part}.ref{number}").read_text(encoding="utf-8").splitlines()
            for better, source in zip(fixed, sources, strict=True):
                if split_words(better) != split_words(source):
                    good.append(better)
                    bad.append(source)
    return good, bad


def snippet_pairs(data: Path) -> list[tuple[str, list[str], list[str]]]:
    """For some sources of the held-out snippets: the source, its texts, and a corruption of each."""
    found = []
    snippets = read_snippets(data / "lm_mix/valid.txt.gz")
    valid = [(source, split_words(text)) for source, text in snippets if well_formed(source, text)]
    for source in ("tatoeba", "stories", "wikipedia"):
        texts = [words for origin, words in valid if origin == source and 4 <= len(words) <= 60][:300]
        corruptor = Corruptor(texts, random.Random(99))
        found.append((source, [" ".join(words) for words in texts], [" ".join(corruptor(words)[0]) for words in texts]))
    return found


def table(scores: dict[str, float]) -> str:
    """The held-out scores as Markdown."""
    rows = [f"| {name} | {value:.3f} |" for name, value in scores.items()]
    return "\n".join(["| held out | |", "|---|---|", *rows])


def specimens(folder: Path, score: Score, texts: Sequence[str]) -> str:
    """The digest of a judge's weights and the log-odds of a few texts as Markdown: what a test finds again in the files."""
    rows = [f"| {text} | {value:.3f} |" for text, value in zip(texts, score(texts).tolist(), strict=True)]
    head = f"Weights {digest(weight_files(folder))} (the first 16 digits of `sha256`). Log-odds of some texts:"
    return "\n".join([head, "", "| text | nats |", "|---|---|", *rows])


def shipped(folder: Path) -> Score:
    """The judge of a folder as the `cola` reward loads it."""
    return cola(RewardContext(offline=True), model=f"{folder.resolve()}").judge.log_odds


def figures(folder: Path, data: Path) -> str:
    """What the card says of the judge in `folder`: held-out scores, how they are measured, specimens."""
    score = shipped(folder)
    measured = table(held_out(score, data))
    return "\n\n".join([measured, MEASURES.format(blimp=BLIMP_PAIRS), specimens(folder, score, SENTENCES)])


def main() -> None:
    """Print the figures of a judge's card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a judge")
    parser.add_argument("--data", type=Path, required=True, help="directory holding acceptability/ and lm_mix/valid.txt.gz")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(figures(args.folder, args.data))


if __name__ == "__main__":
    main()
