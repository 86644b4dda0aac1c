"""Whether a plan fits a card, and how many cards would hold it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError, Problem
from calculator.devices.gpus import GPU, Usable, gpu, usable

if TYPE_CHECKING:
    from calculator.inputs.training import Device

_DIVIDED = ("zero1", "zero2", "zero3", "fsdp")
EXPANDABLE = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"


class Verdict(StrEnum):
    """An answer to "does it fit?"."""

    FITS = "fits"
    TIGHT = "tight"
    DOES_NOT_FIT = "does_not_fit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A plan held against a card; every figure is of one card, in bytes, but `gpus_needed`.

    `gpus_needed` is a lower bound where the plan does not fit: so many cards have enough memory in total. Using more
    than one takes sharding; without it, each card needs all of `required_bytes`. `assumption` states what
    `usable_bytes` rests on, `advice` what helps a tight plan.
    """

    gpu: GPU | None
    usable_bytes: int
    verdict: Verdict
    headroom_bytes: int
    gpus_needed: int
    assumption: str
    advice: str | None = None


def card_of(device: Device) -> GPU | None:
    """The catalogue's card that a device names, if it names one."""
    return gpu(device.gpu) if device.gpu is not None else None


def fit(
    device: Device,
    *,
    peak_allocated_bytes: int,
    library_workspace_bytes: int,
    peak_reserved_bytes: int,
    context_bytes: int,
    required_bytes: int,
) -> Fit | None:
    """Hold a plan against a device, or nothing where the device names neither a card nor a size.

    It fits where `required_bytes` is within what the card offers, does not where not even the live tensors with
    workspaces and context are, and is tight in between, where it depends on how fragmented the memory gets.

    Raises:
        PlanError: where the device names a card that the catalogue lacks, or both a card and a size.
    """
    card = card_of(device)
    offered = _offered(device, card)
    if offered is None:
        return None
    least = peak_allocated_bytes + library_workspace_bytes + context_bytes
    verdict = _verdict(offered.bytes, least, required_bytes)
    fragmented = peak_reserved_bytes - library_workspace_bytes - peak_allocated_bytes
    return Fit(
        gpu=card,
        usable_bytes=offered.bytes,
        verdict=verdict,
        headroom_bytes=offered.bytes - required_bytes,
        gpus_needed=_gpus_needed(device, verdict, offered.bytes, required_bytes),
        assumption=offered.assumption,
        advice=_advice(fragmented) if verdict is Verdict.TIGHT else None,
    )


def given_twice(card: GPU, memory_bytes: int, loc: str = "device") -> Problem:
    """What is wrong with a device that names a card and a size."""
    message = f"give either it or device.gpu ({card.name}), not both"
    return Problem(loc=f"{loc}.memory_bytes", msg=message, input=memory_bytes)


def _offered(device: Device, card: GPU | None) -> Usable | None:
    if card is not None and device.memory_bytes is not None:
        raise PlanError(given_twice(card, device.memory_bytes))
    if card is not None:
        return usable(card)
    if device.memory_bytes is None:
        return None
    taken = f"the card offers a process all of the {device.memory_bytes:,} bytes given"
    return Usable(bytes=device.memory_bytes, assumption=taken)


def _verdict(usable_bytes: int, least: int, required_bytes: int) -> Verdict:
    if required_bytes <= usable_bytes:
        return Verdict.FITS
    return Verdict.TIGHT if least <= usable_bytes else Verdict.DOES_NOT_FIT


def _gpus_needed(device: Device, verdict: Verdict, usable_bytes: int, required_bytes: int) -> int:
    shares = device.count if device.sharding in _DIVIDED else 1
    return shares if verdict is Verdict.FITS else -(-required_bytes * shares // usable_bytes)


def _advice(fragmented_bytes: int) -> str:
    return (
        f"{fragmented_bytes:,} bytes are memory that the caching allocator holds and no tensor fills; "
        f"{EXPANDABLE} keeps less of it"
    )
