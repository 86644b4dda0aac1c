"""Runs experiments one after the other."""

from __future__ import annotations

import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from validation.cli.progress import Progress
from validation.prove.experiment import Experiment, Setting

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SEED = 0


def proven(names: Sequence[str], device: torch.device, *, quick: bool) -> Iterator[dict[str, Any]]:
    """What each experiment finds, as the results file has it, as soon as it is known."""
    experiments = [experiment(name) for name in names]
    progress = Progress(sum(each.steps(quick) for each in experiments), "steps")
    for each in experiments:
        found = _found(each, Setting(device=device, quick=quick, step=progress.step))
        progress.close()
        yield found


def experiment(name: str) -> Experiment:
    """The experiment of a name, which is its module's."""
    found: Experiment = import_module(f"validation.prove.{name}").EXPERIMENT
    return found


def _found(told: Experiment, setting: Setting) -> dict[str, Any]:
    torch.manual_seed(SEED)
    start = time.perf_counter()
    findings = told.run(setting)
    seconds = round(time.perf_counter() - start, 1)
    return {"name": told.name, "title": told.title, "section": told.section, "seconds": seconds} | findings.to_json()
