"""Merging added parameters into the weights, module by module (peft's merge_and_unload)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE, allocated
from calculator.estimation.answer import Row
from calculator.inference.answer import Merge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.module import Module
    from calculator.inference.served_method import ServedMethod
    from calculator.methods.costs import Allocated, MergeStep
    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.module_spec import ModuleSpec
    from calculator.training_step.resident_state import ResidentState


def merging(unmerged: ResidentState, served: ServedMethod, *, in_run: bool = False) -> Merge | None:
    """Return the memory of merging one task at its peak, or None if that is not modeled.

    `in_run`: whether an optimizer still refers to added parameters, so that those of merged modules are not freed.
    """
    worst: tuple[int, str, MergeStep] | None = None
    for alive, path, step in merge_steps(unmerged, served, in_run=in_run):
        if step is None:
            return None
        peak = alive + sum(map(_bytes, step.allocated))
        if worst is None or peak > worst[0]:
            worst = (peak, path, step)
    if worst is None:
        return None
    peak, path, step = worst
    return Merge(
        peak_bytes=peak,
        module=path,
        rows=tuple(merged_row(allocation, step.source) for allocation in step.allocated),
        loss=step.loss,
        source=step.source,
    )


def merge_steps(
    unmerged: ResidentState, served: ServedMethod, *, in_run: bool = False
) -> Iterator[tuple[int, str, MergeStep | None]]:
    """Yield the live bytes before each module is merged, its path, and its merge.

    The merge is None if it is not modeled.
    """
    alive = sum(tensor.bytes for tensor in unmerged.tensors)
    for path, module, module_spec in _targets(unmerged.prepared):
        yield alive, path, served.method.merge_step(module, module_spec)
        # A copy stays, and replaces its original.
        alive -= 0 if in_run else sum(_bytes((tensor.name, tensor.shape, tensor.dtype)) for tensor in module_spec.added)


def _targets(prepared: PreparedModel) -> Iterator[tuple[str, Module, ModuleSpec]]:
    """Yield every module that is merged, in the model's order."""
    return (module for module in prepared.modules if merges(module[2]))


def merges(module_spec: ModuleSpec) -> bool:
    """Return whether PEFT merges the module. A module in `modules_to_save` replaces its original without a merge."""
    return bool(module_spec.added) or module_spec.copied == "ln_tuning_layers"


def _bytes(tensor: Allocated) -> int:
    _, shape, dtype = tensor
    return allocated(elements(shape), ITEMSIZE[dtype])


def merged_row(tensor: Allocated, source: str) -> Row:
    """Return a tensor that merging allocates, as a row."""
    name, shape, dtype = tensor
    return Row.build(name=name, count=1, bytes=_bytes(tensor), shape=shape, dtype=dtype, source=source)
