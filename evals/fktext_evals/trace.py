"""What happened in a run of `fktext generate` or `fktext image generate`, as data; `page.trace_html` draws it.

It has every population with its lineage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fktext.files.writing import to_json
from fktext_evals import lineage

if TYPE_CHECKING:  # this imports torch
    from fktext.texts.generate import Population

SIDE, FINAL_SIDE = 64, 160  # pixels of the longer side of a thumbnail: on the way, and of a finished image


def population(found: Population, chosen: int | None, *, thumbnails: bool = True) -> dict[str, Any]:
    """Write a population as JSON has it: -inf is null.

    Args:
        found: from `generate` of texts or of images, with `guesses=True`.
        chosen: the particle that is returned, None where the population is dead.
        thumbnails: keep small pictures of images; no matter for texts.

    Returns:
        prompt, template, prompt_index, sample; names of the rewards; log_z; particles (a mapping each: text, continuation, reward,
        rewards, weight, ancestor, and of images `image`, a thumbnail as a `data:` address); lineage (see `fktext_evals.lineage`);
        denoiser_rows, reward_calls, seconds.
    """
    side = None if lineage.of_texts(found) else SIDE * thumbnails
    particles = [_particle(found, place) for place in range(len(found.samples))]
    if side:
        from fktext.images.pictures import thumbnail

        for particle, image in zip(particles, found.samples, strict=True):
            particle["image"] = thumbnail(image, FINAL_SIDE)
    return {
        "prompt": found.prompt,
        "template": found.template,
        "prompt_index": found.prompt_index,
        "sample": found.sample_index,
        "names": list(found.names),
        "log_z": to_json(found.log_z),
        "particles": particles,
        "lineage": lineage.of(found, chosen, side=side),
        **{name: getattr(found.ledger, name) for name in ("denoiser_rows", "reward_calls", "seconds")},
    }


def _particle(found: Population, place: int) -> dict[str, Any]:
    sample = found.samples[place]
    return {
        "text": str(sample) if isinstance(sample, str) else lineage.label(sample, place),
        "continuation": lineage.label(sample, place),
        "reward": to_json(found.rewards[place].item()),
        "rewards": [to_json(value) for value in found.values[place].tolist()],
        "weight": math.exp(found.log_w[place].item()),
        "ancestor": int(found.roots[place]),
    }


def trace(run: Mapping[str, Any], populations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put populations of a run together with what they have in common: model, seed and settings, as in its rows."""
    return {"run": dict(run), "populations": list(populations)}
