"""The models that fktext knows by a name of their own."""

from __future__ import annotations

from typing import NamedTuple

from fktext import embedded


class Entry(NamedTuple):
    """A model that fktext knows by name; `source` is "embedded" or a hub id."""

    name: str
    family: str
    source: str
    licence: str
    summary: str


_ALIASES = (
    Entry("mdlm-owt", "dit", "kuleshov-group/mdlm-owt", "Apache-2.0", "MDLM trained on OpenWebText, 170 M parameters, 1024 tokens"),
    Entry("mdlm-owt-noeos", "dit", "kuleshov-group/mdlm-noeos-owt", "Apache-2.0", "MDLM trained without end tokens at the edges"),
    Entry("mdlm-owt-fp32", "dit", "kuleshov-group/mdlm-no_flashattn-fp32-owt", "Apache-2.0", "mdlm-owt, the float32 variant"),
    *(
        Entry(
            f"bd3lm-{block}",
            "bd3lm",
            f"kuleshov-group/bd3lm-owt-block_size{block}",
            "not stated",
            f"BD3-LM trained on OpenWebText, blocks of {block} tokens, 170 M parameters, 1024 tokens",
        )
        for block in (4, 8, 16)
    ),
    Entry("duo", "duo", "s-sahoo/duo", "not stated", "DUO trained on OpenWebText: random tokens for noise, 170 M parameters"),
    Entry("duo-distilled", "duo", "s-sahoo/duo-distilled", "not stated", "DUO distilled for few steps: give 8 to 32 (--steps)"),
    Entry(
        "diffusiongemma",
        "diffusiongemma",
        "google/diffusiongemma-26B-A4B-it",
        "not stated",
        "DiffusionGemma: random tokens for noise, canvases of 256, 26 B parameters of which 4 B at a time; instruction-tuned",
    ),
    *(
        Entry(
            f"sdar-{size}b",
            "sdar",
            f"JetLM/SDAR-{size}B-Chat",
            licence,
            f"SDAR: Qwen3 that writes blocks of 4 tokens, {size} B parameters; instruction-tuned",
        )
        for size, licence in (("1.7", "not stated"), ("4", "Apache-2.0"), ("8", "not stated"))
    ),
    Entry(
        "sdar-30b-a3b",
        "sdar-moe",
        "JetLM/SDAR-30B-A3B-Chat",
        "not stated",
        "SDAR: a mixture of experts that writes blocks of 4 tokens, 30 B parameters of which 3 B at a time; instruction-tuned",
    ),
    Entry(
        "sdar-30b-a3b-sci", "sdar-moe", "JetLM/SDAR-30B-A3B-Sci", "not stated", "sdar-30b-a3b trained on to reason about science"
    ),
    *(
        Entry(
            f"llada{version}-{size}",
            "llada2",
            f"inclusionAI/LLaDA{version}-{size}",
            "not stated",
            f"LLaDA{version}: a mixture of experts that writes blocks of 32 tokens, {parameters} B parameters; instruction-tuned",
        )
        for version in ("2.0", "2.1")
        for size, parameters in (("mini", 16), ("flash", 103))
    ),
    Entry(
        "a2d-mdlm",
        "a2d-mdlm",
        "dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1",
        "not stated",
        "dllm's Qwen3 that unmasks whole texts, 0.6 B parameters; instruction-tuned",
    ),
    Entry(
        "a2d-bd3lm",
        "a2d-bd3lm",
        "dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1",
        "not stated",
        "dllm's Qwen3 that writes blocks of 32 tokens, 0.6 B parameters; instruction-tuned",
    ),
    Entry(
        "a2d-coder-mdlm",
        "a2d-mdlm",
        "dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1",
        "not stated",
        "dllm's Qwen2.5-Coder that unmasks whole texts, 0.5 B parameters; instruction-tuned",
    ),
    Entry(
        "a2d-coder-bd3lm",
        "a2d-bd3lm",
        "dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-bd3lm-v0.1",
        "Apache-2.0",
        "dllm's Qwen2.5-Coder that writes blocks of 32 tokens, 0.5 B parameters; instruction-tuned",
    ),
    Entry("sedd-small", "sedd", "louaaron/sedd-small", "MIT", "SEDD trained on OpenWebText, 170 M parameters, 1024 tokens"),
    Entry("sedd-medium", "sedd", "louaaron/sedd-medium", "MIT", "SEDD trained on OpenWebText, 424 M parameters, 1024 tokens"),
    Entry("llada-base", "llada", "GSAI-ML/LLaDA-8B-Base", "MIT", "LLaDA, 8 B parameters: 16 GB in bfloat16"),
    Entry("llada-instruct", "llada", "GSAI-ML/LLaDA-8B-Instruct", "MIT", "LLaDA after instruction tuning"),
    Entry("llada-1.5", "llada", "GSAI-ML/LLaDA-1.5", "MIT", "LLaDA after preference optimisation"),
    Entry("dream-base", "dream", "Dream-org/Dream-v0-Base-7B", "Apache-2.0", "Dream, 7 B parameters: 15 GB in bfloat16"),
    Entry("dream-instruct", "dream", "Dream-org/Dream-v0-Instruct-7B", "Apache-2.0", "Dream after instruction tuning"),
    Entry(
        "ssdlm",
        "ssdlm",
        "xhan77/ssdlm",
        "not stated",
        "SSD-LM: simplex diffusion on RoBERTa-large, 25 tokens at a time, 407 M parameters",
    ),
    Entry(
        "bert", "mlm", "google-bert/bert-base-uncased", "Apache-2.0", "BERT, 110 M parameters, 512 tokens; not trained to generate"
    ),
    Entry("roberta", "mlm", "FacebookAI/roberta-base", "MIT", "RoBERTa, 125 M parameters, 512 tokens; not trained to generate"),
    Entry(
        "modernbert", "mlm", "answerdotai/ModernBERT-base", "Apache-2.0", "ModernBERT, 149 M parameters; not trained to generate"
    ),
)


_IMAGE_ALIASES = (
    Entry(
        "sd-1.5",
        "diffusers",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "CreativeML Open RAIL-M",
        "Stable Diffusion 1.5: images of 512 x 512 pixels; steer it with --scheduler ddim",
    ),
    Entry(
        "sdxl",
        "diffusers",
        "stabilityai/stable-diffusion-xl-base-1.0",
        "CreativeML Open RAIL++-M",
        "Stable Diffusion XL: images of 1024 x 1024 pixels; steer it with --scheduler ddim",
    ),
    Entry(
        "sd-3.5-medium",
        "diffusers",
        "stabilityai/stable-diffusion-3.5-medium",
        "Stability AI Community",
        "Stable Diffusion 3.5 medium, flow matching; steer it with --scheduler flow-sde",
    ),
    Entry(
        "flux-dev",
        "diffusers",
        "black-forest-labs/FLUX.1-dev",
        "FLUX.1 [dev] Non-Commercial",
        "FLUX.1, flow matching, 12 B parameters; steer it with --scheduler flow-sde",
    ),
)


def image_catalogue() -> list[Entry]:
    """List the pipelines of images known by a name of their own: the embedded ones and aliases of hub ids."""
    own = (
        Entry(name, "diffusers", "embedded", entry.licence, entry.summary)
        for name, entry in embedded.found()[0].items()
        if entry.kind == "pipeline"
    )
    return [*own, *_IMAGE_ALIASES]


def catalogue() -> list[Entry]:
    """List the models of texts known by a name of their own: the embedded ones and aliases of hub ids."""
    own = (
        Entry(name, entry.family, "embedded", entry.licence, entry.summary)
        for name, entry in embedded.found()[0].items()
        if entry.kind == "text"
    )
    return [*own, *_ALIASES]


def published_as(name: str) -> str:
    """Return the alias of a hub id (or of an alias: itself), "" where there is none."""
    return next((entry.name for entry in _ALIASES if name in (entry.name, entry.source)), "")
