"""Whether each built-in reward of texts steers: the embedded model alone, best-of-n and FK at N = 8, by a judge that did not steer.

    python benchmarks/rewards.py                        # several minutes for each reward on a CPU
    python benchmarks/rewards.py --only cola keywords --samples 1 --prompts 2

Prints one table in Markdown. Runs are kept in --out, and the same command goes on with those that were interrupted. Where a judge
model exists that learnt from other texts, it judges. Of what is a fact about a text (a word is there, a length is met) another
reward that says the same fact judges, as a share of texts. `classifier` has no embedded model of its own: `sentiment` is a preset
of it. `similarity` is run where its extra is installed; its judge asks for words about the same thing.
"""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import replace
from pathlib import Path

import fktext_evals
from fktext.plugins.specs import Spec
from fktext.settings import Settings
from fktext_evals import Judge, Method, Results, Suite, measures
from fktext_evals.reporting import report
from fktext_evals.reporting.blocks import markdown_table

PROMPTS = fktext_evals.load("toxicity").prompts


def commas(texts: list[str]) -> list[float]:
    """A function of one's own, as `function:target=rewards:commas` has it: the number of commas, up to three."""
    return [float(min(text.count(","), 3)) for text in texts]


def pattern(regex: str, **options: str) -> str:
    """The spec of a judge that finds a pattern: log 1 or log 0."""
    return Spec("regex", (("pattern", regex), *options.items())).label


REWARDS: dict[str, tuple[str, Judge]] = {
    "toxicity": ("toxicity", Judge("held-out", "toxicity:model=heldout-toxicity", "toxic")),
    "cola": ("cola", Judge("held-out", "cola:model=heldout-cola", "acceptable")),
    "perplexity": ("perplexity", Judge("held-out", "perplexity:model=heldout-causal", "perplexity", kind="perplexity")),
    "sentiment": ("sentiment", Judge("held-out", "sentiment:model=heldout-sentiment", "positive")),
    "similarity": (
        "similarity:to=a quiet lake=5",
        Judge(
            "words",
            pattern(r"(?i)\b(lakes?|water|rivers?|seas?|shores?|boats?|quiet|calm|still)\b", part="continuation"),
            "about it",
        ),
    ),
    "keywords": ("keywords:words=water,part=continuation", Judge("other", pattern(r"(?i)\bwater\b", part="continuation"), "water")),
    "length": (
        "length:words=12,part=continuation",
        Judge("other", pattern(r"\A\s*(\S+\s+){10,12}\S+\s*\Z", part="continuation"), "11 to 13 words"),
    ),
    "regex": (
        Spec("regex", (("pattern", r"\b(red|blue|green)\b"), ("penalty", "1"), ("part", "continuation"))).label,
        Judge("other", "function:target=rewards:coloured", "a colour"),
    ),
    "function": ("function:target=rewards:commas", Judge("other", pattern(r",.*,"), "two commas")),
}


def coloured(texts: list[str]) -> list[float]:
    """0 where a word of a colour follows the prompt, else -inf."""
    return [0.0 if {"red", "blue", "green"} & set(text.continuation.lower().split()) else -float("inf") for text in texts]


def suite(name: str, prompts: int, samples: int) -> Suite:
    """Three methods, steered by one reward and judged by another."""
    reward, judge = REWARDS[name]
    methods = (("base", 1), ("best-of-n", 8), ("fk", 8))
    return Suite(
        name=name,
        description=f"does {reward} steer?",
        prompts=PROMPTS[:prompts],
        rewards=(reward,),
        methods=tuple(Method(method, Settings(method=method, particles=number)) for method, number in methods),
        judges=(judge,),
        samples=samples,
    )


def line(results: Results) -> list[str]:
    """A row of the table."""
    [judge], rows = results.suite.judges, [results.of(method.key) for method in results.suite.methods]
    shown = [report.shown(measures.judged(found, judge), judge) for found in rows]
    differences = [
        report.shown(difference, judge, "+") for other in (0, 1) if (difference := measures.difference(rows[2], rows[other], judge))
    ]
    unit = f"{judge.label}{' %' if judge.kind == 'share' else ''}"
    specs = (spec.replace("|", r"\|") for spec in (results.suite.rewards[0], judge.reward))  # else a table's column ends there
    return [f"`{next(specs)}`", f"{unit}, `{next(specs)}`", *shown, *differences]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=REWARDS, default=list(REWARDS))
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--samples", type=int, default=2, help="texts per prompt and method")
    parser.add_argument("--length", type=int, help="tokens; default the model's own")
    parser.add_argument("--steps", type=int, help="default the model's own")
    parser.add_argument("--out", type=Path, default=Path("runs/rewards"))
    args = parser.parse_args()
    lines = []
    for name in args.only:
        if name == "similarity" and importlib.util.find_spec("sentence_transformers") is None:
            continue
        asked = suite(name, args.prompts, args.samples)
        own = {"length": args.length, "steps": args.steps}
        methods = tuple(replace(method, settings=replace(method.settings, **own)) for method in asked.methods)
        lines.append(line(fktext_evals.run(replace(asked, methods=methods), out=args.out / name)))
    header = ["reward", "judged by", "base", "best-of-8", "FK, N = 8", "FK - base", "FK - best-of-8"]
    print("\n".join(markdown_table(header, lines)))


if __name__ == "__main__":
    main()
