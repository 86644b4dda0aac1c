"""A trace of one rank's step of a trainer on several GPUs, on the meta device."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from transformers import TrainingArguments

from validation.reference.optimizers import optimizers_on_meta
from validation.reference.trainers import kernels
from validation.reference.trainers.arguments import training_arguments
from validation.reference.trainers.build import build_run
from validation.reference.trainers.meta_device import accelerate_on_meta
from validation.reference.trainers.offloaded_activations import offloaded_on_meta
from validation.sharding.fsdp import meshes_of
from validation.sharding.host_reads import HostReads
from validation.sharding.launch import arguments, launched
from validation.sharding.process_group import one_rank_of
from validation.sharding.refusals import check
from validation.sharding.streams import Streams
from validation.sharding.trace import ENGINES
from validation.sharding.trainer_step import ShardedTrainerStep
from validation.sharding.zero_init import applies
from validation.tracing.emulations import EMULATIONS
from validation.tracing.shims import emulate_cuda, patched_model_code
from validation.tracing.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inputs.sharding import Sharding
    from validation.reference.trainers.offloaded_activations import PinnedMemory
    from validation.reference.trainers.recipe import Recipe
    from validation.reference.trainers.run import Run
    from validation.sharding.engine import Engine


class Launched(NamedTuple):
    """A run of a trainer, the library that shards it, and the streams of its GPU."""

    run: Run
    engine: Engine
    streams: Streams
    #: The pinned host memory of offloaded activations, if there are any.
    pinned: PinnedMemory | None


@contextmanager
def launched_run(recipe: Recipe, sharding: Sharding, rank: int, *, before_2_14: bool = False) -> Iterator[Launched]:
    """Make a trainer on one rank of several, on the meta device.

    Raises:
        PlanError: if the libraries refuse the request, or the trace does not run it.
    """
    training, streams = recipe.request.training, Streams()
    check(training, sharding, rank)
    with ExitStack() as stack:
        stack.enter_context(emulate_cuda(before_2_14=before_2_14, known_values=True))
        stack.enter_context(optimizers_on_meta(training.optimizer))
        stack.enter_context(one_rank_of(sharding.count, rank, streams))
        stack.enter_context(accelerate_on_meta())
        stack.enter_context(launched(sharding, rank, streams))
        folder, pinned = stack.enter_context(TemporaryDirectory()), None
        if recipe.activation_offloading:
            kernels.install()
            pinned = stack.enter_context(offloaded_on_meta(streams, on_host=is_on_host(recipe, sharding)))
        recipe = replace(recipe, distribution=arguments(training, sharding))
        with HostReads(), meshes_of("meta", sharding.count) if sharding.name == "fsdp" else nullcontext():
            training_args = (
                TrainingArguments(**training_arguments(recipe, folder)) if applies(recipe.request, sharding) else None
            )
            run = build_run(recipe, folder)
            del training_args  # transformers knows of ZeRO-3 as long as these arguments exist
        engine = ENGINES[sharding.name](run.reference, training, sharding, streams)
        stack.enter_context(patched_model_code())
        yield Launched(run, engine, streams, pinned)


def is_on_host(recipe: Recipe, sharding: Sharding) -> bool:
    """Return whether the trainer is made with the model on the host.

    FSDP and DeepSpeed move it, if it is not quantized.

    Source: transformers, trainer.py, Trainer.__init__, place_model_on_device.
    """
    packed = recipe.request.method.base_quantization(recipe.request.training)
    return sharding.name != "ddp" and packed is None


def trace(recipe: Recipe, sharding: Sharding, rank: int = 0, *, before_2_14: bool = False) -> Trace:
    """Run a trainer's `train()` on one rank on the meta device and record every storage of a step.

    Raises:
        PlanError: if the libraries refuse the request, or the trace does not run it.
    """
    with launched_run(recipe, sharding, rank, before_2_14=before_2_14) as run:
        counts = run.run.reference.parameter_counts()
        step = ShardedTrainerStep(run.run, run.engine, run.streams)
        step.run()
    return Trace(
        parameters=counts,
        static=step.static(),
        ledger=step.ledger,
        emulations=EMULATIONS,
        resident=step.resident_bytes,
        pinned=run.pinned.peak if run.pinned is not None else None,
    )
