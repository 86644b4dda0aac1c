"""The storages alive at a step's peaks, as rows that are alike for the calculator and the trace."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE, rounded
from calculator.resident.per_parameter import tensors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.common.names import PhaseName
    from calculator.engine.tape import Allocation
    from calculator.resident.tensor import ResidentTensor
    from calculator.training_step.peak import Peak
    from calculator.training_step.step import TrainingStep
    from validation.tracing.ledger import Storage
    from validation.tracing.trace import Trace

#: The prefixes of tensor names in a pass of a trainer's step that has no graph.
_PASS = re.compile(r"^(?:KL, reference|KL|reference|old): ")

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


class Row(NamedTuple):
    """One kind of storage: a module path with `*` for numbers, its name there, and the bytes of one storage."""

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    component: str

    @property
    def sublayer(self) -> str:
        """The path up to the sublayer: `model.layers.*.mlp`."""
        before, star, after = self.path.partition("*")
        return f"{before}*{'.'.join(after.split('.')[:2])}" if star else self.path.partition(".")[0]

    @property
    def kind(self) -> tuple[str, str, int]:
        """Sublayer, dtype and bytes, which do not depend on the storage's name."""
        return self.sublayer, self.dtype, self.bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A step's peaks: the rows alive at each, the operation that reached it, and every kind of row of the whole step.

    `static` is bytes by component of the tensors that stay through the step, and of its gradients.
    """

    parameters: dict[str, int]
    static: dict[str, int]
    alive: dict[PhaseName, Counter[Row]]
    operations: dict[PhaseName, str]
    kinds: frozenset[tuple[str, str, int]]

    @property
    def phases(self) -> dict[PhaseName, int]:
        """Bytes alive at each phase's peak."""
        return {phase: total(rows) for phase, rows in self.alive.items()}

    @property
    def peak_phase(self) -> PhaseName:
        """The phase of the step's peak; the first one of a tie."""
        phases = self.phases
        return max(phases, key=lambda phase: phases[phase])

    @property
    def peak(self) -> int:
        """Bytes alive at the step's peak."""
        return max(self.phases.values())


def total(rows: Counter[Row]) -> int:
    """Return bytes of all rows together."""
    return sum(row.bytes * count for row, count in rows.items())


def estimated(step: TrainingStep, parameters: dict[str, int]) -> Snapshot:
    """Return the snapshot of a step by the calculator."""
    peaks = step.every_peak()
    last = peaks[-1]
    static = dict.fromkeys(STATIC, 0)
    resident = [*tensors(last.alive.resident_tensors)]
    copied = step.resident.prepared.method.steps_copies
    if step.partitioned is not None:  # stage 3 gathers weights anew in the optimizer's step
        begins_with = [*tensors(step.partitioned.through_step)]
    else:
        # Where float32 copies are updated, the last peak has the gradients of the copies in place of the weights'.
        begins_with = [*tensors((*step.resident.always, *step.resident.gradients))] if copied else resident
    for tensor in begins_with:
        if tensor.component in static:
            static[tensor.component] += tensor.bytes
    rows = [*map(_allocation_row, step.run.rows), *map(_resident_row, resident)]
    return Snapshot(
        parameters=parameters,
        static=static,
        alive={peak.phase: _peak_rows(peak) for peak in peaks},
        operations={peak.phase: peak.operation for peak in peaks},
        kinds=frozenset(row.kind for row in rows),
    )


def traced(trace: Trace) -> Snapshot:
    """Return the snapshot of a traced step."""
    return Snapshot(
        parameters=trace.parameters,
        static=trace.static,
        alive={phase: Counter(map(_storage_row, trace.alive_at_peak(phase))) for phase in trace.phases},
        operations=dict(trace.peak_op),
        kinds=frozenset(_storage_row(storage).kind for storage in trace.ledger.storages),
    )


#: The components that stay through the step, and its gradients.
STATIC = ("base_weights", "quantization_constants", "adapter_weights", "optimizer_states", "gradients")


def _peak_rows(peak: Peak) -> Counter[Row]:
    rows: Counter[Row] = Counter()
    for tensor in tensors(peak.alive.resident_tensors):
        rows[_resident_row(tensor)] += tensor.count
    for allocation, count in peak.alive.kinds().items():
        rows[_allocation_row(allocation)] += count
    return Counter({row: count for row, count in rows.items() if row.bytes})


def _resident_row(tensor: ResidentTensor) -> Row:
    size = rounded(elements(tensor.shape) * ITEMSIZE[tensor.dtype])
    return _row(tensor.name, tensor.shape, tensor.dtype, size, tensor.component)


def _allocation_row(allocation: Allocation) -> Row:
    name, shape, dtype, component, size = allocation
    return _row(name, shape, dtype, size, component)


def _row(name: str, shape: Iterable[int], dtype: str, size: int, component: str) -> Row:
    path, colon, own_name = _PASS.sub("", name).partition(": ")
    if not colon:
        path, _, own_name = name.rpartition(".")
    return Row(wildcard_path(path), own_name, tuple(map(int, shape)), dtype, size, component)


def _storage_row(storage: Storage) -> Row:
    path, own_name = storage.module, storage.op
    if storage.name and storage.moment != "static":
        path, _, own_name = storage.name.rpartition(".")
    return Row(wildcard_path(path), own_name, storage.shape, storage.dtype, storage.bytes, storage.component)


def wildcard_path(path: str) -> str:
    """Return a module path with `*` for every number, without the name of PEFT's adapter."""
    return _NUMBER.sub("*", path.replace(".default", ""))


def to_json(snapshot: Snapshot) -> dict[str, Any]:
    """Return a snapshot as JSON-ready values."""
    return {
        "parameters": snapshot.parameters,
        "static": snapshot.static,
        "alive": {phase: [[*row, count] for row, count in rows.items()] for phase, rows in snapshot.alive.items()},
        "operations": snapshot.operations,
        "ever": sorted(snapshot.kinds),
    }


def from_json(document: dict[str, Any]) -> Snapshot:
    """Return the snapshot of a document that `to_json` made."""
    return Snapshot(
        parameters=document["parameters"],
        static=document["static"],
        alive={
            phase: Counter({Row(p, n, tuple(s), d, b, c): count for p, n, s, d, b, c, count in rows})
            for phase, rows in document["alive"].items()
        },
        operations=document["operations"],
        kinds=frozenset(map(tuple, document["ever"])),
    )
