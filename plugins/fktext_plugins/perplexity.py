"""The `perplexity` reward: how likely a text is under a causal language model, in nats per token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from pydantic import Field

from fktext.errors import UsageError
from fktext.rewards import Judged, RewardContext, locate

if TYPE_CHECKING:  # imports torch
    from torch import Tensor

EMBEDDED = ("tiny-causal", "heldout-causal")
SHORT = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")  # the hub ids of old that have no owner


class CausalLM(Protocol):
    """A language model that gives each token a probability given those before it."""

    vocabulary: int  # how many tokens there are
    token_digest: str  # and which, see `fktext.text.vocabulary_digest`
    begins: bool  # whether a token stands before every text, so that its first one has a probability, too

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without any special token around them."""
        ...

    def log_probs(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return (n,) float64 log-probabilities of each row of n >= 1 tokens; (n - 1,), without the first, if not `begins`."""
        ...


class Perplexity(Judged):
    """Score texts by log p(text) / tokens = -log(perplexity), or by log p(text), in nats.

    What follows the prompt is scored, given the prompt. The tokens of the prompt are those that the text and the prompt alone begin
    with alike: where the tokenizer joins the prompt's end to what follows, that token counts as generated. The end of the text is
    not scored, because a text may have been cut.

    A text whose model has this judge's tokens is scored in those it was written in (`Text.tokens`), as they are. That is the same
    as reading its string, unless the model wrote a word in other pieces than the tokenizer would.

    A text without a token to score has no mean: it is worth log(1 / V), as much as a token drawn blindly from the vocabulary of V.
    (With `reduce="sum"` too, where 0 would make the empty text the best of all.)

    Args:
        judge: the language model.
        model: its name, for messages.
        reduce: "mean" over tokens, or their "sum", which falls with the length.
        prompt: "given" to score what follows it, "scored" to score it too.
        tokens: "model" to take a text's own tokens where the judge has the same, "text" to read its string always.
        weights: where the judge's are, see `fktext.rewards.Judged`.
    """

    log_probability = False  # of a class, which a learned value would take it for: its exponential is near 0 throughout

    def __init__(
        self,
        judge: CausalLM,
        model: str,
        reduce: Literal["mean", "sum"] = "mean",
        prompt: Literal["given", "scored"] = "given",
        tokens: Literal["model", "text"] = "model",
        weights: Path | str | None = None,
    ) -> None:
        super().__init__(model, f"towards likely text: log p{' per token' if reduce == 'mean' else ''} by {model}", weights)
        self.judge, self.reduce, self.prompt = judge, reduce, prompt
        self.reads_tokens = tokens == "model"

    def score(self, samples: Sequence[str]) -> Tensor:
        """Return (M,) float64 values, finite."""
        import torch

        rows, known = self._encoded(samples)
        full = [place for place, row in enumerate(rows) if row]
        values = torch.full((len(samples),), -math.log(self.judge.vocabulary), dtype=torch.float64)
        for place, found in zip(full, self.judge.log_probs([rows[place] for place in full]), strict=True):
            own = found[known[place] - (not self.judge.begins and known[place] > 0) :]
            if len(own):
                values[place] = own.mean() if self.reduce == "mean" else own.sum()
        return values

    def tokens(self, samples: Sequence[str]) -> list[int]:
        """Count the scored tokens of each text: what a mean over all texts' tokens weighs by; 1 for a text without any."""
        rows, known = self._encoded(samples)
        first = 0 if self.judge.begins else 1
        return [max(1, len(row) - max(start, first)) for row, start in zip(rows, known, strict=True)]

    def _encoded(self, samples: Sequence[str]) -> tuple[list[Sequence[int]], list[int]]:
        """Return the tokens of each text, and how many of them are the prompt's and not scored."""
        own = [getattr(text, "tokens", None) if self.reads_tokens else None for text in samples]
        own = [tokens if tokens is not None and tokens.vocabulary == self.judge.token_digest else None for tokens in own]
        strings = [text for text, tokens in zip(samples, own, strict=True) if tokens is None]
        prompts = list(dict.fromkeys(getattr(text, "prompt", "") for text in strings))
        spelled = dict(zip(prompts, self.judge.encode(prompts), strict=True))
        encoded = iter(self.judge.encode(strings))
        rows: list[Sequence[int]] = []
        known: list[int] = []
        for text, tokens in zip(samples, own, strict=True):
            rows.append(next(encoded) if tokens is None else tokens.ids)
            shared = _shared(spelled[getattr(text, "prompt", "")], rows[-1]) if tokens is None else tokens.prompt
            known.append(shared if self.prompt == "given" else 0)
        return rows, known


def perplexity(
    context: RewardContext,
    *,
    model: str = "tiny-causal",
    reduce: Literal["mean", "sum"] = "mean",
    prompt: Literal["given", "scored"] = "given",
    tokens: Literal["model", "text"] = "model",
    stride: Annotated[int, Field(ge=1)] | None = None,
    trust_remote_code: bool = False,
) -> Perplexity:
    """Make the `perplexity` reward.

    Args:
        context: where to run, whether a network may be used, texts per forward pass.
        model: an embedded model (tiny-causal, heldout-causal), or a folder or hub id of any causal language model of transformers,
            such as gpt2. A folder named like an embedded model is written `./name`.
        reduce: "mean" over tokens, or their "sum".
        prompt: "given": p(what follows | prompt). "scored": p(all of it). To leave the prompt out altogether, write
            `part=continuation`, which every reward takes.
        tokens: "model": a text generated by a model with this judge's tokens is scored in those that were drawn. "text": its string
            is read, as `fktext score` does.
        stride: of a text longer than the model takes, so many tokens are scored at a time, each with all the context that fits;
            fewer is exacter and slower. By default half of what the model takes.
        trust_remote_code: run Python code that comes with the model. Only for a model whose code you have read.

    Raises:
        UsageError: unknown model, or a stride that the model has no use for.
        ModelError: the files cannot be loaded, are of no causal model, or need a network when there is none.
    """
    from fktext_plugins import backoff, causal
    from fktext_plugins.classifiers import model_type

    weights = locate(model, EMBEDDED, "causal language model", SHORT)
    judge: CausalLM
    if model_type(weights) == backoff.MODEL_TYPE:
        if stride is not None:
            raise UsageError(f"stride came as {stride}: {model} takes texts of any length")
        judge = backoff.BackoffJudge.load(Path(weights))
    else:
        judge = causal.load(weights, stride, trust_remote_code, context)
    return Perplexity(judge, model, reduce, prompt, tokens, weights)


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Count the tokens that two rows begin with alike."""
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))
