"""The classifier that predicts each adapter's scalings (peft.tuners.xlora.classifier.XLoraClassifier)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.tape import Tensor
from calculator.methods.targeted.adapted_linear import dropped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Dim, Shape
    from calculator.common.dtype import DType
    from calculator.layers.context import Context
    from calculator.methods.xlora.method import XLoRA

#: The prefix of the names of the classifier's parameters.
PREFIX = "internal_xlora_classifier.layers"


def linear_layers(method: XLoRA, hidden_size: Dim, layers: int) -> Iterator[tuple[str, Dim, Dim]]:
    """Yield the name, the number of inputs and the number of outputs of each linear layer.

    `layers` is the number of adapted modules of the model. Between linear layers are a ReLU and, if anything is
    dropped, a dropout.
    """
    between = 3 if method.xlora_dropout_p > 0 else 2
    inputs = hidden_size
    for number in range(method.xlora_depth - 1):
        width = named(method.xlora_size, "xlora_size")
        yield f"{PREFIX}.{between * number}", inputs, width
        inputs = width
    adapters = named(len(method.adapters), "adapters")
    outputs = adapters * named(layers, "adapted modules") if method.layerwise_scalings else adapters
    yield f"{PREFIX}.{between * (method.xlora_depth - 1)}", inputs, outputs


def scalings(method: XLoRA, context: Context, hidden_states: Tensor) -> Tensor:
    """Return the scalings: (batch, sequence, adapted modules, adapters). `hidden_states` are those of the last norm."""
    layers, tape = method.adapted_modules(context.model), context.tape
    tape.scope = "internal_xlora_classifier: "
    logits = _logits(method, context, hidden_states, layers)
    shape = (*logits.shape[:2], layers, len(method.adapters))
    if method.layerwise_scalings:
        logits = ops.view(logits, shape)
    else:
        logits = ops.expand(ops.view(logits, (*logits.shape[:2], 1, logits.shape[2])), shape)
    if not method.enable_softmax:
        return logits
    scaled_logits = ops.scale(logits, "logits / temperature")
    return ops.softmax(scaled_logits)


def _logits(method: XLoRA, context: Context, hidden_states: Tensor, layers: int) -> Tensor:
    x, dtype = hidden_states, context.prepared.given.dtype
    for name, inputs, outputs in linear_layers(method, named(x.shape[-1], "hidden_size"), layers):
        weight = context.parameters.new(f"{name}.weight", (outputs, inputs), dtype, trained=True)
        bias = context.parameters.new(f"{name}.bias", (outputs,), dtype, trained=True)
        if x is not hidden_states:
            x = dropped(ops.unary(x, "ReLU", saves="result"), method.xlora_dropout_p)
        x = products.matmul(x, weight, bias, outputs, "layer")
    return x


def retained_scalings(method: XLoRA, context: Context) -> tuple[Shape, DType]:
    """Return the shape and the dtype of the storage of scalings, which the model keeps until the next ones exist."""
    layers = named(method.adapted_modules(context.model), "adapted modules")
    adapters = named(len(method.adapters), "adapters")
    rest = (layers, adapters) if method.enable_softmax or method.layerwise_scalings else (adapters,)
    autocast = context.training.autocast
    dtype = context.prepared.given.dtype if autocast is None else "float32" if method.enable_softmax else autocast
    return (context.batch, context.length, *rest), dtype


def replaced(old: Tensor | None, new: Tensor) -> Tensor:
    """Return new scalings on the storage of the old ones, which they replace.

    Both have the same size, and one of them is alive at any moment but this.
    """
    if old is None:
        return new
    if new.edge is not None:
        for saved in new.edge[0].saved:
            if saved.storage is new.storage:
                saved.storage = old.storage
    out = Tensor(new.tape, old.storage, new.shape, new.dtype, None)
    out.edge = new.edge
    return out
