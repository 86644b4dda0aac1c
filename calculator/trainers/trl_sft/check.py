"""Checks for runs that TRL's SFTTrainer refuses, and for runs that are not modeled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.stack.changes import older_behavior
from calculator.stack.releases import dotted, is_older, release
from calculator.stack.renamed import older_head
from calculator.trainers import flattened
from calculator.trainers.trl import check, routers
from calculator.trainers.trl_sft.facts import FACTS
from calculator.trainers.trl_sft.releases import (
    CHUNKED,
    FLATTENS,
    FUSED,
    KNOWS_PREFIXES,
    LAST_ROWS,
    LOGS_ENTROPY,
    NAMES_LOSSES,
    OWN_LOSS,
    PACKS,
    RETURNS_POSITIONS,
    ROWS_IN_TRANSFORMERS,
    SKIPS_VIRTUAL_TOKENS,
    SPLITS,
    loss_of,
    needed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.common.names import LossType
    from calculator.trainers.subject import Subject

#: The values of `loss_type` that are modeled.
LOSSES: tuple[LossType, ...] = ("nll", "chunked_nll", "dft")

#: The last release of transformers with which runs of TRL 0.9 to 0.13 were compared.
LAST_OF_OLDER = (4, 48)


def problems(prepared: Subject) -> Iterator[Problem]:
    """Yield the problems of a run with the trainer."""
    yield from _transformers(prepared)
    yield from _loss(prepared)
    yield from _replaced_forward(prepared)
    yield from _rows(prepared)
    yield from check.model_problems(prepared, FACTS)
    yield from _router_loss(prepared)
    yield from check.head_problems(prepared) if release(prepared.stack.trl)[:2] >= CHUNKED else ()
    yield from check.four_bit_problems(prepared)


def _transformers(prepared: Subject) -> Iterator[Problem]:
    """Yield why a release of TRL does not run with an older transformers, or what is not modeled of it there."""
    training, stack = prepared.training, prepared.stack
    oldest = needed(stack)
    if release(stack.transformers)[:2] < oldest:
        message = f"TRL {stack.trl} needs transformers {dotted(oldest)} or later: name an older stack.trl"
        yield Problem(loc="stack.trl", msg=message, input=stack.trl)
    if (
        training.attention == "flash_attention_2"
        and RETURNS_POSITIONS[0] <= release(stack.trl)[:2] <= RETURNS_POSITIONS[1]
    ):
        message = f"flash_attention_2 with the batches of TRL {stack.trl} is not modeled: use sdpa, or stack.trl 0.24"
        yield Problem(loc="training.attention", msg=message, input=training.attention)
    yield from _embed_out(prepared)
    yield from _wrapped_by_script(prepared)
    yield from _virtual_tokens(prepared)


def _virtual_tokens(prepared: Subject) -> Iterator[Problem]:
    """Yield virtual tokens with which the logged metrics of a release fail, since shapes differ.

    Source: trl/trainer/sft_trainer.py, compute_loss, of TRL 0.15 to 0.24 (shift_logits, num_virtual_tokens).
    """
    trl, method = release(prepared.stack.trl)[:2], prepared.method
    if not method.virtual_tokens or not OWN_LOSS <= trl < KNOWS_PREFIXES:
        return
    if method.embeds_inputs == (trl < SKIPS_VIRTUAL_TOKENS):
        message = (
            f"SFTTrainer of TRL {prepared.stack.trl} computes its accuracy from logits and labels of different lengths"
            f" with {method.title}, and fails: use stack.trl {dotted(KNOWS_PREFIXES)} or later"
        )
        yield Problem(loc="method.name", msg=message, input=method.name)


def _wrapped_by_script(prepared: Subject) -> Iterator[Problem]:
    """Yield adapters that get no gradient, because SFTTrainer enables no input gradients of a PeftModel passed to it.

    Source: TRL 0.17, trainer/sft_trainer.py, SFTTrainer._prepare_peft_model.
    """
    training, stack = prepared.training, prepared.stack
    older = older_behavior(stack, prepared.model.model_type)
    left = training.gradient_checkpointing_kwargs is None and "reentrant_by_default" in older
    reentrant = training.gradient_checkpointing and (left or training.use_reentrant)
    adapted = not prepared.method.facts.trains_base and training.adapter_dtype == "model"
    if OWN_LOSS <= release(stack.trl)[:2] < LOGS_ENTROPY and reentrant and adapted:
        message = (
            f"adapters in the model's dtype are wrapped by the script, for which TRL {stack.trl} turns no gradient of"
            " the inputs on, so that re-entrant checkpointing gives them none: use float32"
        )
        yield Problem(loc="training.adapter_dtype", msg=message, input=training.adapter_dtype)


def _embed_out(prepared: Subject) -> Iterator[Problem]:
    """Yield the output head of GPT-NeoX, whose name in older releases TRL does not look for when it casts heads back.

    Source: transformers 4.57.6, models/gpt_neox/modeling_gpt_neox.py, GPTNeoXForCausalLM (embed_out).
    """
    stored = prepared.method.base_quantization(prepared.training)
    if stored is not None and older_head(prepared.stack, prepared.model.model_type):
        message = (
            f"the casts of a quantized gpt_neox by SFTTrainer with transformers {prepared.stack.transformers} are not"
            " modeled: use lora or full"
        )
        yield Problem(loc="method.name", msg=message, input=prepared.method.name)


def _router_loss(prepared: Subject) -> Iterator[Problem]:
    """Yield why the routers' loss is refused. Releases before 1.7 only add it if the config requests it."""
    trl = release(prepared.stack.trl)[:2]
    if trl >= FUSED:
        yield from routers.problems(prepared, "SFTTrainer")
    elif trl >= CHUNKED and "output_router_logits" in prepared.model.config:
        yield from check.router_problems(prepared, FACTS)
    elif prepared.model.config.get("output_router_logits"):
        yield routers.unused(f"SFTTrainer of TRL {prepared.stack.trl}")


def _loss(prepared: Subject) -> Iterator[Problem]:
    training, trl = prepared.training, release(prepared.stack.trl)[:2]
    if trl < OWN_LOSS and release(prepared.stack.transformers)[:2] > LAST_OF_OLDER:
        message = f"SFTTrainer of TRL {prepared.stack.trl} is known with transformers 4.39 to {dotted(LAST_OF_OLDER)}"
        yield Problem(loc="stack.trl", msg=f"{message}: name one in stack.transformers", input=prepared.stack.trl)
    if training.loss_type is not None and trl < NAMES_LOSSES:
        message = f"SFTTrainer of TRL {prepared.stack.trl} has no loss_type, or none that is modeled: leave it out"
        yield Problem(loc="training.loss_type", msg=message, input=training.loss_type)
    elif training.loss_type not in (None, *LOSSES):
        message = f"{training.loss_type} is not a modeled loss of SFTTrainer: use nll, chunked_nll or dft"
        yield Problem(loc="training.loss_type", msg=message, input=training.loss_type)
    elif training.loss_type == "dft" and trl < FUSED:
        message = f"dft in TRL {prepared.stack.trl} is not modeled: use nll, or stack.trl 1.15 or later"
        yield Problem(loc="training.loss_type", msg=message, input="dft")
    elif training.loss_type == "chunked_nll" and trl < CHUNKED:
        message = f"TRL {prepared.stack.trl} has no chunked_nll: use nll, or a later stack.trl"
        yield Problem(loc="training.loss_type", msg=message, input="chunked_nll")
    if training.use_liger_kernel and trl < FUSED:
        message = f"Liger's loss in TRL {prepared.stack.trl} is not modeled yet: use stack.trl 1.15 or later"
        yield Problem(loc="training.use_liger_kernel", msg=message, input=True)


def _replaced_forward(prepared: Subject) -> Iterator[Problem]:
    """Yield a method that never runs the forward by which SFTTrainer replaces the model's for its loss.

    Source: TRL 1.16, trainer/sft_trainer.py, add_fused_lm_head in __init__, and compute_loss.
    """
    if prepared.method.binds_forward and loss_of(prepared.training, prepared.stack) != "nll":
        message = (
            f"PEFT keeps the model's own forward with {prepared.method.title}, and SFTTrainer, which replaces it for"
            " its loss, raises an error: use the trainer transformers, or another method"
        )
        yield Problem(loc="method.name", msg=message, input=prepared.method.name)


def _rows(prepared: Subject) -> Iterator[Problem]:
    """Yield why packed or flattened rows are refused by a release, or are not modeled."""
    training, trl = prepared.training, release(prepared.stack.trl)[:2]
    name = "packing" if training.packing else "padding_free"
    if (training.flattened and trl < FLATTENS) or (training.packing and trl < PACKS):
        message = f"{name} in TRL {prepared.stack.trl} is not modeled: use false, or a later stack.trl"
        yield Problem(loc=f"training.{name}", msg=message, input=True)
    elif training.flattened and is_older(prepared.stack):
        yield from _rows_in_older_models(prepared, name)
    if training.packing_strategy != "bfd":
        yield from _strategy(prepared)
    yield from flattened.problems(prepared)


def _rows_in_older_models(prepared: Subject, name: str) -> Iterator[Problem]:
    """Yield why a row of samples is not modeled with an older transformers."""
    stack, model_type = prepared.stack, prepared.model.model_type
    if not (release(stack.trl)[:2] <= LAST_ROWS and release(stack.transformers)[:2] in ROWS_IN_TRANSFORMERS):
        message = (
            f"one row of samples with TRL {stack.trl} in transformers {stack.transformers} is not modeled: use false,"
            " or stack.trl 0.23 or 0.24 with stack.transformers 4.56 or 4.57"
        )
        yield Problem(loc=f"training.{name}", msg=message, input=True)
    elif model_type == "gpt2":
        message = f"the layers of {model_type} in transformers {stack.transformers} get no positions: use false"
        yield Problem(loc=f"training.{name}", msg=message, input=True)


def _strategy(prepared: Subject) -> Iterator[Problem]:
    given, where = prepared.training.packing_strategy, "training.packing_strategy"
    if not prepared.training.packing:
        yield Problem(loc=where, msg="it has no effect: set packing to true, or leave it out", input=given)
    if given == "bfd_split" and release(prepared.stack.trl) < SPLITS:
        message = f"TRL {prepared.stack.trl} has no bfd_split: use bfd or wrapped, or a later stack.trl"
        yield Problem(loc=where, msg=message, input=given)
