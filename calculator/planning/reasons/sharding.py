"""Reasons that come from how several GPUs share a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from calculator.planning.reasons.reason import Evaluation, Reason, size, speaks_against, speaks_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inputs.sharding import ShardingName


def sharding_reasons(evaluation: Evaluation, fewest: int) -> Iterator[Reason]:
    """Yield the state that sharding divides and the data that it sends.

    `fewest` is the smallest number of GPUs that the configuration fits.
    """
    device = evaluation.evaluator.device
    if device.count == 1:
        return
    divided = _divided(device.sharding)
    if divided:
        yield speaks_for("divided_state", f"{device.sharding} divides {divided} among {device.count:,} GPUs.")
    else:
        yield speaks_against("divided_state", f"{device.sharding} divides no state: each GPU has all of it.")
    sent = evaluation.answer.sent_bytes
    sentence = f"In a step, each GPU sends {size(sent)} to the others, which the step cost does not count."
    yield speaks_against("communication", sentence)
    if fewest < device.count:
        yield speaks_for(
            "fewer_gpus", f"It also fits on {fewest:,} GPU{'s' if fewest > 1 else ''}, with more steps of accumulation."
        )


def _divided(sharding: ShardingName) -> str:
    """Return the state that a sharding divides among the GPUs, as a phrase."""
    match sharding:
        case "none" | "ddp":
            return ""
        case "zero1":
            return "optimizer states"
        case "zero2":
            return "gradients and optimizer states"
        case "zero3" | "fsdp":
            return "weights, gradients and optimizer states"
        case _:
            assert_never(sharding)
