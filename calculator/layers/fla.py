"""The gated delta rule of the package flash-linear-attention (fla), with the allocations of its source.

Source: fla-org/flash-linear-attention 0.5.2, fla/ops/gated_delta_rule/chunk.py, ChunkGatedDeltaRuleFunction and the
functions that it calls: chunk_fwd.py, wy_fast.py, ../common/chunk_delta_h.py, ../common/chunk_o.py,
../utils/cumsum.py, ../../modules/l2norm.py, and ../../utils/_decorators.py, input_guard. Shapes: queries and keys
(batch, sequence, key heads, key size), values (batch, sequence, value heads, value size), decay and beta (batch,
sequence, value heads).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.engine.autograd import NodeWithOutputs
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.engine.autograd import Node
    from calculator.engine.tape import Tape

#: The number of positions of a chunk.
CHUNK = 64

#: The smallest block of a key's elements that a kernel reads.
_SMALLEST_BLOCK = 16


class _Call(NamedTuple):
    """The sizes of a call, and whether it returns the last state.

    Attributes:
        wide: Keys repeated for the value heads: (batch, sequence, value heads, key size).
        states: The states of chunks: (batch, chunks, value heads, key size, value size).
        parts: The blocks of a key in which the decay's gradient is summed.
        returns_state: Whether the last state is an output.
    """

    wide: Shape
    states: Shape
    parts: int
    returns_state: bool


def chunk_gated_delta_rule(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor], *, returns_state: bool, block: int
) -> tuple[Tensor, Tensor | None]:
    """Run the rule on queries, keys, values, decay and beta.

    Return the output, in the values' shape, and the last state.

    `block`: the largest block of a key's elements that a kernel of the GPU reads.
    """
    query, key, value, decay, beta = inputs
    tape, edges = query.tape, tuple([tensor.edge for tensor in inputs])
    call = _call(key, value, returns_state=returns_state, block=block)
    node = NodeWithOutputs(tape, _back, edges, call, outputs=2) if any(edges) else None
    _contiguous_inputs = [_contiguous(query, "query"), _contiguous(key, "key")]
    value = _contiguous(value, "value")
    query, query_root = _normed(query, "query")
    key, key_root = _normed(key, "key")
    decay = tape.new(decay.shape, "float32", "decay, summed")
    system = tape.new((*decay.shape, CHUNK), key.dtype, "system, solved")
    recomputed = _recomputed(call, key, value)
    state = None
    if returns_state:
        batch, _, *sizes = call.states
        state = tape.new((batch, *sizes), "float32", "state")
    new_values = tape.scratch(value.shape, value.dtype, "new values, corrected")
    out = tape.new(value.shape, value.dtype, "output of the rule", node)
    del recomputed, new_values
    if node is not None:
        for tensor in (query, query_root, key, key_root, value, decay, beta, system):
            node.save(tensor)
    return out, None if state is None else Tensor(tape, state.storage, state.shape, state.dtype, node, 1)


def _call(key: Tensor, value: Tensor, *, returns_state: bool, block: int) -> _Call:
    (batch, length, _, width), (*_, heads, value_width) = key.shape, value.shape
    padded = max(_SMALLEST_BLOCK, 1 << (int(width) - 1).bit_length())
    return _Call(
        wide=(batch, length, heads, width),
        states=(batch, -(-length // CHUNK), heads, width, value_width),
        parts=-(-int(width) // min(padded, block)),
        returns_state=returns_state,
    )


def _contiguous(x: Tensor, name: str) -> Tensor:
    """Copy a part of the convolution's output (input_guard)."""
    return x.tape.new(x.shape, x.dtype, f"{name}, contiguous")


def _normed(x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Return vectors of length one, and the inverse of each vector's length (l2norm_fwd)."""
    normed = x.tape.new(x.shape, x.dtype, f"{name}, normed")
    return normed, x.tape.new(x.shape[:3], "float32", f"{name}: inverse norm")


def _recomputed(call: _Call, key: Tensor, value: Tensor) -> list[Tensor]:
    """Return the tensors that both passes compute: decayed keys, new values, and the states of chunks."""
    tape = key.tape
    return [
        tape.scratch(call.wide, key.dtype, "keys, decayed"),
        tape.scratch(value.shape, value.dtype, "new values"),
        tape.scratch(call.states, key.dtype, "states of chunks"),
    ]


def _back(node: Node, grads: list[Tensor | None]) -> list[Tensor | None]:
    """Compute every gradient, whether its input needs one or not (chunk_gated_delta_rule_bwd)."""
    query, _, key, _, value, decay, beta, _ = node.saved
    call: _Call = node.context
    tape: Tape = value.tape
    batch, _, *sizes = call.states
    if call.returns_state:
        _state_grad = grads[1] or tape.scratch((batch, *sizes), "float32", "gradient of the state")
    kept = _recomputed(call, key, value)
    kept.append(tape.scratch(value.shape, value.dtype, "new values, corrected"))
    new_value_grad = tape.scratch(value.shape, value.dtype, "gradient of new values in a chunk")
    kept.append(tape.scratch(call.states, query.dtype, "gradients of states"))
    new_value_grad = tape.scratch(value.shape, value.dtype, "gradient of new values")
    query_grad = tape.new(call.wide, query.dtype, "gradient of queries")
    key_grad = tape.new(call.wide, key.dtype, "gradient of keys")
    decay_grad = tape.scratch((call.parts, *decay.shape), "float32", "gradient of the decay by blocks")
    kept.append(tape.scratch(call.wide, key.dtype, "gradient of decayed keys"))
    grouped = key.shape != call.wide
    if grouped:
        query_grad = tape.new(query.shape, query.dtype, "gradient of queries by key heads")
        key_grad = tape.new(key.shape, key.dtype, "gradient of keys by key heads")
    decay_grad = tape.new(decay.shape, "float32", "gradient of the decay")
    system_key_grad = tape.scratch(call.wide, key.dtype, "gradient of keys in the system")
    value_grad = tape.new(value.shape, value.dtype, "gradient of values")
    kept.append(tape.scratch(decay.shape, "float32", "gradient of the decay in the system"))
    beta_grad = tape.new(beta.shape, beta.dtype, "gradient of beta")
    if grouped:
        system_key_grad = tape.scratch(key.shape, key.dtype, "gradient of keys in the system, by key heads")
    del new_value_grad
    decay_grad = tape.new(decay.shape, "float32", "gradient of the decay, summed back")
    del kept, system_key_grad
    query_grad = tape.new(query.shape, query.dtype, "gradient of queries before their norm")
    key_grad = tape.new(key.shape, key.dtype, "gradient of keys before their norm")
    input_grads = (query_grad, key_grad, value_grad, decay_grad, beta_grad)
    return [grad if edge else None for grad, edge in zip(input_grads, node.edges, strict=True)]
