"""The sentences of an answer about flash attention, which allocates other tensors on CUDA than in a trace.

Source: aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, mha_fwd and set_params_splitkv.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE
from calculator.devices.multiprocessors import multiprocessors_of
from calculator.devices.verdict import card_of
from calculator.estimation.cuda_difference import CudaDifference, largest
from calculator.layers.flash import BY_POSITIONS
from calculator.layers.split_kv import SPLITS, splits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Shape
    from calculator.training_step.step import TrainingStep

#: The names of a row that each call of flash has, and of its output.
_STATE, _OUTPUT = "attention: rng state", "attention output"
#: The names of queries that are contiguous by heads after a partial rotary embedding.
_CONCATENATED = ("query, whole again", "query, whole")


def _copies(step: TrainingStep) -> int:
    """Return the bytes of the copies of flash's output in all layers."""
    copied = max(largest(step, name) for name in (BY_POSITIONS, *_CONCATENATED))
    return copied * len(step.resident.prepared.model.layers) if largest(step, _STATE) else 0


def _copies_sentence(step: TrainingStep) -> str:
    copied = f"{largest(step, BY_POSITIONS):,} bytes in each layer that keeps it"
    return f"Flash attention's output has the queries' layout: after a partial rotary embedding it is copied, {copied}."


def _accumulated(step: TrainingStep) -> int:
    """Return the bytes that flash accumulates for the parts of split keys, on the GPU of the request."""
    if not largest(step, _STATE):
        return 0
    count = multiprocessors_of(card_of(step.resident.prepared.device)).count
    return max([_bytes_of_splits(shape, count) for shape in _outputs(step)], default=0)


def _outputs(step: TrainingStep) -> Iterator[Shape]:
    """Yield the shapes of outputs of attention: (batch, heads, sequence, head_dim)."""
    storages = step.run.storages
    for kind, key in enumerate(storages.kinds.keys):
        if key[0].endswith(_OUTPUT):
            shape = storages.allocation(kind)[1]
            if len(shape) == 4:
                yield shape


def _bytes_of_splits(shape: Shape, multiprocessors: int) -> int:
    batch, heads, length, head_dim = shape
    count = splits(batch * heads, length, length, head_dim, multiprocessors)
    return 0 if count == 1 else count * elements(shape) * ITEMSIZE["float32"]


def _splits_sentence(step: TrainingStep) -> str:
    multiprocessors = multiprocessors_of(card_of(step.resident.prepared.device))
    assumed = ", as many as an A100 has" if multiprocessors.assumed else ""
    split = f"Flash attention splits the keys of few queries over {multiprocessors.count:,} multiprocessors{assumed}"
    return f"{split}: up to {largest(step, SPLITS):,} bytes until the kernel ends."


LAYOUT = CudaDifference(most=_copies, sentence=_copies_sentence)

KEYS = CudaDifference(most=_accumulated, sentence=_splits_sentence)
