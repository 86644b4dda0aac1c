"""The order of the measured cases: a run that stops early has covered every method."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from validation.measure import history, layer, load, served, sharded, step, step_cases, trainer, verdict
from validation.measure.child import in_child
from validation.measure.layer_cases import CPU_TOKENS, TOKENS, layer_cases
from validation.measure.load_cases import load_cases
from validation.measure.random_cases import random_cases
from validation.measure.served_cases import served_cases
from validation.measure.sharded_cases import sharded_cases
from validation.measure.trainer_cases import trainer_cases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import torch

    from validation.measure.layer_cases import LayerCase
    from validation.measure.served_cases import ServedCase
    from validation.measure.step_cases import StepCase

Section = Literal["layers", "steps", "verdicts", "histories", "trainers", "sharded", "loads", "served"]

SECTIONS: tuple[Section, ...] = get_args(Section)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One case: the section of its result, its name, and the function that measures it."""

    section: Section
    name: str
    measure: Callable[[], dict[str, Any]]


def agenda(device: torch.device, machine: dict[str, Any], *, quick: bool) -> list[Entry]:
    """Return the cases to measure on a device, in order; a CPU runs small steps only.

    `machine` has the `device` and the `stack` of the steps' requests.
    """
    on_gpu = device.type == "cuda"
    layers = layer_cases(TOKENS if on_gpu else CPU_TOKENS)
    first = [*_layers((case for case in layers if case.quick), device)]
    if not on_gpu:
        first += _steps(step_cases.small(machine), device)
        return first if quick else [*first, *_layers((case for case in layers if not case.quick), device)]
    rounds = step_cases.rounds(machine)
    lengths = step_cases.length_cases(machine)
    first += [*_steps(rounds[0], device), *_verdicts(rounds[0][:6], device)]
    first += [*_histories(lengths, device), *_verdicts(lengths, device)]
    if quick:
        return first
    rest = [case for cases in rounds[1:] for case in cases]
    return [
        *first,
        *_layers((case for case in layers if not case.quick), device),
        *_steps(rest, device),
        *_verdicts(rounds[2][:6], device),
        *_trainers(trainer_cases(machine), device),
        *_sharded(sharded_cases(machine), device),
        *_loads(load_cases(machine), device),
        *_served(served_cases(machine), device),
    ]


def random_agenda(seed: int, count: int, device: torch.device, machine: dict[str, Any]) -> list[Entry]:
    """Return random steps of a seed."""
    return [*_steps(random_cases(seed, count, machine), device)]


def _layers(cases: Iterable[LayerCase], device: torch.device) -> Iterator[Entry]:
    for case in cases:
        yield Entry(section="layers", name=case.name, measure=partial(layer.measured, case, device))


def _steps(cases: Iterable[StepCase], device: torch.device) -> Iterator[Entry]:
    for case in cases:
        yield Entry(section="steps", name=case.name, measure=partial(_step, case, device))


def _verdicts(cases: Iterable[StepCase], device: torch.device) -> Iterator[Entry]:
    for case in cases:
        yield Entry(section="verdicts", name=case.name, measure=partial(verdict.capped, case, device))


def _histories(cases: Iterable[StepCase], device: torch.device) -> Iterator[Entry]:
    for case in cases:
        yield Entry(section="histories", name=case.name, measure=partial(history.measured, case, device))


def _trainers(cases: Iterable[StepCase], device: torch.device) -> Iterator[Entry]:
    for case in cases:
        yield Entry(section="trainers", name=case.name, measure=partial(trainer.measured, case, device))


def _sharded(cases: Iterable[StepCase], device: torch.device) -> Iterator[Entry]:
    for case in cases:
        yield Entry(section="sharded", name=case.name, measure=partial(in_child, sharded.measured, case, device))


def _loads(cases: Iterable[StepCase], device: torch.device) -> Iterator[Entry]:
    for case in cases:
        yield Entry(section="loads", name=case.name, measure=partial(in_child, load.measured, case, device))


def _served(cases: Iterable[ServedCase], device: torch.device) -> Iterator[Entry]:
    for case in cases:
        yield Entry(section="served", name=case.name, measure=partial(in_child, served.measured, case, device))


def _step(case: StepCase, device: torch.device) -> dict[str, Any]:
    return {"request": case.body, **step.measured(case.request, device)}
