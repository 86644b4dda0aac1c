"""The document of a traced step, which the estimate is made from."""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import torch
from peft import PeftModel, get_peft_model_state_dict

from calculator.estimation.traced.document import Kind, Loaded, Peak, Span, TraceDocument
from validation.traced.operations import allocating, unchecked
from validation.tracing.snapshot import wildcard_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.common.dtype import DType
    from calculator.common.names import PhaseName
    from validation.reference.build import ReferenceModel
    from validation.tracing.ledger import Ledger, Storage
    from validation.tracing.trace import Trace

#: The libraries whose releases an answer states.
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")

_LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


def document_of(
    trace: Trace,
    reference: ReferenceModel,
    *,
    seconds: float,
    guesses: tuple[str, ...],
    kernel_packages: dict[str, tuple[str, ...]],
) -> TraceDocument:
    """Return the document of a trace and of the model that it ran."""
    ledger = trace.ledger
    kinds: dict[Kind, int] = {}
    operations = allocating(ledger.storages)
    storages = tuple(kinds.setdefault(_kind(storage), len(kinds)) for storage in ledger.storages)
    return TraceDocument(
        model_type=_base_model(reference).config.model_type,
        versions={name: version(name) for name in LIBRARIES},
        seconds=round(seconds, 1),
        parameters=trace.parameters,
        saved_bytes=saved_bytes(reference.model),
        loaded=tuple(_loaded(ledger, reference)),
        kinds=tuple(kinds),
        storages=storages,
        static=sum(event >= 0 for event in ledger.events[: ledger.phase_starts[0][0]]),
        events=tuple(ledger.events),
        phase_starts=tuple(ledger.phase_starts),
        peaks={phase: Peak(peak.bytes, peak.event, _operation(peak.op)) for phase, peak in ledger.peaks.items()},
        timeline=tuple(_timeline(ledger)),
        operations=operations,
        unchecked=unchecked(operations),
        kernel_packages=kernel_packages,
        guesses=guesses,
    )


def _base_model(reference: ReferenceModel) -> Any:
    model: Any = reference.model
    return model.get_base_model() if isinstance(model, PeftModel) else model


def saved_bytes(model: Any) -> int:
    """Return the bytes of the trained tensors that `save_pretrained` writes. A shared storage is written once."""
    if isinstance(model, PeftModel):
        # A 4-bit layer's own state_dict reads values, which are not known here.
        tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(_persistent_buffers(model))}
        with mock.patch.object(torch.Tensor, "cpu", lambda tensor: tensor):  # virtual tokens have no values here
            saved = get_peft_model_state_dict(model, state_dict=tensors)
    else:
        saved = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return sum(
        tensor.numel() * tensor.element_size() for tensor in {id(tensor): tensor for tensor in saved.values()}.values()
    )


def _persistent_buffers(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the buffers that a checkpoint has, by name."""
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(path, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                yield name, buffer


#: The components of what is loaded before the first step.
LOADED = ("base_weights", "quantization_constants", "adapter_weights")


def _loaded(ledger: Ledger[PhaseName], reference: ReferenceModel) -> Iterator[Loaded]:
    """Yield weights, buffers and constants as the trace found them, with the number of parameters in each."""
    parameters = dict(reference.named_parameters())
    for storage in ledger.storages:
        if storage.moment != "static" or storage.component not in LOADED:
            continue
        parameter = parameters.get(storage.name)
        state = getattr(parameter, "quant_state", None)
        whole = parameter if state is None else state
        yield Loaded(
            name=storage.name,
            shape=storage.shape,
            dtype=cast("DType", storage.dtype),
            component=storage.component,
            parameters=whole.shape.numel() if whole is not None else 0,
            base=storage.component != "adapter_weights",
            packed=state is not None,
            bytes=storage.bytes,
        )


def _kind(storage: Storage) -> Kind:
    return Kind(
        name=_name(storage),
        shape=storage.shape,
        dtype=storage.dtype,
        component=storage.component,
        bytes=storage.bytes,
    )


def _name(storage: Storage) -> str:
    """Return a row's name for a storage: the parameter's name, or the module and the operation that allocated it."""
    if storage.component == "gradients" and storage.name:
        return f"{wildcard_path(storage.name.removesuffix('.grad'))}: gradient"
    if storage.name:
        path = wildcard_path(storage.name)
        return ": ".join(path.rsplit(".", 1)) if storage.component == "optimizer_states" else path
    operation = _operation(storage.op)
    return f"{wildcard_path(storage.module)}: {operation}" if storage.module else operation


def _operation(op: str) -> str:
    """Return an operation without PyTorch's namespace: `mm (MmBackward0)` for a product of the backward pass."""
    site, _, node = op.removesuffix(">").partition("<")
    place, colon, name = site.rpartition(":")
    name = name.replace("aten.", "")
    shown = f"{place}: {name}" if colon and place else name
    return f"{shown} ({node})" if node else shown


def _timeline(ledger: Ledger[PhaseName]) -> Iterator[Span]:
    """Yield the peaks of each phase's parts: every layer, and what runs before the first and after the last."""
    sizes = [storage.bytes for storage in ledger.storages]
    starts = [*(at for at, _ in ledger.phase_starts), len(ledger.events)]
    live = sum(sizes[event] if event >= 0 else -sizes[~event] for event in ledger.events[: starts[0]])
    for (start, phase), end in zip(ledger.phase_starts, starts[1:], strict=True):
        events = ledger.events[start:end]
        label, most = ENDS[phase][0], live
        for event, part in zip(events, _parts_of_events(ledger, events, ENDS[phase]), strict=True):
            if part != label:
                yield Span(phase, label, most)
                label, most = part, live
            live += sizes[event] if event >= 0 else -sizes[~event]
            most = max(most, live)
        yield Span(phase, label, most)


#: The parts of a phase before its first layer and after its last.
ENDS: dict[PhaseName, tuple[str, str]] = {
    "forward": ("embeddings", "head and loss"),
    "backward": ("loss and head", "embeddings"),
    "optimizer_step": ("optimizer step", "optimizer step"),
}


def _parts_of_events(ledger: Ledger[PhaseName], events: list[int], ends: tuple[str, str]) -> list[str]:
    """Return the part of each event of a phase."""
    layers = [_layer(ledger.storages[event].module) if event >= 0 else "" for event in events]
    last = max((at for at, layer in enumerate(layers) if layer), default=-1)
    parts: list[str] = []
    for at, layer in enumerate(layers):
        if at > last:
            parts.append(ends[1] if last >= 0 else ends[0])
        else:
            parts.append(layer or (parts[-1] if parts else ends[0]))
    return parts


def _layer(module: str) -> str:
    """Return the layer that contains a module, with its stack in an encoder-decoder. Empty if no layer contains it."""
    match = _LAYER.search(module)
    if not match:
        return ""
    stacks = [name for name in module[: match.start()].split(".") if name in {"encoder", "decoder"}]
    return " ".join([*stacks[-1:], "layer", match[1]])
