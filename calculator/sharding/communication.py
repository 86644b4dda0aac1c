"""What a rank sends in a step, by collective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from calculator.sharding.ddp import Buckets


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """A collective of one step.

    Attributes:
        ranks: The GPUs that take part.
        payload_bytes: The bytes of the tensors that it is called on.
        sent_bytes: What one rank sends to others, and receives, by the ring algorithm.
        formula: The arithmetic of `sent_bytes`, with names.
        substituted: The same with numbers.
    """

    name: Literal["all_reduce"]
    ranks: int
    payload_bytes: int
    sent_bytes: int
    formula: str
    substituted: str
    source: str


def communication(buckets: Buckets | None, count: int) -> tuple[Collective, ...] | None:
    """The collectives of a step; None for a run on one GPU.

    DDP reduces every gradient once a step, in the last micro-batch. What it broadcasts is left out: a model's buffers.
    """
    if buckets is None:
        return None
    payload = buckets.payload_bytes
    return (
        Collective(
            name="all_reduce",
            ranks=count,
            payload_bytes=payload,
            sent_bytes=-(-2 * (count - 1) * payload // count),
            formula="2 × (count - 1) / count × gradients",
            substituted=f"2 × {count - 1:,} / {count:,} × {payload:,}",
            source="github.com/NVIDIA/nccl-tests, doc/PERFORMANCE.md: AllReduce",
        ),
    )
