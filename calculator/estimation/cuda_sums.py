"""What an answer with device.type cuda says about sums that CUDA kernels split: over tokens, and over equal ids.

A step on the meta device has none of them. So an answer with meta, in whose step nearly every sum of a trained norm or
bias would be one, interprets no second step for them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.engine.cuda_embedding import PARTIAL_ROWS
from calculator.engine.cuda_reductions import PARTIAL_SUMS
from calculator.estimation.cuda_difference import CudaDifference, largest

if TYPE_CHECKING:
    from calculator.training_step.step import TrainingStep


def _over_tokens(step: TrainingStep) -> str:
    return (
        "The gradient of a norm or a bias is a sum over tokens, whose thread blocks have a buffer of up to "
        f"{largest(step, PARTIAL_SUMS):,} bytes here."
    )


def _over_ids(step: TrainingStep) -> str:
    return (
        "The gradient of an embedding adds up the rows of equal ids, in a temporary tensor of up to "
        f"{largest(step, PARTIAL_ROWS):,} bytes here."
    )


SUMS = CudaDifference(most=partial(largest, name=PARTIAL_SUMS), sentence=_over_tokens)

EMBEDDING = CudaDifference(most=partial(largest, name=PARTIAL_ROWS), sentence=_over_ids)
