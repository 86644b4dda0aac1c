"""How a micro-batch accumulates gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from calculator.engine.autograd import Release


class Accumulation(NamedTuple):
    """The accumulation of gradients in the last micro-batch of a step.

    Attributes:
        adds: Whether parameters have gradients from an earlier micro-batch, to which new ones are added in place. The
            new ones are then freed.
        in_buckets: Whether each gradient is copied into a bucket, which replaces it.
        marked: Whether the tape marks the moment at which each gradient is ready.
        release: Updates a parameter when its gradient is ready. None if the optimizer steps after the backward pass.
    """

    adds: bool = False
    in_buckets: bool = False
    marked: bool = False
    release: Release | None = None
