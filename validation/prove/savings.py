"""The lesson's memory tables: its figures, its rules on the real models, the calculator, and the traced step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from validation.comparison.compare import bytes_by_component
from validation.prove.drawing import Axis, Table
from validation.prove.experiment import Experiment, Findings, Setting
from validation.prove.lesson_runs import TRAINING_TEXT, Run, runs
from validation.prove.savings_claims import Runs, claims

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.tracing.snapshot import Snapshot

#: Components that stay through a step, and its gradients; the others are listed at the peak.
RESIDENT = {
    "base_weights": "base weights",
    "quantization_constants": "quantization constants",
    "adapter_weights": "added weights",
    "gradients": "gradients",
    "optimizer_states": "optimizer states",
}
TRANSIENT = ("activations", "logits_and_loss", "workspace")


def run(setting: Setting) -> Findings:
    """Trace every run and test the lesson's claims."""
    selected = runs(quick=setting.quick)
    for result in selected.values():
        _ = result.compared
        setting.step()
    return Findings(claims=claims(selected), tables=(_table(selected),))


def _table(selected: Runs) -> Table:
    bytes_of = {name: Axis(label=name, unit="bytes") for name in ("lesson", "textbook", "exact", "traced")}
    rows = tuple(row for result in selected.values() for row in _rows(result))
    return Table(
        id="savings",
        title=f"Memory by component, at {TRAINING_TEXT}",
        columns={"run": Axis(label="run"), "component": Axis(label="component"), **bytes_of},
        rows=rows,
    )


def _rows(run: Run) -> Iterator[tuple[float | str | None, ...]]:
    for name, label in RESIDENT.items():
        textbook = run.textbook.get(name, 0)
        yield run.name, label, run.lesson(name), textbook, run.exact.static[name], run.found.static[name]
    transient = (_transient(run.exact), _transient(run.found))
    yield run.name, "activations, logits and temporaries at the peak", None, None, *transient
    textbook = sum(run.textbook.values())
    yield run.name, "peak", run.lesson("peak"), textbook, run.exact.peak, run.found.peak


def _transient(snapshot: Snapshot) -> int:
    """Return bytes of the transient components at the peak."""
    parts = bytes_by_component(snapshot.alive[snapshot.peak_phase])
    return sum(parts.get(name, 0) for name in TRANSIENT)


def steps(quick: bool) -> int:
    """Return the number of steps: one per trace."""
    return len(runs(quick=quick))


EXPERIMENT = Experiment(
    name="savings",
    title="Memory savings",
    section="1. Why; 3. QLoRA; worked examples 1 and 2; practice problem 3",
    steps=steps,
    run=run,
)
