"""Re-entrant checkpointing in older releases of transformers, whose Trainer gives frozen embeddings no gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.model import Stack
from calculator.common.errors import Problem
from calculator.stack.changes import older_behavior
from calculator.trainers.trl_sft.releases import chooses_reentrance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.methods.prepared_model import PreparedModel


def problems(prepared: PreparedModel) -> Iterator[Problem]:
    """Yield why chosen parameters of layers get no gradient: the first layer's input needs none.

    Source: torch/utils/checkpoint.py, CheckpointFunction, whose output needs a gradient only if an input does.
    """
    training, method = prepared.training, prepared.method
    older = older_behavior(prepared.stack, prepared.model.model_type)
    sets_false = training.trainer == "trl-sft" and chooses_reentrance(prepared.stack)
    left = training.gradient_checkpointing_kwargs is None and not sets_false
    always = training.trainer == "trl-grpo"  # turns checkpointing on again without its settings
    if not training.gradient_checkpointing or not (left or always or training.use_reentrant):
        return
    if "embeddings_without_gradients" not in older or not method.facts.trains_base:
        return
    layers = {part.name for part in prepared.model.parts if isinstance(part, Stack)}
    trained = [(path, module) for path, module, spec in prepared.distinct_modules if spec.trained]
    in_layers = any(path.startswith(tuple(f"{name}." for name in layers)) for path, _ in trained)
    if in_layers and not any(module.kind == "embedding" for _, module in trained):
        way_out = "use false" if always else "set training.gradient_checkpointing_kwargs.use_reentrant false"
        message = (
            f"re-entrant checkpointing, the default of transformers {prepared.stack.transformers}, gives the parameters"
            f" of layers no gradient, because their input needs none: {way_out}, or train the embeddings too"
        )
        yield Problem(loc="training.gradient_checkpointing", msg=message, input=True)
