"""What TRL's SFTTrainer refuses, and what of it is not modelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.families import forward_of
from calculator.layers.decoder_forward import rotary_tables, rotary_tables_per_type
from calculator.stack.releases import dotted, release
from calculator.trainers.trl import check
from calculator.trainers.trl_sft.eras import CHUNKED, FUSED, OWN_LOSS
from calculator.trainers.trl_sft.facts import FACTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.trainers.subject import Subject

#: The last transformers with which runs of TRL 0.9 to 0.13 were compared.
LAST_OF_OLDER = (4, 48)


def problems(prepared: Subject) -> Iterator[Problem]:
    """Yield the problems of a run with the trainer."""
    yield from _loss(prepared)
    yield from _packing(prepared) if prepared.training.packing else ()
    yield from check.model_problems(prepared, FACTS)
    yield from check.router_problems(prepared, FACTS) if "output_router_logits" in prepared.model.config else ()
    yield from check.head_problems(prepared) if release(prepared.stack.trl)[:2] >= CHUNKED else ()
    yield from check.four_bit_problems(prepared)


def _loss(prepared: Subject) -> Iterator[Problem]:
    training, trl = prepared.training, release(prepared.stack.trl)[:2]
    if trl < OWN_LOSS and release(prepared.stack.transformers)[:2] > LAST_OF_OLDER:
        message = f"SFTTrainer of TRL {prepared.stack.trl} is known with transformers 4.39 to {dotted(LAST_OF_OLDER)}"
        yield Problem(loc="stack.trl", msg=f"{message}: name one in stack.transformers", input=prepared.stack.trl)
    if training.loss_type is not None and trl < OWN_LOSS:
        message = f"SFTTrainer of TRL {prepared.stack.trl} has no loss_type: leave it out"
        yield Problem(loc="training.loss_type", msg=message, input=training.loss_type)
    elif training.loss_type not in (None, "nll", "chunked_nll", "dft"):
        message = f"{training.loss_type} is no loss of SFTTrainer that is modelled: use nll, chunked_nll or dft"
        yield Problem(loc="training.loss_type", msg=message, input=training.loss_type)
    elif training.loss_type == "dft" and trl < FUSED:
        message = f"dft in TRL {prepared.stack.trl} is not modelled: use nll, or stack.trl 1.15 or later"
        yield Problem(loc="training.loss_type", msg=message, input="dft")
    elif training.loss_type == "chunked_nll" and trl < CHUNKED:
        message = f"TRL {prepared.stack.trl} has no chunked_nll: use nll, or a later stack.trl"
        yield Problem(loc="training.loss_type", msg=message, input="chunked_nll")
    if training.use_liger_kernel and trl < FUSED:
        message = f"Liger's loss in TRL {prepared.stack.trl} is not modelled yet: use stack.trl 1.15 or later"
        yield Problem(loc="training.use_liger_kernel", msg=message, input=True)


def _packing(prepared: Subject) -> Iterator[Problem]:
    """Packing without flash attention, and what of it is not modelled."""
    training, trl = prepared.training, release(prepared.stack.trl)[:2]
    if training.attention != "flash_attention_2":
        message = "the masks of packed sequences are not modelled for other kernels yet: use flash_attention_2"
        yield Problem(loc="training.attention", msg=message, input=training.attention)
    if trl < FUSED:
        message = f"packing in TRL {prepared.stack.trl} is not modelled yet: use stack.trl 1.15 or later"
        yield Problem(loc="training.packing", msg=message, input=True)
    if training.sequence_lengths is not None:
        message = "packed micro-batches have one length: leave sequence_lengths out"
        yield Problem(loc="training.sequence_lengths", msg=message, input=training.sequence_lengths)
    if forward_of(prepared.model).tables not in (rotary_tables, rotary_tables_per_type):
        message = f"packing is not modelled for the positions of {prepared.model.model_type}: use false"
        yield Problem(loc="training.packing", msg=message, input=True)
