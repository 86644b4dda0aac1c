"""What a rank sends in a step, by collective."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from calculator.sharding.ddp import Buckets


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """The collectives of one kind in a step.

    Attributes:
        ranks: The GPUs that take part.
        payload_bytes: The bytes of the whole tensors: those that are reduced, or that a gather results in.
        sent_bytes: What one rank sends to others, and receives, by the ring algorithm.
        node_sent_bytes: What each node sends to another one, and receives; 0 on one node.
        formula: The arithmetic of `sent_bytes`, with names.
        substituted: The same with numbers.
    """

    name: Literal["all_reduce", "all_gather", "reduce_scatter"]
    ranks: int
    payload_bytes: int
    sent_bytes: int
    formula: str
    substituted: str
    source: str
    node_sent_bytes: int = 0


def between_nodes(collectives: tuple[Collective, ...] | None, nodes: int) -> tuple[Collective, ...] | None:
    """The same collectives on several nodes: one link of the ring leaves each node, and carries what a rank sends."""
    if collectives is None or nodes == 1:
        return collectives
    return tuple(replace(each, node_sent_bytes=each.sent_bytes) for each in collectives)


#: Where the bytes that the ring algorithm sends are derived.
_SOURCE = "github.com/NVIDIA/nccl-tests, doc/PERFORMANCE.md"


def all_reduce(payload: int, count: int, what: str) -> Collective:
    """Sum tensors of some bytes over all ranks."""
    return Collective(
        name="all_reduce",
        ranks=count,
        payload_bytes=payload,
        sent_bytes=-(-2 * (count - 1) * payload // count),
        formula=f"2 × (count - 1) / count × {what}",
        substituted=f"2 × {count - 1:,} / {count:,} × {payload:,}",
        source=f"{_SOURCE}: AllReduce",
    )


def all_gather(payload: int, count: int, what: str) -> Collective:
    """Gather the parts of a tensor of some bytes from all ranks."""
    return _once("all_gather", payload, count, what)


def reduce_scatter(payload: int, count: int, what: str) -> Collective:
    """Sum tensors of some bytes over all ranks, each of which keeps a part."""
    return _once("reduce_scatter", payload, count, what)


def _once(name: Literal["all_gather", "reduce_scatter"], payload: int, count: int, what: str) -> Collective:
    """A collective that sends each byte once."""
    return Collective(
        name=name,
        ranks=count,
        payload_bytes=payload,
        sent_bytes=-(-(count - 1) * payload // count),
        formula=f"(count - 1) / count × {what}",
        substituted=f"{count - 1:,} / {count:,} × {payload:,}",
        source=f"{_SOURCE}: {'AllGather' if name == 'all_gather' else 'ReduceScatter'}",
    )


def of_ddp(buckets: Buckets, count: int) -> tuple[Collective, ...]:
    """The collectives of a step under DDP.

    It reduces every gradient once a step, in the last micro-batch. What it broadcasts is left out: a model's buffers.
    """
    return (all_reduce(buckets.payload_bytes, count, "gradients"),)
