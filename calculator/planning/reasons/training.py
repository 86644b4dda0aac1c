"""Reasons that come from how a configuration trains."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.allocator.reserved_assumptions import RULE_ACCURACY
from calculator.methods import QLoRA
from calculator.planning.evaluator import MARGIN
from calculator.planning.reasons.reason import (
    Evaluation,
    Reason,
    format_factor,
    percent,
    size,
    speaks_against,
    speaks_for,
)
from calculator.resident.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Iterator


def training_reasons(evaluation: Evaluation) -> Iterator[Reason]:
    """Yield the costs and the savings of the settings."""
    yield _headroom_reason(evaluation)
    yield from _share(evaluation)
    yield from _recomputation(evaluation)
    yield from _four_bits(evaluation)
    yield from _optimizer(evaluation)
    yield from _batch(evaluation)
    yield from _precision(evaluation)


def _headroom_reason(evaluation: Evaluation) -> Reason:
    memory, fit = evaluation.answer.memory, evaluation.answer.fit
    assert fit is not None
    sentence = (
        f"Needs {size(memory.required_bytes)} of {size(fit.usable_bytes)}, with {size(fit.headroom_bytes)} to spare"
    )
    if evaluation.evaluator.is_close(evaluation.candidate):
        share = percent(fit.headroom_bytes / fit.usable_bytes)
        sentence = f"{sentence}. That is {share} of the memory; less than {percent(MARGIN)} is a small margin."
        if evaluation.answer.reserved == "rule":
            sentence = (
                f"{sentence} Reserved memory follows a rule, which usually overestimates it ({RULE_ACCURACY}). For the"
                " margin itself, estimate the run with reserved: replay."
            )
        return speaks_against("little_room", sentence)
    return speaks_for("fits", f"{sentence}.")


def _share(evaluation: Evaluation) -> Iterator[Reason]:
    most, share = evaluation.needs.max_trainable_fraction, evaluation.answer.parameters.trainable_fraction
    if most is not None:
        yield speaks_for("trained_share", f"Trains {percent(share)} of all parameters, of at most {percent(most)}.")


def _recomputation(evaluation: Evaluation) -> Iterator[Reason]:
    cost = format_factor(evaluation.cost.relative)
    kept = size(evaluation.component_bytes("activations"))
    if evaluation.method.facts.refuses_checkpointing:
        sentence = (
            f"Can't be checkpointed: {kept} are kept for the backward pass. The step costs {cost} a reference step."
        )
        yield speaks_against("prefix_keeps", sentence)
    elif evaluation.candidate.gradient_checkpointing:
        more = percent(evaluation.cost_of("recomputed layers"))
        sentence = f"Recomputing the layers costs {more} of a reference step; the whole step costs {cost} that."
        yield speaks_against("recomputation", sentence)
    else:
        sentence = f"Nothing is recomputed: the step costs {cost} a reference step, and {kept} are kept for it."
        yield speaks_for("everything_kept", sentence)
    if evaluation.method.facts.trains_base:
        more = percent(evaluation.cost_of("gradients of the weights"))
        yield speaks_against("frozen_products", f"The weights' own gradients cost {more} of a reference step.")


def _four_bits(evaluation: Evaluation) -> Iterator[Reason]:
    if not isinstance(evaluation.method, QLoRA):
        return
    whole = evaluation.answer.parameters.base * 2
    yield speaks_for(
        "four_bits", f"The base needs {size(evaluation.base_bytes)}; in 16 bits it would need {size(whole)}."
    )
    more = percent(evaluation.cost_of("dequantized weights"))
    yield speaks_against("four_bits", f"Dequantizing the weights costs {more} of a reference step.")
    if not evaluation.method.prepare_model_for_kbit_training:
        yield from _not_prepared(evaluation, evaluation.method)


def _not_prepared(evaluation: Evaluation, method: QLoRA) -> Iterator[Reason]:
    prepared = replace(evaluation.candidate, method=replace(method, prepare_model_for_kbit_training=True))
    other = evaluation.evaluator.stated(prepared)
    if other is not None:
        more = size(other.memory.required_bytes - evaluation.answer.memory.required_bytes)
        sentence = (
            f"Norms, embeddings and head stay in 16 bits; PEFT's preparation, in float32, would need {more} more."
        )
        yield speaks_against("not_prepared", sentence)


def _optimizer(evaluation: Evaluation) -> Iterator[Reason]:
    optimizer, trainable = OPTIMIZERS[evaluation.candidate.optimizer], evaluation.answer.parameters.trainable
    if optimizer.storage == "8bit":
        device, training = evaluation.evaluator.device, evaluation.evaluator.request(evaluation.candidate).training
        state_bytes = 4 if evaluation.method.facts.trains_base and training.autocast is None else 8
        here = -(-trainable // device.count) if device.sharded_over else trainable
        whole, less = size(state_bytes * here), size(2 * here)
        where = ", in managed memory that moves to the CPU where the GPU is full" if optimizer.paged else ""
        sentence = f"{evaluation.candidate.optimizer} keeps about {less} of states instead of {whole}{where}."
        yield speaks_for("states_8bit", sentence)


def _batch(evaluation: Evaluation) -> Iterator[Reason]:
    training = evaluation.evaluator.request(evaluation.candidate).training
    accumulated, micro = training.gradient_accumulation_steps, training.micro_batch_size
    few = evaluation.cost_of("weights read for few tokens")
    if few:
        sentence = (
            f"Micro-batches of {micro:,} are few tokens: reading the weights adds {percent(few)} of a reference step."
        )
        yield speaks_against("accumulation", sentence)
    elif accumulated > 1:
        whole = f"{accumulated * micro:,} sequences"
        per_gpu = "" if evaluation.evaluator.device.count == 1 else " of each GPU"
        yield speaks_for("accumulation", f"{accumulated:,} micro-batches of {micro:,} make up the {whole}{per_gpu}.")


def _precision(evaluation: Evaluation) -> Iterator[Reason]:
    training = evaluation.evaluator.request(evaluation.candidate).training
    card = evaluation.evaluator.card
    has_masters = training.autocast is not None
    if evaluation.method.facts.trains_base and training.dtype == "bfloat16" and not has_masters:
        yield speaks_against("rounded_updates", "Weights in bfloat16 round away updates below 1/256 of a weight.")
    base = evaluation.evaluator.lora.base
    if base is not None and not base.takes_bfloat16:
        yield speaks_against("base_in_float16", f"transformers loads a base in {base.label} in float16.")
    elif card is not None and not evaluation.evaluator.has_bfloat16:
        yield speaks_against("no_bfloat16", f"{card.name} lacks bfloat16: the base is in {training.dtype}.")
