"""Answer.AI's notebook: what is allocated after each phase of a step whose loss is the mean of its logits.

Without a Trainer and an optimizer, cells run `output = model(x)` and `output.logits.mean().backward()`. Then the output
is alive: its logits in float32 and, without checkpointing, the keys and values of every layer, to which its cache
refers. Checkpointing is switched on without `enable_input_require_grads`.
Source: AnswerDotAI/fsdp_qlora, nbs/00-profile_lora_qlora.ipynb (profile_model).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE, rounded
from calculator.engine.autograd import Node
from calculator.estimation.estimate import resident_state
from calculator.layers.loss import float32_logits, logits_of
from calculator.trainers.reference.loop import Reference
from calculator.training_step.unrolled import events
from validation.published.outputs import keep_rows, referred

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.architecture.model import Model
    from calculator.engine.tape import Tensor
    from calculator.estimation.request import Request
    from calculator.layers.context import Context
    from calculator.layers.loss import LossHead
    from calculator.training_step.unrolled import Events
    from validation.published.measurement import Point

#: The name of the logits that the output refers to.
LOGITS = "loss: logits in float32"


class MeanOfLogits(Reference):
    """A loop whose loss is the mean of the logits. Frozen embeddings get no gradient under checkpointing either."""

    __slots__ = ()
    facts = replace(Reference.facts, grads_inputs="never")

    def head(self, context: Context) -> LossHead:
        """Return the model's own head, with the mean."""
        return _Mean()


@dataclass(frozen=True, slots=True)
class _Mean:
    """The model's head, which casts its logits to float32, and their mean.

    Source: transformers 4.37.2, models/llama/modeling_llama.py, LlamaForCausalLM.forward (logits.float()).
    """

    def __call__(self, context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the loss, and the logits, which the model's output refers to."""
        logits = float32_logits(context, logits_of(context, context.forward, hidden_states))
        return _mean(logits), [logits]


def _mean(x: Tensor) -> Tensor:
    node = Node(x.tape, _mean_back, (x.edge,), x.shape) if x.edge else None
    return x.tape.new((), x.dtype, "mean", node)


def _mean_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    """Return the expanded gradient, divided by the number of elements: a tensor as large as the input.

    Source: pytorch/pytorch, tools/autograd/derivatives.yaml, mean.
    """
    return (grad.tape.new(node.context, grad.dtype, "mean: gradient"),)


def allocated(request: Request, model: Model, point: Point | None) -> int:
    """Return the bytes after a phase, or the most during the step if no point is given, without workspaces."""
    resident = resident_state(request)
    loaded = sum(tensor.bytes for tensor in resident.tensors)
    if point == "loaded":
        return loaded
    loaded += _grown_tables(request, model)
    step = _step(request, events(resident.prepared))
    if point == "forward":
        return loaded + sum(_changes(step, step.forward))
    changes = _changes(step, [*step.forward, *step.backward])
    return loaded + (sum(changes) if point == "backward" else max(accumulate(changes)))


def after_pass(request: Request, model: Model) -> int:
    """Return the bytes after a no-grad pass: the weights, the logits in float32, and the keys and values."""
    training, config = request.training, model.config
    tokens, layers = training.micro_batch_size * training.sequence_length, len(model.decoder.layers)
    key = tokens * int(config["num_key_value_heads"]) * int(config["head_dim"]) * ITEMSIZE[training.dtype]
    logits = tokens * int(config["vocab_size"]) * ITEMSIZE["float32"]
    loaded = sum(tensor.bytes for tensor in resident_state(request).tensors)
    return loaded + _grown_tables(request, model) + rounded(logits) + 2 * layers * rounded(key)


def _step(request: Request, step: Events) -> Events:
    """Return the events, with the output alive at the end."""
    names = [row[0] for row in step.rows]
    kept = {row for row, name in enumerate(names) if name == LOGITS}
    return keep_rows(step, kept if request.training.gradient_checkpointing else kept | referred(names))


def _changes(step: Events, passed: Sequence[int]) -> Iterator[int]:
    """Yield the bytes that each event allocates or, with a minus, frees."""
    return (step.rows[event][4] if event >= 0 else -step.rows[~event][4] for event in passed)


def _grown_tables(request: Request, model: Model) -> int:
    """Return the bytes that the rotary tables of all layers grow by if a sequence is longer than they are.

    Source: transformers 4.37.2, models/llama/modeling_llama.py, LlamaRotaryEmbedding.forward.
    """
    config, training = model.config, request.training
    more = training.sequence_length - int(config["max_position_embeddings"])
    sizes = 2 * int(config["head_dim"]) * ITEMSIZE[training.dtype] * len(model.decoder.layers)
    return max(0, more) * sizes
