"""How a micro-batch accumulates gradients."""

from typing import NamedTuple


class Accumulation(NamedTuple):
    """How the last micro-batch of a step accumulates gradients.

    Attributes:
        adds: Whether parameters have gradients from an earlier micro-batch, to which new ones are added.
        in_buckets: Whether each gradient is copied to a bucket and freed.
        marked: Whether the tape marks the moment at which each gradient is ready.
    """

    adds: bool
    in_buckets: bool = False
    marked: bool = False
