"""Reasons that come from how a configuration trains."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.allocator.reserved_rule import RULE_ACCURACY
from calculator.methods import QLoRA
from calculator.plan.evaluator import MARGIN
from calculator.plan.reasons.reason import Judged, Reason, percent, size, speaks_against, speaks_for, times
from calculator.resident.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Iterator


def trained(judged: Judged) -> Iterator[Reason]:
    """What the settings take and save."""
    yield _room(judged)
    yield from _share(judged)
    yield from _recomputation(judged)
    yield from _four_bits(judged)
    yield from _optimizer(judged)
    yield from _batch(judged)
    yield from _precision(judged)


def _room(judged: Judged) -> Reason:
    memory, fit = judged.answer.memory, judged.answer.fit
    assert fit is not None
    sentence = (
        f"Needs {size(memory.required_bytes)} of {size(fit.usable_bytes)} usable: {size(fit.headroom_bytes)} to spare"
    )
    if judged.evaluator.is_close(judged.candidate):
        share = percent(fit.headroom_bytes / fit.usable_bytes)
        sentence = (
            f"{sentence}, {share} of it, where less than {percent(MARGIN)} is little. Reserved memory is by a rule that"
            f" is mostly high ({RULE_ACCURACY}): the estimate with reserved: replay tells how much there is."
        )
        return speaks_against("little_room", sentence)
    return speaks_for("fits", f"{sentence}.")


def _share(judged: Judged) -> Iterator[Reason]:
    most, share = judged.needs.max_trainable_fraction, judged.answer.parameters.trainable_fraction
    if most is not None:
        yield speaks_for("trained_share", f"Trains {percent(share)} of all parameters, of at most {percent(most)}.")


def _recomputation(judged: Judged) -> Iterator[Reason]:
    cost = times(judged.cost.relative)
    kept = size(judged.held("activations"))
    if judged.method.facts.refuses_checkpointing:
        sentence = (
            f"Can't be checkpointed: {kept} are kept for the backward pass. The step costs {cost} a reference step."
        )
        yield speaks_against("prefix_keeps", sentence)
    elif judged.candidate.gradient_checkpointing:
        more = percent(judged.cost_of("recomputed layers"))
        sentence = f"Recomputing the layers takes {more} of a reference step; the whole step costs {cost} that."
        yield speaks_against("recomputation", sentence)
    else:
        sentence = f"Nothing is recomputed: the step costs {cost} a reference step, and {kept} are kept for it."
        yield speaks_for("everything_kept", sentence)
    if judged.method.facts.trains_base:
        more = percent(judged.cost_of("gradients of the weights"))
        yield speaks_against("frozen_products", f"The weights' own gradients take {more} of a reference step.")


def _four_bits(judged: Judged) -> Iterator[Reason]:
    if not isinstance(judged.method, QLoRA):
        return
    whole = judged.answer.parameters.base * 2
    yield speaks_for("four_bits", f"The base takes {size(judged.base_bytes)}; in 16 bits it would take {size(whole)}.")
    more = percent(judged.cost_of("dequantised weights"))
    yield speaks_against("four_bits", f"Dequantising the weights takes {more} of a reference step.")
    if not judged.method.prepare_model_for_kbit_training:
        yield from _not_prepared(judged, judged.method)


def _not_prepared(judged: Judged, method: QLoRA) -> Iterator[Reason]:
    prepared = replace(judged.candidate, method=replace(method, prepare_model_for_kbit_training=True))
    other = judged.evaluator.answer(prepared)
    if other is not None:
        more = size(other.memory.required_bytes - judged.answer.memory.required_bytes)
        sentence = (
            f"Norms, embeddings and head stay in 16 bits; PEFT's preparation, in float32, would need {more} more."
        )
        yield speaks_against("not_prepared", sentence)


def _optimizer(judged: Judged) -> Iterator[Reason]:
    optimizer, trainable = OPTIMIZERS[judged.candidate.optimizer], judged.answer.parameters.trainable
    if optimizer.storage == "8bit":
        each = 4 if judged.method.facts.trains_base else 8
        whole, less = size(each * trainable), size(2 * trainable)
        where = ", in managed memory that moves to the CPU where the card is full" if optimizer.paged else ""
        sentence = f"{judged.candidate.optimizer} keeps about {less} of states instead of {whole}{where}."
        yield speaks_for("states_8bit", sentence)


def _batch(judged: Judged) -> Iterator[Reason]:
    training = judged.evaluator.request(judged.candidate).training
    accumulated, micro = training.gradient_accumulation_steps, training.micro_batch_size
    few = judged.cost_of("weights read for few tokens")
    if few:
        sentence = (
            f"Micro-batches of {micro:,} are few tokens: reading the weights adds {percent(few)} of a reference step."
        )
        yield speaks_against("accumulation", sentence)
    elif accumulated > 1:
        whole = accumulated * micro
        yield speaks_for("accumulation", f"{accumulated:,} micro-batches of {micro:,} make up the {whole:,} sequences.")


def _precision(judged: Judged) -> Iterator[Reason]:
    training = judged.evaluator.request(judged.candidate).training
    card = judged.evaluator.card
    if judged.method.facts.trains_base and training.dtype == "bfloat16":
        yield speaks_against("rounded_updates", "Weights in bfloat16 round away updates below 1/256 of a weight.")
    if card is not None and not judged.evaluator.has_bfloat16:
        yield speaks_against("no_bfloat16", f"{card.name} lacks bfloat16: the base is in {training.dtype}.")
