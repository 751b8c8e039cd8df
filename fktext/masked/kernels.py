"""The reverse processes of masked models by name: a new one is a row of this table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from fktext.masked.any_order import AnyOrder
from fktext.masked.block_confidence import BlockConfidence, BlockEditing
from fktext.masked.confidence import ConfidenceUnmasking
from fktext.masked.first_hitting import FirstHitting
from fktext.masked.process import MaskedDiffusion
from fktext.masked.remdm import ReMDM
from fktext.masked.sedd import AnalyticSEDD
from fktext.settings import KernelLike, Part, given


@dataclass(frozen=True)
class Kernel:
    """A way from noise to texts.

    Attributes:
        name: what `--kernel` calls it.
        build: the process, given what `MaskedDiffusion` takes.
        steerable: whether it reverses a noising process, so that its texts follow p(x) and predictions from p(x0 | x_t) say how it
            goes on. A decoder that looks at its own guesses to choose positions does not; it also takes temperature 0.
    """

    name: str
    build: Callable[..., MaskedDiffusion]
    steerable: bool = True

    @property
    def guidable(self) -> bool:
        """Whether it reveals by a clock of its own, so that tokens may be drawn by other odds (`fktext.masked.guided`)."""
        kind = self.build
        return isinstance(kind, type) and issubclass(kind, MaskedDiffusion) and kind.advance is MaskedDiffusion.advance


KERNELS: Mapping[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        Kernel("ancestral", MaskedDiffusion),
        Kernel("first-hitting", FirstHitting),
        Kernel("any-order", AnyOrder),
        Kernel("sedd-analytic", AnalyticSEDD),
        Kernel("sedd-normalised", MaskedDiffusion),
        *(Kernel(f"remdm-{strategy}", partial(ReMDM, strategy=strategy)) for strategy in ("cap", "rescale", "conf", "loop")),
        Kernel("confidence", partial(ConfidenceUnmasking, measure="probability"), steerable=False),
        *(
            Kernel(f"confidence-{measure}", partial(ConfidenceUnmasking, measure=measure), steerable=False)
            for measure in ("maskgit-plus", "topk-margin", "entropy")
        ),
        Kernel("block-confidence", BlockConfidence, steerable=False),
        Kernel("block-sequential", partial(BlockConfidence, sequential=True), steerable=False),
        Kernel("sdar-dynamic", partial(BlockConfidence, threshold=0.85), steerable=False),
        Kernel("llada2-threshold", partial(BlockConfidence, threshold=0.95), steerable=False),
        Kernel("llada2-edit", partial(BlockEditing, threshold=0.95, editing=0.9), steerable=False),
    )
}


def kernel_of(kernel: str | KernelLike | Part) -> Kernel:
    """Return the kernel of a name, or the one that is given."""
    if isinstance(kernel, str):
        return KERNELS[kernel]
    own = given(kernel)
    assert isinstance(own, Kernel), own  # `MaskedModel.takes` no other
    return own
