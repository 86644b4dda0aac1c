"""The estimate of a request from a trace of its step."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, get_args

from calculator.allocator.alloc_conf import parse_alloc_conf
from calculator.allocator.reserved_assumptions import REPLAY, RULE_OF_TRACES
from calculator.architecture.dimension import elements
from calculator.common.deferred import Deferred
from calculator.common.dtype import ITEMSIZE, allocated
from calculator.common.names import ComponentName
from calculator.devices import caveats, cuda_context, library_workspace
from calculator.devices.verdict import card_of
from calculator.estimation.answer import (
    Component,
    Estimate,
    ModelSummary,
    Moment,
    ParameterCounts,
    Phase,
    Remarks,
    Row,
    StoredBytes,
    Timeline,
)
from calculator.estimation.cuda_remarks import trace_remarks as of_cuda
from calculator.estimation.cudnn_attention import trace_remarks as of_kernel
from calculator.estimation.ledger import SOURCES
from calculator.estimation.memory_and_fit import memory_and_fit
from calculator.estimation.traced.grade import grade_of, summary_of
from calculator.estimation.traced.rule import estimate_reserved
from calculator.estimation.traced.run import TracedDeviceReplay, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.devices import Fit
    from calculator.estimation.answer import Memory
    from calculator.estimation.request import Request
    from calculator.estimation.traced.document import Kind, TraceDocument

#: The assumptions of every answer from a trace.
TRACED = (
    "The step was not modeled but run: transformers' own modules ran on PyTorch's meta device, which allocates"
    " nothing, and every storage was recorded. Kernels that allocate more on CUDA do so in the trace too, where their"
    " source is known."
)


def traced_estimate(request: Request, document: TraceDocument) -> Estimate:
    """Answer a request from the trace of its step.

    The device and `reserved` are those of the request.
    """
    memory, verdict = _memory(request, document)
    return Estimate(
        model=ModelSummary(
            id=request.model.id,
            model_type=document.model_type,
            parameters=document.parameters["base"],
            task=request.task,
        ),
        method=request.method,
        accounting="exact",
        reserved=request.reserved,
        parameters=ParameterCounts(**document.parameters),
        memory=memory,
        fit=verdict,
        stored=Deferred(partial(StoredBytes, document.saved_bytes)),
        remarks=Deferred(partial(_remarks, request, document, verdict)),
        engine="traced",
        grade=grade_of(kernel_packages=document.kernel_packages, unchecked=document.unchecked),
        trace=summary_of(document),
    )


def _remarks(request: Request, document: TraceDocument, verdict: Fit | None) -> Remarks:
    return Remarks(tuple(_assumptions(request, document, verdict)), tuple(_warnings(request, document)))


def _memory(request: Request, document: TraceDocument) -> tuple[Memory, Fit | None]:
    name, peak = max(document.peaks.items(), key=lambda named: named[1].bytes)
    forward, backward = (part.bytes for part in library_workspace(card_of(request.device)))
    replay = _replay(request, document, peak.bytes, (forward, backward)) if request.reserved == "replay" else None
    return memory_and_fit(
        request,
        components(document, peak.event),
        Deferred(
            lambda: tuple(Phase(name=name, peak_bytes=phase_peak.bytes) for name, phase_peak in document.peaks.items())
        ),
        (name, peak.operation),
        replay.peak_reserved_bytes if replay else estimate_reserved(document, (forward, backward)),
        partial(_timeline, document),
        replay,
    )


def _replay(request: Request, document: TraceDocument, live: int, workspaces: tuple[int, int]) -> TracedDeviceReplay:
    return TracedDeviceReplay(
        state_of(document, request.training),  # type: ignore[arg-type]  # it has the attributes that a replay needs
        workspaces,
        live_bytes=live + sum(workspaces),
        context_bytes=cuda_context(card_of(request.device)).bytes,
        conf=parse_alloc_conf(request.device.alloc_conf or ""),
    )


def _timeline(document: TraceDocument) -> Timeline:
    moments = [Moment(phase=span.phase, operation=span.operation, bytes=span.bytes) for span in document.timeline]
    return Timeline.from_moments(moments)


def components(document: TraceDocument, event: int) -> tuple[Component, ...]:
    """Return the components of what is alive after an event, each with its rows, the largest first."""
    counts = Counter(map(document.kind, document.alive_after(event)))
    parts = []
    for name in get_args(ComponentName):
        rows = tuple(sorted((_row(kind, n) for kind, n in counts.items() if kind.component == name), key=_larger))
        size = sum(row.bytes for row in rows)
        if size:
            parts.append(Component(name=name, bytes=size, source=SOURCES[name], listed=partial(tuple, rows)))
    return tuple(parts)


def _larger(row: Row) -> int:
    return -row.bytes


def _row(kind: Kind, count: int) -> Row:
    dtype = kind.dtype
    whole = dtype in ITEMSIZE and allocated(elements(kind.shape), ITEMSIZE[dtype]) == kind.bytes
    return Row.build(
        name=kind.name,
        count=count,
        bytes=kind.bytes * count,
        shape=kind.shape if whole else None,
        dtype=dtype,
        source=SOURCES[kind.component],
    )


def _assumptions(request: Request, document: TraceDocument, verdict: Fit | None) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in document.versions.items())
    yield f"The figures are for {versions}, and for a step after the first, when optimizer states exist."
    yield TRACED
    yield REPLAY if request.reserved == "replay" else RULE_OF_TRACES
    yield from document.guesses
    yield from of_kernel(request)
    yield from of_cuda(request)
    if not request.length_given:
        yield f"No sequence_length is set: the figures are for {request.training.sequence_length:,} tokens."
    if verdict is not None and verdict.assumption:
        yield verdict.assumption


def _warnings(request: Request, document: TraceDocument) -> Iterator[str]:
    for package, functions in document.kernel_packages.items():
        yield (
            f"With {package} installed, its kernels replace {', '.join(functions)} of this model, and the step needs"
            " other memory, often less. The figures are without it."
        )
    if document.unchecked:
        yield (
            "Scratch memory that these operations may need on a GPU is not checked: "
            f"{', '.join(document.unchecked)}. No model that the calculator knows has them."
        )
    if (request.model.config or {}).get("quantization_config"):
        yield (
            "The figures ignore the quantization_config of the config.json: weights are in "
            f"{request.training.dtype}. Choose qlora for a base in 4 bits."
        )
    card = card_of(request.device)
    yield from caveats(card) if card is not None else ()
