"""A suite without a file: the plain model, best-of-n and FK steering by some rewards, at a few numbers of particles."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fktext.errors import UsageError
from fktext.plugins.specs import Spec
from fktext_evals.suites import catalogue
from fktext_evals.suites.changes import changed
from fktext_evals.suites.suite import Kind, Suite, parse

if TYPE_CHECKING:
    from fktext.plugins.registry import Registry

PARTICLES = (4, 8)
SAMPLES = 4
WHERE = "eval quick"  # begins messages


def suite(
    rewards: Sequence[str],
    prompts: Sequence[str] | None,
    registry: Registry,
    *,
    model: str = Suite.model,
    held_out: Sequence[str] = (),
    particles: Sequence[int] = PARTICLES,
    changes: Mapping[str, Any] | None = None,
) -> Suite:
    """Make a suite that compares the plain model, best-of-n and FK steering, as a file would.

    Args:
        rewards: specs of what steers; each is a judge as well.
        prompts: texts to continue; None takes those of the suite `toxicity`, 15 neutral beginnings.
        registry: the installed plugins.
        model: a name or folder for `fktext.models.load`.
        held_out: specs of judges that do not steer.
        particles: N, of best-of-n and of FK.
        changes: see `fktext_evals.suites.changes`.

    Raises:
        UsageError: no reward, an unknown reward, key or value, or a held-out judge that steers.
    """
    if not rewards:
        raise UsageError(f"{WHERE}: no reward to steer by: add -r, such as -r sentiment; `fktext rewards` lists them")
    steering, others = ([registry.parse(text) for text in specs] for specs in (rewards, held_out))
    table = {
        "name": _name(steering),
        "description": f"base, best-of-n and FK, steered by {', '.join(rewards)}",
        "model": model,
        "prompts": list(catalogue.load("toxicity").prompts if prompts is None else prompts),
        "rewards": list(rewards),
        "samples": SAMPLES,
        "methods": [
            {"name": "base", "method": "base"},
            {"name": "best-of-n", "method": "best-of-n", "particles": list(particles)},
            {"name": "fk", "particles": list(particles)},
        ],
        "judges": [*_judges("steering", steering, registry), *_judges("held-out", others, registry)],
    }
    found = parse(changed(table, changes or {}, WHERE), WHERE)
    for judge in found.judges[len(steering) :]:
        if found.steers(judge):
            raise UsageError(f"{WHERE}: {judge.reward} steers, so it is no held-out judge; give another model to judge by")
    return found


def folder_name(asked: Suite) -> str:
    """Name a run's folder: the same for the same suite, whichever of its prompts it is limited to first.

    Example: quick-sentiment-1f0c3a
    """
    digest = hashlib.sha256(json.dumps(asked.as_table()).encode()).hexdigest()
    return f"{asked.name}-{digest[:6]}"


def _name(rewards: Sequence[Spec]) -> str:
    return "quick-" + re.sub(r"[^\w.-]+", "-", "-".join(dict.fromkeys(spec.name for spec in rewards)))


def _judges(name: str, specs: Sequence[Spec], registry: Registry) -> Iterator[dict[str, Any]]:
    """Yield a table of `[[judges]]` for each spec, weights aside."""
    for place, spec in enumerate(specs, 1):
        yield {
            "name": name if place == 1 else f"{name}-{place}",
            "reward": spec.label,
            "label": _label(spec, registry),
            "kind": _kind(spec, registry),
        }


def _kind(spec: Spec, registry: Registry) -> Kind:
    """Tell from what a reward registered of its values what they are reported as."""
    values = registry.resolve(spec.name).values
    if "log-probability" in values:
        return "share"
    return "perplexity" if "nats per token" in values and ("reduce", "sum") not in spec.options else "mean"


def _label(spec: Spec, registry: Registry) -> str:
    """Say what is judged: the class where an option or its default names one, else the reward's name."""
    known, given = registry.resolve(spec.name).options(), dict(spec.options)
    for option in ("target", "label"):
        value = given.get(option, known[option].default if option in known else None)
        if isinstance(value, str) and not value.isdecimal():
            return value
    return spec.name
