"""What a model's config.json says: the section `fktext`, and other entries that nothing but fktext would check."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fktext.errors import ModelError


class Section(BaseModel):
    """What a model says to fktext; what it leaves out is told from its files or its family (docs/models.md)."""

    model_config = ConfigDict(extra="forbid", strict=True)

    bos_token: str | None = None
    end_token: str | None = None
    pad_token: str | None = None
    default_length: int = Field(2, ge=2, le=100_000)
    default_steps: int = Field(1, ge=1, le=100_000)
    default_temperature: float = Field(1.0, ge=1e-30, le=1e30)
    default_top_p: float = Field(1.0, gt=0, le=1)
    block: int = Field(1, ge=1)
    tie_embed_sum: bool = False


class Backbone(BaseModel):
    """What E2D2 says of its two networks."""

    model_config = ConfigDict(strict=True)

    num_encoder_layers: int = -1  # all that there are
    num_decoder_layers: int = -1
    tie_encoder_decoder_weights: bool = False
    use_encoder_causal_mask: bool = False
    rope_theta: float = Field(1.0, gt=0, allow_inf_nan=False)
    rms_norm_eps: float = Field(1.0, gt=0, allow_inf_nan=False)


Size = Annotated[int | None, Field(ge=1)]
Count = Annotated[int | None, Field(ge=0)]


class Config(BaseModel):
    """Entries of config.json; those not listed here are for transformers to check, or for the family."""

    model_config = ConfigDict(strict=True)

    fktext: Section | None = None
    architectures: list[str] | None = None
    model_length: int = Field(2, ge=2)
    time_conditioning: bool = False
    mask_token_id: int | None = None
    vocab_size: Size = None
    hidden_size: Size = None
    intermediate_size: Size = None
    num_attention_heads: Size = None
    num_key_value_heads: Size = None
    head_dim: Size = None
    max_position_embeddings: Size = None
    max_sequence_length: Size = None
    moe_intermediate_size: Size = None
    num_experts: Count = None
    num_experts_per_tok: Count = None
    n_group: Count = None
    topk_group: Count = None
    num_shared_experts: Count = None
    rope_theta: float | None = Field(None, gt=0, allow_inf_nan=False)
    backbone_config: Backbone | None = None


def check(settings: Mapping[str, Any], source: Path) -> None:
    """Look at every entry that fktext reads before it is used.

    Args:
        settings: config.json's content, or a checkpoint's own settings.
        source: what they were read from, for errors.

    Raises:
        ModelError: an entry is unknown or of the wrong type or size; names the first such.
    """
    try:
        Config.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        known = f" Known: {', '.join(Section.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise ModelError(f"{source} has {place} {first['input']!r}: {first['msg']}.{known}") from error
