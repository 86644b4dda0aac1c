"""A trace of a trainer's own step on the meta device.

Liger patches the classes of a model's modules for good, so trace a trainer with it in a process of its own.
"""

from __future__ import annotations

from contextlib import ExitStack
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from validation.reference.optimizers import optimizers_on_meta
from validation.reference.trainers import kernels
from validation.reference.trainers.build import build_run
from validation.reference.trainers.meta_device import accelerate_on_meta
from validation.reference.trainers.offloaded_activations import offloaded_on_meta
from validation.sharding.streams import Streams
from validation.tracing.emulations import EMULATIONS
from validation.tracing.shims import emulate_cuda, patched_model_code
from validation.tracing.trace import Trace
from validation.tracing.trainer_step import TrainerStep

if TYPE_CHECKING:
    from validation.reference.trainers.recipe import Recipe


def trace(recipe: Recipe, *, before_2_14: bool = False) -> Trace:
    """Run a trainer's `train()` on the meta device and record every storage of a step.

    Raises:
        PlanError: if a library refuses the request.
    """
    with (
        emulate_cuda(before_2_14=before_2_14, known_values=True),
        optimizers_on_meta(recipe.request.training.optimizer),
        accelerate_on_meta(),
        TemporaryDirectory() as folder,
        ExitStack() as stack,
    ):
        streams, pinned = Streams(), None
        if recipe.activation_offloading:
            kernels.install()
            pinned = stack.enter_context(offloaded_on_meta(streams))
        run = build_run(recipe, folder)
        with patched_model_code():
            step = TrainerStep(run, stream=streams.current_name)
            step.run()
    return Trace(
        parameters=run.reference.parameter_counts(),
        static=step.static(),
        ledger=step.ledger,
        emulations=EMULATIONS,
        pinned=pinned.peak if pinned is not None else None,
    )
