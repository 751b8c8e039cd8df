"""The entry point of the built-in rewards: the same door as anyone else's."""

from __future__ import annotations

from fktext.plugins import Register, hookimpl


@hookimpl
def fktext_register_rewards(register: Register) -> None:
    """Register every reward of this package; their factories are imported when they are used."""
    register(
        "toxicity",
        "fktext_plugins.toxicity:toxicity",
        summary="log-probability that a text is toxic (or, with target=nontoxic, that it is not)",
        options={
            "model": "tiny-toxicity or heldout-toxicity (embedded); a detoxify variant such as original; a detoxify checkpoint; "
            "a folder or hub id of a transformers sequence classifier",
            "target": "the direction: toxic for red-teaming, nontoxic to steer away",
            "label": "the class that counts as toxic, where its name does not tell",
        },
    )
