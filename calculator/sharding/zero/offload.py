"""The tensors that stages 1 and 2 keep on the GPU and in host memory with offload_optimizer.

Source: deepspeed/runtime/zero/stage_1_and_2.py, DeepSpeedZeroOptimizer.__init__ and initialize_optimizer_states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE
from calculator.inputs.sharding import STAGES
from calculator.sharding.zero.state import FlatState, row

if TYPE_CHECKING:
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensor import ResidentTensor


class OffloadedState(FlatState):
    """Flat weights on the GPU. The master weights, their gradients and the optimizer's states are in host memory."""

    @property
    def divided(self) -> tuple[ResidentTensors, ...]:
        """The flat weights, and a buffer as large as the largest gradient."""
        return (
            *self.flat_weights,
            row("buffer of a gradient", self._largest_parameter, "largest parameter", self.dtype),
        )

    @property
    def states(self) -> list[ResidentTensors]:
        """Empty: they are in host memory."""
        return []

    @property
    def _largest_parameter(self) -> int:
        return max(size for group in self.partitions.groups for _, pattern in group.parts for size in pattern.sizes)

    def gradients_of(self, rank: int) -> tuple[tuple[ResidentTensor, ...], tuple[ResidentTensor, ...]]:  # noqa: ARG002
        """Return nothing: they are in host memory."""
        return (), ()

    def zeros_of(self, rank: int) -> list[ResidentTensor | None]:  # noqa: ARG002
        """Return nothing: they are in host memory."""
        return []

    def padding_of(self, rank: int) -> list[ResidentTensor | None]:  # noqa: ARG002
        """Return nothing: they are in host memory."""
        return []

    @property
    def host_bytes(self) -> int:
        """The bytes of host memory that a rank uses.

        They are master weights, their gradients and states, weights to copy back, and gradients of earlier
        micro-batches.
        """
        item, partition = ITEMSIZE[self.dtype], sum(group.partition for group in self.partitions.groups)
        states = sum(
            elements(shape) * ITEMSIZE[dtype] for _, shape, dtype in self.optimizer.states((partition,), "float32")
        )
        accumulates = self.prepared.training.gradient_accumulation_steps > 1
        stage = STAGES[self.prepared.device.sharding]
        accumulated = max(self._elements) * item if accumulates and stage == 2 else 0
        return partition * (4 + 4 + item) + states + self._largest_parameter * item + accumulated
