"""The verdict whether a run fits a GPU, and the number of GPUs that it needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from calculator.common.deferred import Deferred
from calculator.common.errors import PlanError, Problem
from calculator.devices.gpus import GPU, Usable, gpu, usable
from calculator.devices.outcome import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.devices.colocated_engine import ColocatedEngine
    from calculator.devices.outcome import ExpandableSegments, Outcome, OutOfMemory
    from calculator.inputs.device import Device

#: The shardings that divide a run's state.
SHARDED = ("zero1", "zero2", "zero3", "fsdp")
EXPANDABLE = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The verdict on a run and a GPU. Figures are bytes on one GPU, except `gpus_needed`."""

    gpu: GPU | None
    usable_bytes: int
    verdict: Verdict
    headroom_bytes: int
    #: The source of `usable_bytes`.
    assumption: str
    #: Advice if the verdict is tight by the rule.
    advice: str | None = None
    #: The bytes that the GPU needs while a sleeping engine on it generates. 0 without such an engine.
    awake_bytes: int = 0
    #: The outcome of the run on the GPU, by replay. None if the verdict is by the rule. The properties are then None
    #: too.
    outcome: Outcome | None = field(default=None, compare=False, repr=False)
    gpus: Deferred[int | None] = field(default_factory=lambda: Deferred(lambda: None), compare=False, repr=False)

    @property
    def gpus_needed(self) -> int | None:
        """A lower bound on the number of GPUs for a run that does not fit. None if no number of such GPUs is enough.

        More than one requires sharding. Without sharding, each GPU needs all of `required_bytes`.
        """
        return self.gpus()

    @property
    def minimum_bytes(self) -> int | None:
        """The smallest usable memory on which the run was found to run, including the CUDA context."""
        return max(self.awake_bytes, self.outcome.minimum_bytes()) if self.outcome else None

    @property
    def margin_bytes(self) -> int | None:
        """`usable_bytes` less `minimum_bytes`."""
        return self.usable_bytes - self.minimum_bytes if self.minimum_bytes is not None else None

    @property
    def retries(self) -> int | None:
        """How often cached blocks are freed for a request before the run is in its steady state."""
        return self.outcome.result().retries if self.outcome else None

    @property
    def retries_per_step(self) -> int | None:
        """The number of retries in each step of the steady state."""
        return self.outcome.result().retries_per_step if self.outcome else None

    @property
    def out_of_memory(self) -> OutOfMemory | None:
        """Where the run runs out of memory. None if it does not."""
        return self.outcome.result().out_of_memory if self.outcome else None

    @property
    def with_expandable_segments(self) -> ExpandableSegments | None:
        """The run with expandable segments. None if it fits without them, or already has them."""
        return self.outcome.with_expandable_segments() if self.outcome else None


def card_of(device: Device) -> GPU | None:
    """Return the GPU of the catalogue that a device names, if any."""
    return gpu(device.gpu) if device.gpu is not None else None


def fit(
    device: Device,
    *,
    peak_allocated_bytes: int,
    library_workspace_bytes: int,
    peak_reserved_bytes: int,
    context_bytes: int,
    required_bytes: int,
    replayed: Callable[[int], Outcome] | None = None,
    colocated: ColocatedEngine | None = None,
    unsharded: Callable[[], int] | None = None,
) -> Fit | None:
    """Compare a run with a device. Return None if the device names neither a GPU nor a size.

    With `replayed`, the verdict is that of a replay on the usable memory. By the rule, the run fits if `required_bytes`
    is at most the GPU's usable memory. It does not fit if its live tensors, workspaces and context alone need more.
    In between it is tight: the outcome depends on memory fragmentation. `colocated` is an engine on the same GPU, and
    `unsharded` are the bytes that a GPU needs with any number of GPUs, which is 0 if it is not given.

    Raises:
        PlanError: if the catalogue lacks the GPU, or the device gives both a GPU and a size.
    """
    card = card_of(device)
    usable_memory = _usable(device, card)
    if usable_memory is None:
        return None
    usable_memory = colocated.remaining(usable_memory) if colocated else usable_memory
    awake = colocated.needed(usable_memory.bytes) if colocated else 0
    least, required_bytes = (
        max(awake, size) for size in (peak_allocated_bytes + library_workspace_bytes + context_bytes, required_bytes)
    )
    outcome = replayed(usable_memory.bytes) if replayed else None
    verdict = outcome.verdict if outcome else _verdict(usable_memory.bytes, least, required_bytes)
    if awake > usable_memory.bytes:
        verdict = Verdict.DOES_NOT_FIT
    fragmented = peak_reserved_bytes - library_workspace_bytes - peak_allocated_bytes
    return Fit(
        gpu=card,
        usable_bytes=usable_memory.bytes,
        verdict=verdict,
        headroom_bytes=usable_memory.bytes - required_bytes,
        assumption=usable_memory.assumption,
        advice=_advice(fragmented) if verdict is Verdict.TIGHT else None,
        awake_bytes=awake,
        outcome=outcome,
        gpus=Deferred(
            partial(
                _gpus_needed,
                device,
                usable_memory.bytes,
                (least, required_bytes),
                unsharded or int,
                fits=verdict is Verdict.FITS or (outcome is not None and verdict is Verdict.TIGHT),
            )
        ),
    )


def given_twice(card: GPU, memory_bytes: int, loc: str = "device") -> Problem:
    """Return the problem of a device that gives both a GPU and a size."""
    message = f"give either it or device.gpu ({card.name}), not both"
    return Problem(loc=f"{loc}.memory_bytes", msg=message, input=memory_bytes)


def _usable(device: Device, card: GPU | None) -> Usable | None:
    if card is not None and device.memory_bytes is not None:
        raise PlanError(given_twice(card, device.memory_bytes))
    if card is not None:
        return usable(card)
    if device.memory_bytes is None:
        return None
    assumption = f"A process can use all of the given {device.memory_bytes:,} bytes"
    return Usable(bytes=device.memory_bytes, assumption=assumption)


def _verdict(usable_bytes: int, least: int, required_bytes: int) -> Verdict:
    if required_bytes <= usable_bytes:
        return Verdict.FITS
    return Verdict.TIGHT if least <= usable_bytes else Verdict.DOES_NOT_FIT


def _gpus_needed(
    device: Device, usable_bytes: int, needed: tuple[int, int], unsharded: Callable[[], int], *, fits: bool
) -> int | None:
    """Return a lower bound on the number of GPUs, from the live and the required bytes of one GPU.

    By replay, a tight run needs no more GPUs than it has. Bytes that are not sharded occupy every GPU.
    """
    least, required_bytes = needed
    shares = device.count if device.sharding in SHARDED else 1
    if fits:
        return shares
    stays = unsharded()
    if stays >= usable_bytes:
        return None
    divided = -(-max(0, least - stays) * shares // (usable_bytes - stays))
    return max(-(-required_bytes * shares // usable_bytes), divided, shares + 1)


def _advice(fragmented_bytes: int) -> str:
    return (
        f"{fragmented_bytes:,} bytes are fragmentation: memory that the caching allocator reserves and no tensor uses; "
        f"{EXPANDABLE} reduces it"
    )
