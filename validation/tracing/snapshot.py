"""What is alive at the peaks of a step, as rows of one form for the calculator and the trace."""

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
    from calculator.resident.tensors import ResidentTensor
    from calculator.training_step.step import Peak, TrainingStep
    from validation.tracing.ledger import Storage
    from validation.tracing.trace import Trace

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


class Row(NamedTuple):
    """One kind of storage: the module path with `*` for a number in it, and what it is there; bytes of one."""

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    component: str

    @property
    def place(self) -> str:
        """The path up to the sublayer: `model.layers.*.mlp`."""
        before, star, after = self.path.partition("*")
        return f"{before}*{'.'.join(after.split('.')[:2])}" if star else self.path.partition(".")[0]

    @property
    def kind(self) -> tuple[str, str, int]:
        """What tells storages of one place apart, whatever they are called."""
        return self.place, self.dtype, self.bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A step's peaks: what is alive at each, which operation reached it, and every kind of row that ever lived.

    `static` is bytes by component of what stays through the step, and of its gradients.
    """

    parameters: dict[str, int]
    static: dict[str, int]
    alive: dict[PhaseName, Counter[Row]]
    operations: dict[PhaseName, str]
    ever: frozenset[tuple[str, str, int]]

    @property
    def phases(self) -> dict[PhaseName, int]:
        """Bytes alive at each phase's peak."""
        return {phase: total(rows) for phase, rows in self.alive.items()}

    @property
    def peak_phase(self) -> PhaseName:
        """The phase of the step's peak; the first of equals."""
        phases = self.phases
        return max(phases, key=lambda phase: phases[phase])

    @property
    def peak(self) -> int:
        """Bytes alive at the step's peak."""
        return max(self.phases.values())


def total(rows: Counter[Row]) -> int:
    """Bytes of all rows."""
    return sum(row.bytes * count for row, count in rows.items())


def estimated(step: TrainingStep, parameters: dict[str, int]) -> Snapshot:
    """The calculator's view of a step."""
    peaks = step.peaks()
    last = peaks[-1]
    static = dict.fromkeys(STATIC, 0)
    for resident_tensors in tensors(last.alive.resident_tensors):
        if resident_tensors.component in static:
            static[resident_tensors.component] += resident_tensors.bytes
    kinds = {_of_born(born).kind for born in step.run.tape.rows}
    return Snapshot(
        parameters=parameters,
        static=static,
        alive={peak.phase: _of_peak(peak) for peak in peaks},
        operations={peak.phase: peak.operation for peak in peaks},
        ever=frozenset(
            kinds | {_of_resident(resident_tensors).kind for resident_tensors in tensors(last.alive.resident_tensors)}
        ),
    )


def traced(trace: Trace) -> Snapshot:
    """The trace's view of a step."""
    return Snapshot(
        parameters=trace.parameters,
        static=trace.static,
        alive={phase: Counter(map(_of_storage, trace.alive_at_peak(phase))) for phase in trace.phases},
        operations=dict(trace.peak_op),
        ever=frozenset(_of_storage(storage).kind for storage in trace.ledger.storages),
    )


#: The components that stay through the step, and the gradients of all of it.
STATIC = ("base_weights", "quantization_constants", "adapter_weights", "optimizer_states", "gradients")


def _of_peak(peak: Peak) -> Counter[Row]:
    rows: Counter[Row] = Counter()
    for resident_tensors in tensors(peak.alive.resident_tensors):
        rows[_of_resident(resident_tensors)] += resident_tensors.count
    for born, count in peak.alive.kinds().items():
        rows[_of_born(born)] += count
    return Counter({row: count for row, count in rows.items() if row.bytes})


def _of_resident(resident_tensors: ResidentTensor) -> Row:
    size = rounded(elements(resident_tensors.shape) * ITEMSIZE[resident_tensors.dtype])
    return _row(resident_tensors.name, resident_tensors.shape, resident_tensors.dtype, size, resident_tensors.component)


def _of_born(born: Allocation) -> Row:
    name, shape, dtype, component, size = born
    return _row(name, shape, dtype, size, component)


def _row(name: str, shape: Iterable[int], dtype: str, size: int, component: str) -> Row:
    path, colon, what = name.partition(": ")
    if not colon:
        path, _, what = name.rpartition(".")
    return Row(generalised(path), what, tuple(map(int, shape)), dtype, size, component)


def _of_storage(storage: Storage) -> Row:
    path, what = storage.module, storage.op
    if storage.name and storage.moment != "static":
        path, _, what = storage.name.rpartition(".")
    return Row(generalised(path), what, storage.shape, storage.dtype, storage.bytes, storage.component)


def generalised(path: str) -> str:
    """A module path with `*` for every number in it, without the name of PEFT's adapter."""
    return _NUMBER.sub("*", path.replace(".default", ""))


def to_json(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as JSON-ready values."""
    return {
        "parameters": snapshot.parameters,
        "static": snapshot.static,
        "alive": {phase: [[*row, count] for row, count in rows.items()] for phase, rows in snapshot.alive.items()},
        "operations": snapshot.operations,
        "ever": sorted(snapshot.ever),
    }


def from_json(told: dict[str, Any]) -> Snapshot:
    """The snapshot that `to_json` wrote."""
    return Snapshot(
        parameters=told["parameters"],
        static=told["static"],
        alive={
            phase: Counter({Row(p, n, tuple(s), d, b, c): count for p, n, s, d, b, c, count in rows})
            for phase, rows in told["alive"].items()
        },
        operations=told["operations"],
        ever=frozenset(map(tuple, told["ever"])),
    )
