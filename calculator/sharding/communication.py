"""The bytes that a rank sends in a step, by collective."""

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
        payload_bytes: The bytes of the whole tensors: the inputs of a reduction, or the results of a gather.
        sent_bytes: The bytes that one rank sends, and receives, with the ring algorithm.
        node_sent_bytes: The bytes that each node sends to another node, and receives. 0 on one node.
        formula: The arithmetic of `sent_bytes`, with names.
        substituted: The arithmetic with numbers.
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
    """Return the same collectives on several nodes.

    One link of the ring leaves each node. It carries what a rank sends.
    """
    if collectives is None or nodes == 1:
        return collectives
    return tuple(replace(collective, node_sent_bytes=collective.sent_bytes) for collective in collectives)


#: The source of the bytes that the ring algorithm sends.
_SOURCE = "github.com/NVIDIA/nccl-tests, doc/PERFORMANCE.md"


def all_reduce(payload: int, count: int, what: str) -> Collective:
    """Return the collective that sums tensors of some bytes over all ranks."""
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
    """Return the collective that gathers the parts of a tensor of some bytes from all ranks."""
    return _one_way("all_gather", payload, count, what)


def reduce_scatter(payload: int, count: int, what: str) -> Collective:
    """Return the collective that sums tensors of some bytes over all ranks, each of which keeps a part."""
    return _one_way("reduce_scatter", payload, count, what)


def _one_way(name: Literal["all_gather", "reduce_scatter"], payload: int, count: int, what: str) -> Collective:
    """Return a collective that sends each byte once."""
    return Collective(
        name=name,
        ranks=count,
        payload_bytes=payload,
        sent_bytes=-(-(count - 1) * payload // count),
        formula=f"(count - 1) / count × {what}",
        substituted=f"{count - 1:,} / {count:,} × {payload:,}",
        source=f"{_SOURCE}: {'AllGather' if name == 'all_gather' else 'ReduceScatter'}",
    )


def ddp_collectives(buckets: Buckets, count: int) -> tuple[Collective, ...]:
    """Return the collectives of a step under DDP.

    DDP reduces every gradient once a step, in the last micro-batch. The broadcast of a model's buffers is not counted.
    """
    return (all_reduce(buckets.payload_bytes, count, "gradients"),)
