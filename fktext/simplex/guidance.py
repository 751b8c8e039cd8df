"""Classifier guidance of a simplex diffusion: a gradient step on the logits towards a label (Han et al. 2023, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fktext.errors import UsageError

Guidance = Callable[[Tensor], Tensor]
"""(R, C, V) logits of a block -> guided logits; a row's result must not depend on the other rows."""


@dataclass(frozen=True)
class ClassifierGuidance:
    """logits + strength * d/dlogits log p(label | softmax(logits) @ the classifier's word embeddings), for each row on its own.

    The published code differentiates the mean over the batch, so that its strength s acts as s / batch size here.

    Attributes:
        classifier: transformers' `RobertaForSequenceClassification` or the like, over the network's own vocabulary.
        label: the class to steer towards.
        strength: step size, per nat.
    """

    classifier: Any
    label: int
    strength: float

    def __call__(self, logits: Tensor) -> Tensor:
        """Guide (R, C, V) logits.

        Raises:
            UsageError: the classifier has another vocabulary or no such label.
        """
        embeddings = self.classifier.get_input_embeddings().weight
        labels = self.classifier.config.num_labels
        if len(embeddings) != logits.shape[-1] or not 0 <= self.label < labels:
            raise UsageError(
                f"guidance towards label {self.label}: the classifier has {labels} labels and a vocabulary of {len(embeddings)}, "
                f"the model one of {logits.shape[-1]}: they have to share it, token by token"
            )
        # Inference tensors take no part in autograd: a clone made outside inference mode does.
        with torch.inference_mode(False), torch.enable_grad():
            leaf = logits.detach().clone().requires_grad_()
            mixture = torch.softmax(leaf.float(), -1).to(embeddings.dtype) @ embeddings
            log_probs = torch.log_softmax(self.classifier(inputs_embeds=mixture).logits.float(), -1)
            (gradient,) = torch.autograd.grad(log_probs[:, self.label].sum(), leaf)
        return logits + self.strength * gradient
