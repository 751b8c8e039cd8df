"""What happened in a run of `fktext generate`, as data: every population with its lineage; `page.trace_html` draws it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fktext.files.writing import to_json
from fktext_evals import lineage

if TYPE_CHECKING:  # this imports torch
    from fktext.texts.generate import Population


def population(found: Population, chosen: int | None) -> dict[str, Any]:
    """Write a population as JSON has it: -inf is null.

    Args:
        found: from `fktext.texts.generate.generate` with `guesses=True`.
        chosen: the particle that is returned, None where the population is dead.

    Returns:
        prompt, template, prompt_index, sample; names of the rewards; log_z; particles (a mapping each: text, continuation, reward,
        rewards, weight, ancestor); lineage (see `fktext_evals.lineage`); denoiser_rows, reward_calls, seconds.
    """
    return {
        "prompt": found.prompt,
        "template": found.template,
        "prompt_index": found.prompt_index,
        "sample": found.sample_index,
        "names": list(found.names),
        "log_z": to_json(found.log_z),
        "particles": [
            {
                "text": str(sample) if isinstance(sample, str) else lineage.label(sample, place),
                "continuation": lineage.label(sample, place),
                "reward": to_json(reward),
                "rewards": [to_json(value) for value in values],
                "weight": math.exp(log_w),
                "ancestor": root,
            }
            for place, (sample, reward, values, log_w, root) in enumerate(
                zip(
                    found.samples,
                    found.rewards.tolist(),
                    found.values.tolist(),
                    found.log_w.tolist(),
                    found.roots.tolist(),
                    strict=True,
                )
            )
        ],
        "lineage": lineage.of(found, chosen),
        **{name: getattr(found.ledger, name) for name in ("denoiser_rows", "reward_calls", "seconds")},
    }


def trace(run: Mapping[str, Any], populations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put populations of a run together with what they have in common: model, seed and settings, as in its rows."""
    return {"run": dict(run), "populations": list(populations)}
