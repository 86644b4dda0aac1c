"""A plan's answer as text, for the page and the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.presentation.format import size
from calculator.devices.verdict import card_of

if TYPE_CHECKING:
    from calculator.planning.nearest_miss import NearestMiss
    from calculator.planning.plan import Configuration, DevicePlan, Plan


def device_name(plan: DevicePlan) -> str:
    """Return the name of the device, or its memory."""
    card = card_of(plan.device)
    return _several(card.name if card else f"a GPU of {size(plan.device.memory_bytes or 0)}", plan.device.count)


def smallest_gpu(miss: NearestMiss) -> str | None:
    """Return the name of the smallest GPU that a nearest miss fits, with the number of GPUs; None if there is none."""
    return None if miss.card is None else _several(miss.card.name, miss.request.device.count)


def without_gpu(miss: NearestMiss) -> str:
    """Say that a nearest miss fits no GPU."""
    count = miss.request.device.count
    return "No single GPU fits it" if count == 1 else f"No GPU fits it, even with {count:,} of them"


def _several(name: str, count: int) -> str:
    return name if count == 1 else f"{count:,} × {name}"


def title(configuration: Configuration | NearestMiss) -> str:
    """Return a configuration's label, with the sharding of several GPUs."""
    device = configuration.request.device
    return configuration.label if device.count == 1 else f"{configuration.label}, {device.sharding}"


def shortfall(miss: NearestMiss) -> str:
    """Say how much memory the nearest configuration lacks, and for what."""
    footprint = miss.footprint
    if footprint is not None and not footprint.fits:
        needed = (
            f"The base model, a request and the modules of {footprint.tasks:,} tasks need {size(footprint.bytes)} of"
            f" the {size(footprint.usable_bytes)} that a process can use"
        )
        return f"{needed}, {size(footprint.short_bytes)} too much. At most {footprint.max_tasks:,} tasks fit."
    fit = miss.estimate.fit
    assert fit is not None
    required, short, usable = miss.estimate.memory.required_bytes, miss.short_bytes, fit.usable_bytes
    return f"It needs {size(required)}, {size(short)} more than the {size(usable)} that a process can use."


def count(answer: Plan) -> str:
    """Say how many configurations fit."""
    return counted(sum(len(plan.configurations) for plan in answer.plans))


def counted(fitting: int) -> str:
    """Say how many configurations fit."""
    if not fitting:
        return "Nothing fits"
    return f"{fitting} configurations fit" if fitting > 1 else "1 configuration fits"


def sentence(plan: DevicePlan) -> str:
    """Summarize a plan in a sentence."""
    subject = f"{plan.model} on {device_name(plan)}"
    if not plan.configurations:
        return f"{subject}: no configuration that meets these needs fits."
    return f"{subject}: {counted(len(plan.configurations))}, first {title(plan.configurations[0])}."
