"""The sentences of an answer about experts on CUDA: the sort of their rows, and the gradients of rows."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.engine.cuda_indexing import sort
from calculator.engine.indexing import SCATTERED
from calculator.estimation.cuda_difference import CudaDifference, allocated, kinds_of, largest
from calculator.layers.experts import SORTED

if TYPE_CHECKING:
    from calculator.training_step.step import TrainingStep


def _for_experts(step: TrainingStep) -> int:
    """Return the bytes of the sort, or of the zeros that a gradient does not need on CUDA, whichever are more."""
    sorts = [allocated(step, partial(sort, count=elements(shape))) for _, shape, *_ in kinds_of(step, SORTED)]
    return max(*sorts, largest(step, SCATTERED)) if sorts else 0


def _experts_sentence(step: TrainingStep) -> str:
    if not _for_experts(step):
        return ""
    return "Experts sort their rows in a workspace, and the gradient of selected rows is added up in place."


EXPERTS = CudaDifference(most=_for_experts, sentence=_experts_sentence)
