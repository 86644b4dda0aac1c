"""IBM's fast kernels (fms-acceleration, the plugin foak) instead of transformers' own code, in a Trainer's step.

Three functions of Unsloth are patched into the model: RMSNorm, whose gradient overwrites the output's and whose weight
gets none; the rotary embedding, which rotates in place; and the cross-entropy, whose gradient overwrites its logits.
The configurations with Liger have its fused head and loss instead of the last one. The projections of 4-bit layers with
an update run in functions of their own (`fused_lora`).

Source: fms-acceleration, plugins/fused-ops-and-kernels/src/fms_acceleration_foak/kernels/unsloth/.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING
from unittest.mock import patch

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor
from calculator.families import forward_of
from calculator.layers.decoder_forward import final
from calculator.layers.decoder_layer import SequentialLayer, norm_by_name
from calculator.layers.liger.loss import FusedLinearCrossEntropy
from calculator.layers.liger.norms import rms_norm
from calculator.layers.liger.rope import rotate_in_place
from calculator.layers.loss import float32_logits
from calculator.layers.self_attention import SelfAttention
from calculator.trainers import TRAINERS
from calculator.trainers.transformers.loop import Transformers
from validation.published.fused_lora import FusedAttention, project
from validation.published.notebook import MeanOfLogits

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from calculator.layers.context import Context
    from calculator.layers.decoder_forward import DecoderForward
    from calculator.layers.loss import LossHead
    from calculator.resident.module_spec import ModuleSpec
    from calculator.trainers.subject import Subject
    from validation.published.measurement import Protocol


class FastKernels(Transformers):
    """transformers.Trainer with a model whose norms, rotary embedding and loss are patched.

    With `fused_head`, Liger's fused head and loss take the place of the cross-entropy.
    """

    __slots__ = ("_fused_head",)

    def __init__(self, *, fused_head: bool) -> None:
        self._fused_head = fused_head

    def forward(self, prepared: Subject) -> DecoderForward:
        """Return the family's forward pass with the kernels."""
        return _patched(forward_of(prepared.model), fuses_lora=prepared.method.name == "qlora")

    def head(self, context: Context) -> LossHead:
        """Return the model's own head, with the kernel for the loss."""
        num_items = Tensor(context.tape, None, (), "float32", None)
        return (FusedLinearCrossEntropy if self._fused_head else FastCrossEntropy)(num_items=num_items)

    def module_spec(self, prepared: Subject, path: str, spec: ModuleSpec) -> ModuleSpec:
        """Return no trained parameters for norms, which get no gradient: the kernel returns None for it."""
        return replace(spec, trained=()) if "norm" in path else spec


@cache
def _patched(forward: DecoderForward, *, fuses_lora: bool) -> DecoderForward:
    layer = forward.layer
    assert isinstance(layer, SequentialLayer)
    attention = layer.attention
    assert isinstance(attention, SelfAttention)
    attention = replace(attention, rotate=_rotate)
    fused = FusedAttention(attention=replace(attention, project=project))
    return replace(
        forward,
        layer=replace(layer, attention=fused if fuses_lora else attention, norm=norm_by_name(rms_norm)),
        final_norm=final(rms_norm),
    )


def _rotate(context: Context, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate in place. The kernel takes tables without positions: those of all positions are a layer's buffers.

    Source: kernels/unsloth/rope_embedding.py, fast_rope_embedding; transformers 4.39.3, models/mistral/
    modeling_mistral.py, MistralRotaryEmbedding.forward, which returns views of its buffers.
    """
    if "tables_of_all_positions" in context.older:
        tables = context.position_tables
        context.position_tables = tuple(Tensor(table.tape, None, table.shape, table.dtype, None) for table in tables)
    return rotate_in_place(context, query, key)


@dataclass(frozen=True, slots=True, kw_only=True)
class FastCrossEntropy:
    """The model's head, and the loss of a copy of its logits in float32 without each sequence's last position."""

    num_items: Tensor

    def __call__(self, context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the loss, and the logits, which the model's output refers to."""
        logits = context.bind(context.model.output)(hidden_states)
        if context.older & {"reassigned_logits", "logits_reassigned_by_mistral"}:
            logits = float32_logits(context, logits)
        return ops.mul(_loss(context, logits), self.num_items, "loss, divided"), [logits]


def _loss(context: Context, logits: Tensor) -> Tensor:
    logits = float32_logits(context, logits)
    batch, length, vocabulary = logits.shape
    shorter = named(length - 1, "(S - 1)")
    kept = ops.contiguous(ops.narrow(logits, (batch, shorter, vocabulary)), "logits, shifted")
    labels = context.tape.new((batch, shorter), "int64", "labels, shifted")
    losses = _kernel(ops.view(kept, (named(batch * shorter, "B × (S - 1)"), vocabulary)), labels)
    return ops.sum_over(losses, (), "loss, summed")


def _kernel(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of each token; saves the logits, in whose place the gradient is written, and their logsumexp."""
    tape, rows = logits.tape, logits.shape[:1]
    node = Node(tape, _kernel_back, (logits.edge,)) if logits.edge else None
    losses = tape.new(rows, "float32", "loss of each token", node)
    logsumexp = tape.new(rows, "float32", "logsumexp")
    if node is not None:
        for tensor in (logits, logsumexp, labels):
            node.save(tensor)
    return losses


def _kernel_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    logits = node.saved[0]
    out = Tensor(grad.tape, logits.storage, logits.shape, logits.dtype, None)
    out.viewed = True
    return (out,)


def patched(protocol: Protocol | None) -> AbstractContextManager[object]:
    """Run the loop of a protocol inside a block, where it has one: the trainer `transformers` with the kernels, say."""
    if protocol == "mean_of_logits":
        return patch.dict(TRAINERS, {None: MeanOfLogits()})
    if protocol not in ("fast_kernels", "fast_kernels_and_fused_head"):
        return nullcontext()
    return patch.dict(TRAINERS, {"transformers": FastKernels(fused_head=protocol != "fast_kernels")})
