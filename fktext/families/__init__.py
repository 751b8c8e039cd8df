"""Families of text models, a file and a record each: a new one is a file here and a row of this table.

Nothing here imports torch before a network is made.
"""

from __future__ import annotations

from collections.abc import Mapping

from fktext.errors import ModelError
from fktext.families.a2d import A2D, A2DBlocks
from fktext.families.bd3lm import BD3LM
from fktext.families.checkpoint import Checkpoint
from fktext.families.diffusion_gemma import DiffusionGemma
from fktext.families.duo import DUO
from fktext.families.e2d2 import E2D2
from fktext.families.family import Family
from fktext.families.llada2 import LLaDA2
from fktext.families.llm import Dream, LLaDA
from fktext.families.mdlm import MDLM
from fktext.families.mlm import MaskedLM
from fktext.families.sdar import SDAR, SDARMoE
from fktext.families.sedd import SEDD
from fktext.families.ssdlm import SSDLM

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        BD3LM(),
        MDLM(),
        DUO(),
        LLaDA(),
        Dream(),
        SDAR(),
        SDARMoE(),
        A2DBlocks(),
        A2D(),
        LLaDA2(),
        E2D2(),
        DiffusionGemma(),
        SEDD(),
        SSDLM(),
        MaskedLM(),
    )
}
"""By name, in the order in which a checkpoint is offered to them."""


def recognise(checkpoint: Checkpoint) -> Family:
    """Tell the family of a checkpoint from its files.

    Raises:
        ModelError: no family takes it; says what was looked for.
    """
    for family in FAMILIES.values():
        if family.recognises(checkpoint):
            return family
    settings = checkpoint.settings
    found = (
        f"model_type {settings.get('model_type')!r} and architectures {settings.get('architectures') or []}"
        if settings
        else "no config.json"
    )
    looked = ", ".join(family.looks for family in FAMILIES.values() if family.looks)
    raise ModelError(f"cannot tell how to run {checkpoint.path}: it has {found}. Looked for a config.json with {looked}")


__all__ = ["FAMILIES", "Checkpoint", "Family", "recognise"]
