"""IBM's fused LoRA functions (fms-acceleration, the plugin foak) for 4-bit layers: attention's four projections.

They are Unsloth's functions of early 2024, changed by IBM. An update is a tensor of its own before it is added. With
dropout, each module's dropped input is saved. The MLP's function needs updates of its three projections. From November
2024 on, temporary masks multiply the updates' parts of the input's gradient. They are left out, because no peak is
there: the published one did not change.

Source: fms-acceleration, plugins/fused-ops-and-kernels/src/fms_acceleration_foak, fused_ops/unsloth_lora/bnb/
fast_lora.py, LoRA_QKV and LoRA_W; fused_ops/unsloth_lora/utils.py, matmul_lora; models/utils.py, build_lora_fused_ops.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from calculator.engine import four_bit
from calculator.engine.autograd import Node, NodeWithOutputs
from calculator.engine.tape import Tensor
from calculator.layers.layer_modules import LayerModules
from calculator.layers.self_attention import split_heads
from calculator.resident.quantization import Quantization
from calculator.trainers.unsloth.products import FACTORS, cast_factors, new_gradients, times_b

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.self_attention import SelfAttention

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
OUTPUT = "self_attn.o_proj"


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedAttention:
    """Attention whose output projection is a function, as those of its input are with `project`."""

    attention: SelfAttention

    def __call__(self, context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
        """Run attention: (batch, sequence, hidden_size) to the same."""
        function: Any = partial(lora_w, bound=modules[OUTPUT], drops=_drops(context))
        return self.attention(
            context, LayerModules({**modules, OUTPUT: function}, modules.prefix, modules.kind), hidden_states
        )


def project(context: Context, modules: LayerModules, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Project hidden states to queries, keys and values."""
    whole = lora_qkv(hidden_states, [modules[name] for name in QKV], drops=_drops(context))
    counts = [context.config[f"num_{name}_heads"] for name in ("attention", "key_value", "key_value")]
    return tuple(split_heads(context, tensor, count) for tensor, count in zip(whole, counts, strict=True))


def lora_qkv(x: Tensor, bound: Sequence[BoundModule], *, drops: bool) -> list[Tensor]:
    """Return queries, keys and values."""
    node = NodeWithOutputs(x.tape, _qkv_back, _edges(x, bound), bound, outputs=len(bound))
    outs, dropped = zip(*(_product(x, module, drops=drops) for module in bound), strict=True)
    _save(node, x, dropped)
    return [Tensor(x.tape, out.storage, out.shape, out.dtype, node, index) for index, out in enumerate(outs)]


def lora_w(x: Tensor, bound: BoundModule, *, drops: bool) -> Tensor:
    """Return the output of one projection."""
    node = Node(x.tape, _w_back, _edges(x, [bound]), bound)
    out, dropped = _product(x, bound, drops=drops)
    _save(node, x, [dropped])
    return Tensor(x.tape, out.storage, out.shape, out.dtype, node)


def _drops(context: Context) -> bool:
    return bool(getattr(context.method, "lora_dropout", 0.0))


def _edges(x: Tensor, bound: Sequence[BoundModule]) -> tuple[Any, ...]:
    return x.edge, *(module.added[name].edge for module in bound for name in FACTORS)


def _save(node: Node, x: Tensor, dropped: Sequence[Tensor | None]) -> None:
    for tensor in (x, *dropped):
        if tensor is not None:
            node.save(tensor)


def _product(x: Tensor, bound: BoundModule, *, drops: bool) -> tuple[Tensor, Tensor | None]:
    """Return x · W + x · A · B under no_grad, and the input that the update saves, if it is dropped out."""
    outer, x.tape.scope = x.tape.scope, f"{bound.name}: "
    shape = (*x.shape[:-1], bound.module.out_features)
    dense = _dequantized(x, bound)
    out = x.tape.new(shape, x.dtype, "output")
    del dense
    dropped = _dropped(x) if drops else None
    casts = cast_factors(bound, x)
    after_a = times_b(bound, x)
    update = x.tape.scratch(shape, x.dtype, "update")
    del casts, after_a, update
    x.tape.scope = outer
    return out, dropped


def _dequantized(x: Tensor, bound: BoundModule) -> Tensor:
    quantization = bound.module_spec.quantization
    assert isinstance(quantization, Quantization)
    return four_bit.dequantize_4bit(x.tape, bound.module, quantization)


def _dropped(x: Tensor) -> Tensor:
    mask = x.tape.scratch(x.shape, "bool", "dropout mask")
    out = x.tape.new(x.shape, x.dtype, "input, dropped out")
    del mask
    return out


def _qkv_back(node: Node, grads: list[Tensor | None]) -> list[Any]:
    """Compute the gradients. The input's gradient overwrites the saved input."""
    (x, *_dropped), bound = node.saved, node.context
    factor_grads = [grad for module in bound for grad in new_gradients(module, x)]
    for number, module in enumerate(bound):
        dense = _dequantized(x, module)
        if number:
            x.tape.scratch(x.shape, x.dtype, "input: gradient by a weight")
        del dense
        _add_update(x, module)
    return [_overwriting(x), *factor_grads]


def _w_back(node: Node, grad: Tensor) -> list[Any]:
    (x, *_dropped), bound = node.saved, node.context
    factor_grads = new_gradients(bound, x)
    dense = _dequantized(x, bound)
    x_grad = x.tape.new(x.shape, x.dtype, "input: gradient")
    x_grad.viewed = True
    del dense
    _add_update(x, bound)
    return [x_grad, *factor_grads]


def _add_update(x: Tensor, bound: BoundModule) -> None:
    """Add an update's part of the input's gradient."""
    after_b, casts = times_b(bound, x), cast_factors(bound, x)
    part = x.tape.scratch(x.shape, x.dtype, "gradient of an update")
    del after_b, casts, part


def _overwriting(saved: Tensor) -> Tensor:
    out = Tensor(saved.tape, saved.storage, saved.shape, saved.dtype, None)
    out.viewed = True
    return out
