"""The evaluation of a run on several GPUs by the real Trainer, traced on one rank after its training steps."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from calculator.inputs.sharding import parse_sharding
from validation.reference.optimizers import optimizers_on_meta
from validation.reference.trainers.build import build_run
from validation.reference.trainers.meta_device import accelerate_on_meta
from validation.reference.trainers.recipe import parse_recipe
from validation.sharding.launch import arguments, launched
from validation.sharding.process_group import one_rank_of
from validation.sharding.refusals import check
from validation.sharding.streams import Streams
from validation.sharding.trace import ENGINES
from validation.sharding.trainer_step import ShardedTrainerStep
from validation.tracing.evaluation import evaluate_after
from validation.tracing.shims import emulate_cuda, patched_model_code

if TYPE_CHECKING:
    from calculator.inputs.run import RunSettings
    from validation.reference.trainers.run import Run
    from validation.sharding.engine import Engine

#: The steps before the evaluation: DDP rebuilds its buckets in the second.
STEPS = 2


class ShardedEvaluation(ShardedTrainerStep):
    """A trainer's steps and the evaluation after the last. `resident_bytes` are those alive when that begins."""

    def __init__(self, run: Run, engine: Engine, streams: Streams) -> None:
        super().__init__(run, engine, streams)
        self._before(self.trainer, "evaluation_loop", self._begin_evaluation)

    def _begin_step(self) -> None:
        """Let the steps before the evaluation pass."""

    def _finish(self) -> None:
        """The evaluation follows the last step."""

    def _begin_evaluation(self) -> None:
        self._adopt()
        self.tracker.restart()
        self.resident_bytes = self.ledger.live_bytes
        self.tracker.enter("forward")

    @property
    def peak_bytes(self) -> int:
        """The most bytes alive in the evaluation."""
        return self.ledger.peaks["forward"].bytes


def trace_sharded_evaluation(body: dict[str, Any], run: RunSettings) -> ShardedEvaluation:
    """Train a request's model on rank 0 of several, evaluate, and record the evaluation.

    Raises:
        PlanError: if a library refuses the request, or the trace does not run it.
    """
    recipe = parse_recipe(body)
    assert recipe is not None
    training, device = recipe.request.training, recipe.request.device
    sharding, streams = parse_sharding(body, device.sharding, device.count), Streams()
    check(training, sharding, 0)
    with ExitStack() as stack:
        stack.enter_context(emulate_cuda(known_values=True))
        stack.enter_context(optimizers_on_meta())
        stack.enter_context(one_rank_of(sharding.count, 0, streams))
        stack.enter_context(accelerate_on_meta())
        stack.enter_context(launched(sharding, 0, streams))
        folder = stack.enter_context(TemporaryDirectory())
        built = build_run(replace(recipe, distribution=arguments(training, sharding)), folder)
        evaluate_after(STEPS, built.trainer, run)
        engine = ENGINES[sharding.name](built.reference, training, sharding, streams)
        with patched_model_code():
            traced = ShardedEvaluation(built, engine, streams)
            traced.run()
    return traced
