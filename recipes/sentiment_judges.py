"""Train the embedded sentiment judges: `tiny-sentiment`, hashed n-grams, and `heldout-sentiment`, gated convolutions.

    python recipes/sentiment_judges.py --data DATA --out weights/fktext_weights

Each learns from one half of GoEmotions' comments (Demszky et al. 2020, arXiv 2005.00547) whose emotions are all positive or all
negative. The two share no comment, architecture, tokenizer or seed, so one can measure what the other steered.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import roc_auc_score
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from acceptability_scores import table
from acceptability_training import Example, encode, margins, train_epoch
from corruption import Words, split_words
from fktext.files.weights import dequantised, quantised
from fktext_plugins import convolutional, ngram
from heldout_toxicity import matrix

# GoEmotions' labels
POSITIVE = {0, 1, 4, 5, 13, 15, 17, 18, 20, 21, 23}  # admiration, amusement, approval, caring, excitement, gratitude, joy, ...
NEGATIVE = {2, 3, 9, 10, 11, 12, 14, 16, 19, 24, 25}  # anger, annoyance, disappointment, disapproval, disgust, fear, grief, ...
LONGEST = 128

CARD = """# {name}

{what}
Class `positive`: the log-odds that an English text is positive rather than negative; neutral texts come out in between.

- Architecture: {architecture} {megabytes:.1f} MB.
- Training data: {count:,} comments of GoEmotions (CC BY 4.0) whose emotions are all positive ({positive:,}) or all negative, the
  {half} half; `{other}` learnt from the other half.
- Licence of the weights: CC BY 4.0.
- Recipe: `python recipes/sentiment_judges.py --data DATA --out weights/fktext_weights` (seed {seed}), which makes both.

Measured as shipped:

{scores}

GoEmotions: {held:,} other comments of the same kind. SST-2: 872 sentences of film reviews (Socher et al. 2013), a domain that is
not in the training data.

## Limits

It was taught by short Reddit comments: {limits} English only.
A text that was steered by this judge must be measured by the other one.
"""


def comments(path: Path) -> list[tuple[str, int]]:
    """(comment, 1 where positive) of a file of GoEmotions; comments of mixed or other emotions are left out."""
    opener = gzip.open if path.suffix == ".gz" else open
    found = []
    with opener(path, "rt", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            emotions = {int(label) for label in row["label"].split(",")}
            text = row["text"].replace("[NAME]", "John").replace("[RELIGION]", "Christian")
            if emotions <= POSITIVE or emotions <= NEGATIVE:
                found.append((text, int(emotions <= POSITIVE)))
    return list(dict.fromkeys(found))


def reviews(path: Path) -> list[tuple[str, int]]:
    """(sentence, 1 where positive) of SST-2, with its spaces before apostrophes taken out."""
    with path.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row["sentence"].replace(" n't", "n't").replace(" '", "'"), int(row["label"])) for row in rows]


def measured(odds: Sequence[Tensor], sets: dict[str, list[tuple[str, int]]]) -> dict[str, float]:
    """Accuracy at p = .5 and ROC-AUC on each set."""
    scores = {}
    for found, (name, rows) in zip(odds, sets.items(), strict=True):
        labels = torch.tensor([label for _, label in rows])
        scores[f"accuracy {name}"] = float(((found > 0).long() == labels).double().mean())
        scores[f"ROC-AUC {name}"] = float(roc_auc_score(labels, found))
    return scores


def byte_pairs(texts: Sequence[Words], size: int) -> Tokenizer:
    """A byte-pair vocabulary learnt from the texts."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", continuing_subword_prefix="##"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[BOS]", "[EOS]"]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, limit_alphabet=100, continuing_subword_prefix="##", show_progress=False
    )
    tokenizer.train_from_iterator((" ".join(words) for words in texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing("[BOS] $A [EOS]", special_tokens=[("[BOS]", 2), ("[EOS]", 3)])
    return tokenizer


class Judge(nn.Module):
    """The network in the shape that `train_epoch` takes: two logits a text, and whether each token is wrong."""

    def __init__(self, network: convolutional.GatedConvolutions, width: int) -> None:
        super().__init__()
        self.network, self.token_head, self.dropout = network, nn.Linear(width, 1), nn.Dropout()

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(R, L) token ids -> (R, 2) logits, (R, L) log-odds that a token is wrong."""
        hidden = self.dropout(self.network.tokens(ids))
        odds = self.network.pooled(ids, hidden)
        return torch.stack([torch.zeros_like(odds), odds], -1), self.token_head(hidden)[..., 0]


def main() -> None:
    """Train, export, print the held-out scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory holding lm/goemotions/ and sentiment/")
    parser.add_argument("--out", type=Path, required=True, help="where the two folders go")
    parser.add_argument("--epochs", type=int, default=5, help="of the convolutions")
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rng = random.Random(args.seed)
    sets = {"GoEmotions": comments(args.data / "lm/goemotions/test.tsv"), "SST-2": reviews(args.data / "sentiment/dev.tsv")}
    held = {text for text, _ in sets["GoEmotions"]}
    rows = [row for row in comments(args.data / "lm/goemotions/train.tsv.gz") if row[0] not in held]
    rng.shuffle(rows)
    halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]

    features = ngram.Features(buckets=250_000, words=2, characters=(3, 5))
    model = SGDClassifier(
        loss="log_loss", alpha=1e-5, max_iter=20, tol=None, average=True, random_state=args.seed, class_weight="balanced"
    ).fit(matrix([text for text, _ in halves[0]], features), [label for _, label in halves[0]])
    out = args.out / "tiny-sentiment"
    settings = {"buckets": features.buckets, "words": features.words, "characters": features.characters}
    weights = {"weight": torch.from_numpy(model.coef_[0]).half(), "bias": torch.from_numpy(model.intercept_).float()}
    write(out, {"model_type": ngram.MODEL_TYPE, "label": "positive"} | settings, weights)
    judge = ngram.NgramJudge.load(out)  # what ships is what is measured
    card(
        out,
        halves[0],
        measured([judge.log_odds([text for text, _ in found]) for found in sets.values()], sets),
        what="The default judge of fktext's `sentiment` reward, so that it runs without a network.",
        architecture=f"logistic regression on {features.buckets:,} CRC-32 buckets of word 1- to 2-grams and of\n"
        "  character 3- to 5-grams within a word; float16;",
        half="first",
        other="heldout-sentiment",
        limits="it knows words and pairs of words, so irony and a denial from afar escape it.",
        held=len(held),
        seed=args.seed,
    )

    torch.manual_seed(args.seed + 1)
    generator = torch.Generator().manual_seed(args.seed + 1)
    words = [split_words(text) for text, _ in halves[1]]
    tokenizer = byte_pairs(words, 4_000)
    shape = {"width": 96, "kernel": 3, "dilations": [1, 2, 4]}
    network = convolutional.GatedConvolutions(tokenizer.get_vocab_size(), *shape.values())
    nn.init.normal_(network.embed.weight, std=0.5)
    trained = Judge(network, shape["width"])
    data = encode(tokenizer, [Example(text, label, None) for text, (_, label) in zip(words, halves[1], strict=True) if text])
    optimizer = torch.optim.AdamW([{"params": list(trained.parameters()), "peak": 2e-3}], lr=0.0, weight_decay=0.1, fused=True)
    for epoch in range(args.epochs):

        def rate(progress: float, done: int = epoch) -> float:
            return 1 - 0.99 * (done + progress) / args.epochs

        train_epoch(trained, data, optimizer, rate, generator, 2048, 0.05, 0.3)
    small = quantised(network.state_dict())
    network.load_state_dict(dequantised(small))  # what ships is what is measured
    scores = measured([margins(trained, tokenizer, [text for text, _ in found]) for found in sets.values()], sets)
    out = args.out / "heldout-sentiment"
    write(out, {"model_type": convolutional.MODEL_TYPE, "label": "positive", "longest": LONGEST} | shape, small)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    card(
        out,
        halves[1],
        scores,
        what="The second opinion on sentiment, for texts that `tiny-sentiment` steered.",
        architecture=f"{len(shape['dilations'])} residual layers of gated convolutions over {shape['kernel']} tokens, "
        f"{shape['width']} wide, mean and maximum\n  over tokens, then linear; own byte-pair vocabulary of "
        f"{tokenizer.get_vocab_size():,}; int8;",
        half="second",
        other="tiny-sentiment",
        limits="irony and long sentences escape it.",
        held=len(held),
        seed=args.seed + 1,
    )


def write(folder: Path, config: dict[str, object], weights: dict[str, Tensor]) -> None:
    """Configuration and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # some versions of safetensors write files that only their owner can read
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def card(folder: Path, rows: Sequence[tuple[str, int]], scores: dict[str, float], **facts: object) -> None:
    """The model card, also printed."""
    megabytes = sum(file.stat().st_size for file in folder.iterdir() if file.name != "MODEL_CARD.md") / 1e6
    count, positive = len(rows), sum(label for _, label in rows)
    text = CARD.format(name=folder.name, count=count, positive=positive, megabytes=megabytes, scores=table(scores), **facts)
    (folder / "MODEL_CARD.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
