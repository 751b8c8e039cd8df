"""What a row, a head position and a judged text cost on an H100, computed from arithmetic and memory traffic: nothing is measured.

    python benchmarks/flops.py > h100.json

Networks of the paper's suites are built on the device "meta", in their published sizes and without weights, and torch counts the
arithmetic of a call. Seconds are that divided by a share of the stated rate, and for head positions also the bytes of their
logits, a few times over, divided by the same share of the stated bandwidth. Each call takes a while besides, to launch its kernels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DistilBertConfig,
    GPT2Config,
    RobertaConfig,
    XLMRobertaConfig,
)

from fktext.testing.costs import Cost, count_flops
from fktext.testing.speed import DENSE_COPIES
from setting import SIZES, network

RATE, BANDWIDTH = 989e12, 3.35e12  # an H100 SXM as NVIDIA states it: bfloat16 operations, dense, and bytes, a second
LENGTH, STEPS, ROWS = 128, 1000, 8
JUDGED = 60  # tokens of a prompt, and of the 50 after it that judges see
ON_THE_WAY = 50  # tokens that a reward with max_tokens=50 sees
BASE = RobertaConfig(vocab_size=50265, max_position_embeddings=514)
LARGE = XLMRobertaConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
XL = GPT2Config(n_embd=1600, n_layer=48, n_head=25)
NETWORKS: dict[str, tuple[Any, int]] = {
    "toxicity:model=s-nlp/roberta_toxicity_classifier,max_tokens=50": (BASE, ON_THE_WAY),
    "toxicity:model=s-nlp/roberta_toxicity_classifier": (BASE, JUDGED),
    "toxicity:model=textdetox/xlmr-large-toxicity-classifier": (LARGE, JUDGED),
    "cola:model=textattack/roberta-base-CoLA,max_tokens=50": (BASE, ON_THE_WAY),
    "cola:model=textattack/roberta-base-CoLA": (BASE, JUDGED),
    "classifier:model=cardiffnlp/twitter-roberta-base-sentiment,label=2,activation=softmax": (BASE, LENGTH),
    "classifier:model=distilbert/distilbert-base-uncased-finetuned-sst-2-english,label=POSITIVE,activation=softmax": (
        DistilBertConfig(),
        JUDGED,
    ),
    "perplexity:model=gpt2": (GPT2Config(), LENGTH),
    "perplexity:model=gpt2-xl": (XL, JUDGED),
}


def on_meta(config: Any, tokens: int) -> Callable[[], Any]:
    """A call of a classifier or causal model on ROWS texts, in which nothing is computed."""
    kind = AutoModelForCausalLM if isinstance(config, GPT2Config) else AutoModelForSequenceClassification
    with torch.device("meta"):
        model = kind.from_config(config, attn_implementation="eager").eval()  # others look whether a mask is full
        ids = torch.ones(ROWS, tokens, dtype=torch.int64)
    return lambda: model(input_ids=ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.3, help="of rate and bandwidth that is reached: an assumption")
    parser.add_argument("--call", type=float, default=1e-3, help="seconds of a call besides its arithmetic: an assumption")
    given = parser.parse_args()

    def cost(flops: float, moved: float = 0.0) -> dict[str, float]:
        return asdict(Cost(given.call, (flops / RATE + moved / BANDWIDTH) / given.share, flops))

    net, width, words = network("owt", LENGTH, "meta"), SIZES["owt"]["hidden_dim"], SIZES["owt"]["vocab_size"]
    with torch.device("meta"), torch.inference_mode():
        ids, times = torch.ones(ROWS, LENGTH, dtype=torch.int64), torch.ones(ROWS)
        row = count_flops(lambda: net.encode(ids, times)) / ROWS
        head = count_flops(lambda: net.logits(torch.ones(ROWS, width))) / ROWS
        rewards = {name: cost(count_flops(on_meta(*which)) / ROWS) for name, which in NETWORKS.items()}
    assumed = (
        f"{given.share:.0%} of the stated {RATE / 1e12:g} TFLOP/s and {BANDWIDTH / 1e12:g} TB/s, {given.call * 1e3:g} ms a call"
    )
    told = {
        "computed": f"computed, not measured: an H100 at {assumed}",
        "model": "mdlm-owt",
        "length": LENGTH,
        "steps": STEPS,
        "row": cost(row),
        "head": cost(head, DENSE_COPIES * 4 * words),
        "rewards": rewards,
    }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
