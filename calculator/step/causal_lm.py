"""A causal language model's training step: embeddings, layers, head, loss, and back.

Two layers are interpreted, the first and one that stands for all the others: see `recording`.
"""

from __future__ import annotations

from calculator.model import Layer, Model
from calculator.module import Module
from calculator.step import llama, norms, rotary
from calculator.step import operations as ops
from calculator.step.autograd import Node, backward
from calculator.step.checkpoint import checkpoint
from calculator.step.context import Context, stack
from calculator.step.loss import causal_lm_loss
from calculator.step.tape import Tensor


def micro_batch(context: Context) -> None:
    """One forward and backward pass, with the marks that the folds need."""
    tape = context.tape
    ids = tape.new((context.batch, context.length), "int64", "input_ids")
    tape.mark("forward")
    loss = _forward(context, ids)
    tape.mark("backward")
    backward(tape, loss)
    context.position = ()
    tape.mark("end")
    context.kept = [ids, loss]


def _forward(context: Context, ids: Tensor) -> Tensor:
    context.cache = [] if context.config["use_cache"] and not context.training.gradient_checkpointing else None
    hidden_states = _decoder(context, ids)
    context.position = ()
    head = context.bind(part(context.model, context.model.head))
    logits = head(hidden_states)
    context.tape.component = "logits_and_loss"
    loss = causal_lm_loss(context, logits, ids)
    context.tape.component = "activations"
    context.cache = None
    return loss


def part(model: Model, name: str | None) -> Module:
    """An outer module by its name."""
    return next(p for p in model.parts if isinstance(p, Module) and p.name == name)


def _decoder(context: Context, ids: Tensor) -> Tensor:
    model, tape = context.model, context.tape
    embed = context.bind(part(model, "model.embed_tokens"))
    context.scoped("model.embed_tokens: ")
    inputs_embeds = ops.embedding(ids, embed.own["weight"], context.config["hidden_size"], "output")
    inputs_embeds = context.method.embedded(context, inputs_embeds)
    if context.training.gradient_checkpointing and not inputs_embeds.node:
        inputs_embeds = context.input_requiring_grad(inputs_embeds)
    hidden_states = inputs_embeds
    context.scoped("model.")
    position_ids = tape.new((1, context.length), "int64", "position_ids")
    tables = rotary.cos_and_sin(tape, 1, context.length, context.config["head_dim"], context.dtype)
    context.position = (*tables, position_ids)
    del tables, position_ids
    layers = stack(model)
    for place, number in enumerate(context.repetition.numbers):
        hidden_states = marked(hidden_states, f"layer {place}")
        hidden_states = _layer(context, layers.name, layers.layers[number], hidden_states)
    hidden_states = marked(hidden_states, f"layer {len(context.repetition.numbers)}")
    return norms.rms_norm(context.bind(part(model, "model.norm")), hidden_states)


def marked(x: Tensor, label: str) -> Tensor:
    """A point between layers, marked when the forward pass and when the gradient comes by."""
    x.tape.mark(f"{label} forward")
    node = Node(x.tape, _mark_back, (x,), label) if x.node else None
    return Tensor(x.tape, x.storage, x.shape, x.dtype, node)


def _mark_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    grad.tape.mark(f"{node.context} backward")
    return (grad,)


def _layer(context: Context, prefix: str, layer: Layer, hidden_states: Tensor) -> Tensor:
    modules = context.layer(layer, f"{prefix}.*.")
    position = context.position

    def run(x: Tensor) -> Tensor:
        context.position = position
        return llama.layer(context, modules, x)

    if context.training.gradient_checkpointing:
        return checkpoint(run, hidden_states)
    return run(hidden_states)
