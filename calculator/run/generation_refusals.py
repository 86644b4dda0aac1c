"""Checks for generation in evaluation that the libraries refuse, or that is not modeled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import PlanError, Problem
from calculator.families import has_no_length
from calculator.inputs.sharding import FSDPConfig
from calculator.layers.masks import is_recurrent
from calculator.run.generation import most_tokens
from calculator.sharding.fsdp.problems import GENERATION_FAILS
from calculator.training_step.audio_generation import prompt_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.inputs.run import RunSettings
    from calculator.methods.prepared_model import PreparedModel
    from calculator.run.request import RunRequest


def problems_of_generation(request: RunRequest) -> Iterator[Problem]:
    """Yield settings that are refused before the model is built."""
    run, estimate = request.run, request.estimate
    if not run.predict_with_generate:
        return
    if not run.evaluates:
        message = "generation is a part of the evaluation: set eval_strategy, or use false"
        yield Problem(loc="run.predict_with_generate", msg=message, input=True)
        return
    if not run.generates:
        message = (
            "Seq2SeqTrainer generates only for compute_metrics: set compute_metrics, without prediction_loss_only, or"
            " use false"
        )
        yield Problem(loc="run.predict_with_generate", msg=message, input=True)
    if estimate.device.sharding == "fsdp" and (estimate.training.fsdp_config or FSDPConfig()).cpu_offload:
        message = f"{GENERATION_FAILS}: set false, or run.predict_with_generate false"
        yield Problem(loc="training.fsdp_config.cpu_offload", msg=message, input=True)
    if estimate.task not in ("causal_lm", "seq_2_seq_lm"):
        message = f"a model of {estimate.task} generates nothing: use false"
        yield Problem(loc="run.predict_with_generate", msg=message, input=True)
    if estimate.training.flattened:
        name = "packing" if estimate.training.packing else "padding_free"
        message = "generate takes a batch whose rows are joined for one prompt"
        yield Problem(loc="run.predict_with_generate", msg=f"{message}: use false, or {name} false", input=True)
    if estimate.method.virtual_tokens:
        message = "generation with virtual tokens in training is not modeled: use lora, or predict_with_generate false"
        yield Problem(loc="method.name", msg=message, input=estimate.method.name)


def check_generation(run: RunSettings, prepared: PreparedModel) -> None:
    """Refuse the generation of a model.

    Raises:
        PlanError: with the least length, or the reason.
    """
    if not run.generates:
        return
    model, length = prepared.model, prepared.given.sequence_length
    if has_no_length(model):
        message = "no layer attends, and generate finds no length of the cache: use false"
        raise PlanError(Problem(loc="run.predict_with_generate", msg=message, input=True))
    kernels = prepared.given.kernels
    if kernels and is_recurrent(model):
        message = f"what {' and '.join(kernels)} allocate for one token is not modeled: leave it out, or use false"
        raise PlanError(Problem(loc="training.kernels", msg=message, input=kernels))
    if run.generation_max_length is None:
        message = (
            "without it, the checkpoint's generation_config.json says how long sequences become, which is not read:"
            f" give a length, {length + 1 if not model.encoder_layers else 20:,} for example"
        )
        raise PlanError(Problem(loc="run.generation_max_length", msg=message, input=None))
    if not model.encoder_layers and most_tokens(run) <= length:
        message = f"counts the prompt of {length:,} tokens (training.sequence_length) too: give {length + 1:,} or more"
        raise PlanError(Problem(loc="run.generation_max_length", msg=message, input=run.generation_max_length))
    if model.reads_audio:
        _check_audio(run, model)
        return
    positions = model.config.get("max_position_embeddings")
    if model.encoder_layers and positions is not None and most_tokens(run) > positions:
        message = f"the model has {positions:,} positions (max_position_embeddings): use at most that many"
        raise PlanError(Problem(loc="run.generation_max_length", msg=message, input=run.generation_max_length))


def _check_audio(run: RunSettings, model: Model) -> None:
    positions, first = model.config["max_position_embeddings"], prompt_tokens(model)
    if most_tokens(run) > positions - first:
        message = (
            f"the decoder has {positions:,} positions (max_target_positions), of which {first} are of the tokens that"
            f" it starts with: use at most {positions - first:,}"
        )
        raise PlanError(Problem(loc="run.generation_max_length", msg=message, input=run.generation_max_length))
