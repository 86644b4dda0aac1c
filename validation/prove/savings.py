"""The lesson's memory tables: its own figures, its rules on the real models, the calculator, and the traced step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from validation.comparison.compare import by_component
from validation.prove.drawing import Axis, Table
from validation.prove.experiment import Experiment, Findings, Setting
from validation.prove.lesson_runs import TOLD, Run, runs
from validation.prove.savings_claims import Runs, claims

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.tracing.snapshot import Snapshot

#: What stays through a step, and its gradients; what comes and goes is told at the peak.
STAYS = {
    "base_weights": "base weights",
    "quantization_constants": "quantisation constants",
    "adapter_weights": "added weights",
    "gradients": "gradients",
    "optimizer_states": "optimizer states",
}
PASSES = ("activations", "logits_and_loss", "workspace")


def run(setting: Setting) -> Findings:
    """Every run traced, and the lesson's claims on them."""
    chosen = runs(quick=setting.quick)
    for each in chosen.values():
        _ = each.compared
        setting.step()
    return Findings(claims=claims(chosen), tables=(_table(chosen),))


def _table(chosen: Runs) -> Table:
    bytes_of = {name: Axis(label=name, unit="bytes") for name in ("lesson", "textbook", "exact", "traced")}
    rows = tuple(row for each in chosen.values() for row in _rows(each))
    return Table(
        id="savings",
        title=f"Memory by component, at {TOLD}",
        columns={"run": Axis(label="run"), "component": Axis(label="component"), **bytes_of},
        rows=rows,
    )


def _rows(told: Run) -> Iterator[tuple[float | str | None, ...]]:
    for name, label in STAYS.items():
        textbook = told.textbook.get(name, 0)
        yield told.name, label, told.lesson(name), textbook, told.exact.static[name], told.found.static[name]
    passing = (_passing(told.exact), _passing(told.found))
    yield told.name, "activations, logits and temporaries at the peak", None, None, *passing
    textbook = sum(told.textbook.values())
    yield told.name, "peak", told.lesson("peak"), textbook, told.exact.peak, told.found.peak


def _passing(found: Snapshot) -> int:
    """What comes and goes, at the peak."""
    parts = by_component(found.alive[found.peak_phase])
    return sum(parts.get(name, 0) for name in PASSES)


def steps(quick: bool) -> int:
    """How many steps the experiment takes: a trace each."""
    return len(runs(quick=quick))


EXPERIMENT = Experiment(
    name="savings",
    title="Memory savings",
    section="1. Why; 3. QLoRA; worked examples 1 and 2; practice problem 3",
    steps=steps,
    run=run,
)
