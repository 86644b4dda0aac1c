"""The micro-batch of torchtune's recipes for one device.

Source: recipes/lora_finetune_single_device.py and full_finetune_single_device.py, train and _loss_step.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.engine.tape import Tensor
from calculator.families import forward_of
from calculator.layers.decoder_forward import final
from calculator.resident.tensor import ResidentTensor
from calculator.resident.torchao_nf4 import torchao_nf4
from calculator.trainers.loop import Loop
from calculator.trainers.resident import scalar
from calculator.trainers.torchtune import check
from calculator.trainers.torchtune.facts import FACTS, IN_4_BITS
from calculator.trainers.torchtune.loss import chunked_output, loss_of_chunks
from calculator.trainers.torchtune.modules import layer, rms_norm
from calculator.trainers.torchtune.rotary_table import with_rotary_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.common.errors import Problem
    from calculator.common.names import TrainerName
    from calculator.inputs.stack import StackVersions
    from calculator.layers.context import Context
    from calculator.layers.decoder_forward import DecoderForward
    from calculator.layers.loss import LossHead
    from calculator.resident.module_spec import ModuleSpec
    from calculator.trainers.loop import Passes
    from calculator.trainers.subject import Subject


class Torchtune(Loop):
    """The recipes lora_finetune_single_device and full_finetune_single_device."""

    __slots__ = ()
    name: ClassVar[TrainerName | None] = "torchtune"
    facts = FACTS

    def problems(self, prepared: Subject) -> Iterator[Problem]:
        """Yield settings that torchtune refuses, or that are not modeled."""
        yield from check.problems(prepared)

    def assumptions(self, prepared: Subject) -> Iterator[str]:
        """Yield sentences on the step, and on how 4-bit weights are stored."""
        yield from self.facts.assumptions
        if prepared.method.name == "qlora":
            yield IN_4_BITS

    def model(self, model: Model, stack: StackVersions) -> Model:  # noqa: ARG002  a hook's signature
        """Return the model with torchtune's buffers: the table of the rotary embedding, and its frequencies."""
        return with_rotary_table(model) if model.model_type in check.FAMILIES else model

    def module_spec(self, prepared: Subject, path: str, spec: ModuleSpec) -> ModuleSpec:  # noqa: ARG002  a hook's signature
        """Return how a module is stored, with 4-bit weights in torchao's format.

        The builders of Qwen 2 only quantize modules that LoRA adapts.

        Source: torchtune/modules/peft/lora.py, LoRALinear; torchtune/models/qwen2/_component_builders.py,
        lora_qwen2_self_attention and qwen2_mlp.
        """
        if spec.quantization is None:
            return spec.stored_as(None, keeps_after_a=True) if spec.added else spec
        if prepared.model.model_type == "qwen2" and not spec.added:
            return spec.stored_as(None, keeps_after_a=spec.keeps_after_a)
        stored = torchao_nf4(prepared.training.dtype)
        return spec.stored_as(stored, keeps_after_a=spec.keeps_after_a or bool(spec.added))

    def forward(self, prepared: Subject) -> DecoderForward:
        """Return the forward pass of torchtune's modules."""
        return _patched(forward_of(prepared.model))

    def batch(self, context: Context) -> list[Tensor]:
        """Return the tokens. The labels are freed while the loss is computed."""
        context.labels = [context.tape.new((context.batch, context.length), "int64", "labels")]
        return [context.tape.new((context.batch, context.length), "int64", "tokens")]

    def buffers(self, prepared: Subject) -> Iterator[ResidentTensor]:
        """Yield the labels that are ignored, the accumulated losses of a step, and the norm of clipped gradients."""
        training = prepared.training
        shape = (named(training.micro_batch_size, "B"), 1)
        yield ResidentTensor(name="ignore_labels_cache", shape=shape, dtype="int64", component="activations")
        yield from _tables_of_layers(prepared)
        if training.gradient_accumulation_steps > 1:
            yield scalar("running_loss")
        if training.max_grad_norm:
            yield scalar("grad_norm")

    def head(self, context: Context) -> LossHead:  # noqa: ARG002  a hook's signature
        """Return the head that computes the logits in chunks."""
        return chunked_output

    def loss(self, context: Context, forward: Passes) -> Tensor:
        """Run the model, compute the loss of its chunks, and multiply it by the number of labels."""
        tape = context.tape
        _, logits = forward()
        tape.scope, tape.component = "loss: ", "logits_and_loss"
        shifted = tape.new((context.batch, context.length), "int64", "labels, shifted")
        context.labels = []
        loss = loss_of_chunks(context, logits, shifted)
        del logits, _, shifted
        loss = ops.scale(loss, "running_loss")
        tape.component = "activations"
        return _resident(loss) if context.training.gradient_accumulation_steps > 1 else loss

    def retained(self, batch: list[Tensor], loss: Tensor) -> list[Tensor]:
        """Return the batch, and the loss with its graph."""
        return [*batch, loss]


def _tables_of_layers(prepared: Subject) -> Iterator[ResidentTensor]:
    """Yield the tables of all layers but one.

    LoRA's builders create a table for each layer, except those of Llama 3.1 and 3.2.

    Source: torchtune/models/llama3/_component_builders.py, lora_llama3_self_attention.
    """
    model = prepared.model
    if prepared.method.name == "full" or (model.model_type == "llama" and model.config.get("rope_type") != "default"):
        return
    for buffer in model.buffers:
        count = len(model.decoder.layers) - 1
        if count:
            yield ResidentTensor(
                name=f"{buffer.name}, of further layers",
                shape=buffer.shape,
                dtype="float32",
                component="base_weights",
                count=count,
            )


def _resident(loss: Tensor) -> Tensor:
    """Return a loss that is added to an existing one."""
    out = Tensor(loss.tape, None, loss.shape, loss.dtype, None)
    out.edge = loss.edge
    return out


@cache
def _patched(forward: DecoderForward) -> DecoderForward:
    return replace(
        forward, layer=layer, final_norm=final(rms_norm), tables=_no_tables, retained="neither", own_masks=True
    )


def _no_tables(context: Context, hidden_states: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG001  a hook's signature
    """Return no tables, because they are a buffer of the model."""
    return ()
