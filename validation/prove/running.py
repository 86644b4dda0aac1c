"""Running of experiments, in order."""

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


def run_experiments(names: Sequence[str], device: torch.device, *, quick: bool) -> Iterator[dict[str, Any]]:
    """Yield each experiment's results, in the fields of the results file, as soon as it has run."""
    experiments = [experiment(name) for name in names]
    progress = Progress(sum(chosen.steps(quick) for chosen in experiments), "steps")
    for chosen in experiments:
        result = _run(chosen, Setting(device=device, quick=quick, step=progress.step))
        progress.close()
        yield result


def experiment(name: str) -> Experiment:
    """Return the experiment of the module with a name."""
    loaded: Experiment = import_module(f"validation.prove.{name}").EXPERIMENT
    return loaded


def _run(experiment: Experiment, setting: Setting) -> dict[str, Any]:
    torch.manual_seed(SEED)
    start = time.perf_counter()
    findings = experiment.run(setting)
    seconds = round(time.perf_counter() - start, 1)
    described = {"name": experiment.name, "title": experiment.title, "section": experiment.section}
    return {**described, "seconds": seconds, **findings.to_json()}
