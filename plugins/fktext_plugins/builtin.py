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
    part = "text, or continuation: what follows the prompt"
    register(
        "keywords",
        "fktext_plugins.texts:keywords",
        summary="minus the number of wanted words that are missing and of unwanted ones that are there",
        options={"words": "wanted words, separated by spaces", "avoid": "unwanted words", "part": part},
    )
    register(
        "length",
        "fktext_plugins.texts:length",
        summary="minus the distance to a length in words",
        options={"words": "the length aimed at", "part": part},
    )
    register(
        "regex",
        "fktext_plugins.texts:regex",
        summary="0 where a regular expression is found, else minus a penalty",
        options={"pattern": "a Python regular expression", "penalty": "what a text without it loses", "part": part},
    )
    register(
        "function",
        "fktext_plugins.texts:function",
        summary="what a Python function of your own says of each text",
        options={"target": "module.path:callable; it takes a list of texts and returns a value for each"},
    )
    register(
        "classifier",
        "fktext_plugins.classes:classifier",
        summary="log-probability of a class of any transformers sequence classifier",
        options={
            "model": "a folder or a hub id",
            "label": "the class, by its name or, where that is LABEL_0 and the like, its index",
            "activation": "whether classes exclude each other: softmax, sigmoid, or what the model's config says",
        },
    )
    register(
        "sentiment",
        "fktext_plugins.classes:sentiment",
        summary="log-probability that a text is positive (or neutral, or negative)",
        options={
            "model": "a folder or hub id of a sequence classifier with such labels",
            "label": "the sentiment to steer towards",
        },
    )
