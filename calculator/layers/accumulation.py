"""How a micro-batch accumulates gradients."""

from typing import NamedTuple


class Accumulation(NamedTuple):
    """How the last micro-batch of a step accumulates gradients.

    Attributes:
        adds: Whether parameters have gradients from an earlier micro-batch, to which new ones are added.
        in_buckets: Whether each gradient is copied to a bucket and freed.
        marked: Whether the tape marks the moment at which each gradient is ready.
        temporaries: How many tensors the optimizer allocates for a parameter whose gradient is ready, which it then
            frees; None where it steps after the backward pass.
    """

    adds: bool
    in_buckets: bool = False
    marked: bool = False
    temporaries: int | None = None
