"""The tensors of a run that one GPU keeps. Without sharding, it keeps all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.resident.per_parameter import gradients

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.optimizer import Optimizer
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensor import ResidentTensor
    from calculator.sharding.communication import Collective


class Shards:
    """The tensors of a rank. A subclass overrides what its sharding splits."""

    __slots__ = ("prepared",)

    #: Whether the whole weights are loaded on the GPU.
    loads_whole: bool = True

    def __init__(self, prepared: PreparedModel) -> None:
        self.prepared = prepared

    @property
    def norm_vectors(self) -> int:
        """The number of vectors with one norm per gradient that are alive while gradients are clipped."""
        return 1

    @property
    def reduces_total_norm(self) -> bool:
        """Whether the ranks reduce the total norm of gradients, and not the norm of each."""
        return False

    def whole(self, tensors: tuple[ResidentTensor, ...]) -> tuple[ResidentTensor, ...]:
        """Return the whole model as the sharding stores it, from what the method prepares."""
        return tensors

    def rank_tensors(self, whole: tuple[ResidentTensor, ...]) -> tuple[ResidentTensor, ...]:
        """Return the rank's part of the whole model."""
        return whole

    def accumulated(self, whole: Iterable[ResidentTensor]) -> tuple[ResidentTensors, ...]:
        """Return the gradients that are alive between two micro-batches of a step."""
        return (gradients(whole),)

    def host_bytes(self, whole: tuple[ResidentTensor, ...], optimizer: Optimizer) -> int | None:  # noqa: ARG002  a hook
        """Return the bytes that the rank's process keeps in host memory, or None if nothing is offloaded."""
        return None

    def collectives(self) -> tuple[Collective, ...]:
        """Return the collectives of a step."""
        return ()

    def reduced(self, whole: Iterable[ResidentTensor]) -> tuple[ResidentTensors, ...]:
        """Return the gradients that are alive in the optimizer's step."""
        return (gradients(whole),)
