"""The evaluation of a run on several GPUs by the real Trainer, traced on one rank after its training steps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calculator.inputs.sharding import parse_sharding
from validation.reference.trainers.recipe import parse_recipe
from validation.sharding.trainer_step import ShardedTrainerStep
from validation.sharding.trainer_trace import launched_run
from validation.tracing.evaluation import TracedEvaluation, evaluate_after, whole_sequences

if TYPE_CHECKING:
    from calculator.inputs.run import RunSettings


class ShardedEvaluation(TracedEvaluation, ShardedTrainerStep):
    """The evaluation on one rank."""

    def _finish(self) -> None:
        """Do nothing. The evaluation follows the last step."""


def trace_sharded_evaluation(body: dict[str, Any], run: RunSettings) -> ShardedEvaluation:
    """Train a request's model on rank 0 of several, evaluate, and record the evaluation.

    The library that shards allocates what it keeps in the first steps.

    Raises:
        PlanError: if a library refuses the request, or the trace does not run it.
    """
    recipe = parse_recipe(body)
    assert recipe is not None
    recipe = replace(recipe, generates=run.generates)
    device = recipe.request.device
    with launched_run(recipe, parse_sharding(body, device.sharding, device.count), 0) as launched:
        evaluate_after(max(2, launched.engine.warm_up_steps + 1), launched.run.trainer, run, recipe.request)
        traced = ShardedEvaluation(launched.run, launched.engine, launched.streams)
        with whole_sequences(run, recipe.request):
            traced.run()
    return traced
