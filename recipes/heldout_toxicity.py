"""Train the embedded held-out toxicity judge `heldout-toxicity`: logistic regression on hashed n-grams.

    python recipes/heldout_toxicity.py --data DATA --out weights/fktext_weights/heldout-toxicity

Texts steered by one judge are to be measured by another. This one shares no training text with `tiny-toxicity` (news comments,
tweets and posts, not talk pages; the other half of the clean snippets), no architecture, no tokenizer and no seed. Hate is often
said in plain words, so posts that derogate women are among the toxic texts, and snippets that name groups of people among the
others.
"""

from __future__ import annotations

import argparse
import ast
import csv
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.sparse import csr_matrix
from sklearn.linear_model import SGDClassifier

from calibration import best_scale
from fktext_plugins.ngram import MODEL_TYPE, Features
from toxicity_judge import clean_snippets, naming_snippets
from toxicity_scores import figures, read_labelled

FEATURES = Features(buckets=1_000_000, words=2, characters=(2, 5))
CLEAN_SNIPPETS = {"tatoeba": 20_000, "stories": 12_000, "wikipedia": 12_000, "books": 6_000, "onestop": 5_000, "sgd": 4_000}
NAMING = {"tatoeba": 2_000, "stories": 500, "wikipedia": 2_500, "onestop": 1_000}  # snippets that name a group of people
ASIDE = 10_000  # texts that the scale of the log-odds is fitted to
RUDE = 0.5  # a "clean" snippet that a first fit gives more than this is left out of the second
# GoEmotions labels
ANGER = 2
KIND = {0, 4, 5, 8, 13, 15, 17, 18, 20, 21, 23, 27}  # admiration, approval, caring, desire, ..., relief, neutral

CARD = """# heldout-toxicity

The second opinion on toxicity: a logistic regression on hashed n-grams, class `toxicity`. Used to measure texts that were steered
by another judge; it shares no training text, architecture, tokenizer or seed with `tiny-toxicity`. It is a reward too
(`toxicity:model=heldout-toxicity`), but a text steered by it must then be measured by something else.

- Architecture: {buckets:,} weights, one for each bucket of a CRC-32 hash of word 1- to {words}-grams and of character
  {shortest}- to {longest}-grams within a word; a text's distinct buckets count 1 / sqrt(their number) each.
  {megabytes:.1f} MB in float16.
- Training data, toxic: {civil:,} Civil Comments of which two thirds of the raters marked a toxic span, and {spans:,} such spans
  alone (CC0); {davidson_toxic:,} offensive tweets (Davidson et al. 2017, MIT); {anger:,} angry Reddit comments of GoEmotions (CC BY
  4.0); {sexist:,} posts of Reddit and Gab that derogate or threaten women (EDOS, Kirk et al. 2023, CC0).
- Training data, other: {cut:,} Civil Comments without their toxic spans (CC0); {davidson_clean:,} tweets (MIT); {kind:,} neutral or
  kind comments of GoEmotions; {clean}
  snippets, and {naming:,} more that name groups of people (Tatoeba CC BY 2.0 FR; TinyStories CDLA-Sharing-1.0, African Storybook
  and Pratham Books CC BY, public-domain tales and books; Wikipedia CC BY-SA 3.0; OneStopEnglish and Schema-Guided Dialogue CC BY-SA
  4.0), less {left_out} of the first that a first fit found likely to be rude. Of all of these, {aside:,} were kept aside, and the
  scale of the log-odds was fitted to them.
- Licence of the weights: CC BY-SA 4.0, the share-alike licence that all of these texts allow.
- Recipe: `python recipes/heldout_toxicity.py --data DATA --out weights/fktext_weights/heldout-toxicity` (averaged
  SGD, {epochs} epochs, seed {seed}).

Measured from the files that ship, by `python recipes/toxicity_scores.py weights/fktext_weights/heldout-toxicity --data DATA`; none
of its sites is in the training data, but which sources went into the mix was decided with the first two files in sight:

{figures}

## Limits

It knows words, not sentences: a denial or a quotation of an insult counts as the insult. Labels are those of crowd workers; tweets
in African-American English and mentions of identities are flagged more than they should be. English only.
"""


def comments(data: Path) -> dict[str, tuple[list[str], int]]:
    """Labelled comments by group: (texts, label)."""
    civil = [
        row["text"] for row in _json_rows(data / "toxicity/civil_comments_spans/civil_agg.jsonl.gz") if row["frac_span"] >= 2 / 3
    ]
    spans, cut = [], []
    for name in ("tsd_train.csv.gz", "tsd_trial.csv", "tsd_test.csv"):
        for row in _csv_rows(data / "toxicity/civil_comments_spans" / name):
            text, marked = row["text"], set(ast.literal_eval(row["spans"]))  # character positions
            if 0 < len(marked) <= 0.6 * len(text):  # what is left of the others says little
                spans.append("".join(letter for index, letter in enumerate(text) if index in marked))
                cut.append("".join(" " if index in marked else letter for index, letter in enumerate(text)))
    tweets = [row for row in _json_rows(data / "toxicity/ready/tox_evaluator_train.jsonl.gz") if row["src"] == "davidson"]
    angry, kind = [], []
    for row in _csv_rows(data / "lm/goemotions/train.tsv.gz", delimiter="\t", quoting=csv.QUOTE_NONE):
        emotions = {int(label) for label in row["label"].split(",")}
        text = row["text"].replace("[NAME]", "John").replace("[RELIGION]", "Christian")
        if ANGER in emotions:
            angry.append(text)
        elif emotions <= KIND:
            kind.append(text)
    edos = _csv_rows(data / "toxicity/edos/edos_labelled_aggregated.csv.gz")
    sexist = [row["text"] for row in edos if row["label_category"][:2] in ("1.", "2.")]  # threats, derogation
    return {
        "sexist": (sexist, 1),
        "civil": (civil, 1),
        "spans": (spans, 1),
        "davidson_toxic": ([row["text"] for row in tweets if row["label"]], 1),
        "anger": (angry, 1),
        "cut": (cut, 0),
        "davidson_clean": ([row["text"] for row in tweets if not row["label"]], 0),
        "kind": (kind, 0),
    }


def without(held: set[str], groups: dict[str, tuple[list[str], int]]) -> dict[str, tuple[list[str], int]]:
    """The groups without copies of held-out texts."""
    return {name: ([text for text in texts if _plain(text) not in held], label) for name, (texts, label) in groups.items()}


def matrix(texts: Sequence[str], features: Features = FEATURES) -> csr_matrix:
    """(n, buckets) values of the features."""
    values, buckets, offsets = [], [], [0]
    for text in texts:
        found = features(text)
        buckets.append(np.fromiter(found, np.int32, len(found)))
        values.append(np.fromiter(found.values(), np.float32, len(found)))
        offsets.append(offsets[-1] + len(found))
    return csr_matrix((np.concatenate(values), np.concatenate(buckets), offsets), shape=(len(texts), features.buckets))


def main() -> None:
    """Train, export, print the held-out scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory holding toxicity/, lm/goemotions/ and lm_mix/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--penalty", type=float, default=1e-6, help="L2")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    files = [args.data / f"toxicity/ready/tox_heldout_{name}.jsonl" for name in ("jigsaw", "impermium_verif")]
    held = {_plain(text) for file in files for text, _ in read_labelled(file)}
    groups = without(held, comments(args.data))
    clean = clean_snippets(args.data / "lm_mix/train.txt.gz", CLEAN_SNIPPETS, 1, args.seed)
    naming = naming_snippets(args.data / "lm_mix/train.txt.gz", NAMING, 1, clean, args.seed)
    groups |= {"naming": (naming, 0)}
    texts = [text for group, _ in groups.values() for text in group] + clean
    labels = np.concatenate([np.full(len(group), label) for group, label in groups.values()] + [np.zeros(len(clean))])
    print({name: len(group) for name, (group, _) in groups.items()}, f"{len(clean):,} clean snippets", flush=True)
    features = matrix(texts)
    aside = np.zeros(len(texts), bool)
    aside[np.random.default_rng(args.seed).choice(len(texts), ASIDE, replace=False)] = True

    model = SGDClassifier(
        loss="log_loss", alpha=args.penalty, max_iter=args.epochs, tol=None, average=True, random_state=args.seed
    ).fit(features[~aside], labels[~aside])
    kept = np.ones(len(texts), bool)
    kept[-len(clean) :] = model.predict_proba(features[-len(clean) :])[:, 1] <= RUDE
    print(f"{(~kept).sum():,} of {len(clean):,} snippets left out as likely rude", flush=True)
    model.fit(features[kept & ~aside], labels[kept & ~aside])
    measured = kept & aside
    scale = best_scale(torch.from_numpy(model.decision_function(features[measured])), labels[measured].tolist())
    print(f"scale {scale:.2f}", flush=True)

    args.out.mkdir(parents=True, exist_ok=True)
    weights = {
        "weight": torch.from_numpy(scale * model.coef_[0]).half(),
        "bias": torch.from_numpy(scale * model.intercept_).float(),
    }
    save_file(weights, args.out / "model.safetensors")
    (args.out / "model.safetensors").chmod(0o644)  # some versions of safetensors write files that only their owner can read
    settings = {"model_type": MODEL_TYPE, "label": "toxicity", "buckets": FEATURES.buckets}
    settings |= {"words": FEATURES.words, "characters": FEATURES.characters}
    (args.out / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    found = figures(args.out, args.data)
    (args.out / "MODEL_CARD.md").write_text(
        CARD.format(
            buckets=FEATURES.buckets,
            words=FEATURES.words,
            shortest=FEATURES.characters[0],
            longest=FEATURES.characters[1],
            megabytes=(args.out / "model.safetensors").stat().st_size / 1e6,
            clean=", ".join(f"{count:,} {source}" for source, count in CLEAN_SNIPPETS.items()),
            left_out=int((~kept).sum()),
            aside=ASIDE,
            epochs=args.epochs,
            seed=args.seed,
            figures=found,
            **{name: len(group) for name, (group, _) in groups.items()},
        )
    )
    print(found)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _json_rows(path: Path) -> Iterator[dict[str, object]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _csv_rows(path: Path, **dialect: object) -> Iterator[dict[str, str]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines, **dialect)


if __name__ == "__main__":
    main()
