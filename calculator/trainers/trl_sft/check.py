"""What TRL's SFTTrainer refuses, and what of it is not modelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.families import forward_of
from calculator.layers.decoder_forward import rotary_tables, rotary_tables_per_type
from calculator.stack.releases import release
from calculator.trainers.trl_sft import qlora
from calculator.trainers.trl_sft.eras import CHUNKED, FUSED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.trainers.subject import Subject


def problems(prepared: Subject) -> Iterator[Problem]:
    """Yield the problems of a run with the trainer."""
    yield from _loss(prepared)
    yield from _packing(prepared) if prepared.training.packing else ()
    yield from _method(prepared)
    if "output_router_logits" in prepared.model.config:
        message = f"the routers' loss that SFTTrainer adds to {prepared.model.model_type} is not modelled yet"
        yield Problem(loc="training.trainer", msg=f"{message}: use transformers", input="trl-sft")


def _loss(prepared: Subject) -> Iterator[Problem]:
    training, trl = prepared.training, release(prepared.stack.trl)[:2]
    if training.loss_type == "chunked_nll" and trl < CHUNKED:
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
        message = f"packing is not modelled for the positions of {prepared.model.model_type}: take false"
        yield Problem(loc="training.packing", msg=message, input=True)


def _method(prepared: Subject) -> Iterator[Problem]:
    method, model, trl = prepared.method, prepared.model, release(prepared.stack.trl)[:2]
    if method.virtual_tokens:
        message = f"SFTTrainer with {method.name} is not modelled yet: use the trainer transformers, or another method"
        yield Problem(loc="method.name", msg=message, input=method.name)
    head = model.output
    if trl >= CHUNKED and prepared.module_spec(head.name, head).added:
        message = f"TRL reads the weight of {head.name} alone and refuses an adapter on it: leave it out"
        yield Problem(loc="method.target_modules", msg=message, input=head.name)
    if method.base_quantization(prepared.training) is None:
        return
    is_prepared = method.hidden_dtype(prepared.training) != prepared.training.dtype
    if qlora.prepares(prepared.stack) and not is_prepared and prepared.training.dtype != "float32":
        message = f"TRL {prepared.stack.trl} prepares a 4-bit model itself: take true"
        yield Problem(loc="method.prepare_model_for_kbit_training", msg=message, input=False)
    trains_more = method.trains_biases or getattr(method, "modules_to_save", None)
    if trains_more and not qlora.prepares(prepared.stack) and (is_prepared or prepared.training.dtype != "bfloat16"):
        message = (
            "TRL casts what is trained of a 4-bit model to bfloat16: with biases or modules_to_save, that is modelled "
            "for training.dtype bfloat16 without preparation only"
        )
        yield Problem(loc="training.dtype", msg=message, input=prepared.training.dtype)
