"""Changes to a trainer's settings that might save memory.

The estimate refuses those that the trainer does not have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.inputs.stack import DEFAULT_STACK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.estimation.request import Request


def trainer_ideas(request: Request) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rule and the changes of each idea. The reference step has none."""
    training = request.training
    if training.trainer is None:
        return
    if training.dtype == "float32" and training.autocast is not None:
        rule = "rounded_updates" if request.method.facts.trains_base else "loaded_in_half_precision"
        yield rule, {"training.dtype": training.autocast}
    in_torchtune = training.trainer == "torchtune" and request.method.facts.trains_base
    if in_torchtune and not training.optimizer_in_bwd and training.gradient_accumulation_steps == 1:
        yield "step_in_backward", {"training.optimizer_in_bwd": True, "training.max_grad_norm": None}
    if training.loss_type != "chunked_nll":
        yield "loss_in_chunks", {"training.loss_type": "chunked_nll"}
    if request.stack.trl != DEFAULT_STACK.trl:
        yield "fused_head", {"stack.trl": DEFAULT_STACK.trl}
    if not training.use_liger_kernel:
        yield "liger_kernels", {"training.use_liger_kernel": True}
    if training.trainer == "transformers" and not training.cut_cross_entropy and not training.use_liger_kernel:
        yield "cut_cross_entropy", {"training.cut_cross_entropy": True}
    if not training.packing and not training.flattened:
        flash = {"training.attention": "flash_attention_2", "training.padding": False}
        changes = {name: value for name, value in flash.items() if getattr(training, name.split(".")[1]) != value}
        yield "packed_rows", {"training.packing": True, **changes}
        if training.trainer == "transformers":
            yield "flattened_batches", {"training.padding_free": True, **changes}
