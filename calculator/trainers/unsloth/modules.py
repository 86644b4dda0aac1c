"""The modules of a layer as Unsloth patches them: attention and the MLP.

Source: unsloth/models/llama.py, LlamaAttention_fast_forward, LlamaDecoderLayer_fast_forward and patch_peft_model;
unsloth/models/qwen3.py and gemma2.py; unsloth/utils/attention_dispatch.py, run_attention;
unsloth/kernels/rope_embedding.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.autograd import NodeWithOutputs
from calculator.engine.tape import Tensor
from calculator.layers import mlp
from calculator.layers.attention import repeat_kv
from calculator.layers.kernels import flash
from calculator.layers.liger.norms import rms_norm
from calculator.layers.self_attention import split_heads
from calculator.trainers.unsloth.functions import lora_mlp, lora_qkv, lora_w
from calculator.trainers.unsloth.products import is_fused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.engine.autograd import Node
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules

#: The projections of attention, and those of the MLP, that run as one function if all of them have an update.
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
OUTPUT = "self_attn.o_proj"


def are_fused(context: Context, modules: LayerModules, names: Iterable[str]) -> bool:
    """Return whether Unsloth replaces these modules.

    It does if there is no dropout, and each of them has an update and no bias.
    """
    return not getattr(context.method, "lora_dropout", 0.0) and all(is_fused(modules[name]) for name in names)


def gated(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    """Run the MLP."""
    if not are_fused(context, modules, MLP):
        return mlp.gated(context, modules, x)
    context.set_scope(f"{modules.prefix}mlp: ")
    return lora_mlp(x, *(modules[name] for name in MLP))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Attention with FlashAttention or xformers.

    `head_norms`: whether each head of queries and keys has a norm.
    """

    head_norms: bool = False

    def __call__(self, context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
        """Run attention: (batch, sequence, hidden_size) to the same."""
        query, key, value = self._project(context, modules, hidden_states)
        context.set_scope(f"{modules.prefix}self_attn: ")
        query, key = _rotated(context, query, key)
        out = _attended(context, query, key, value)
        batch, heads, length, head_dim = out.shape
        out = ops.view(out, (batch, length, heads * head_dim))
        return lora_w(out, modules[OUTPUT]) if are_fused(context, modules, [OUTPUT]) else modules[OUTPUT](out)

    def _project(self, context: Context, modules: LayerModules, x: Tensor) -> list[Tensor]:
        bound = [modules[name] for name in QKV]
        whole = lora_qkv(x, bound) if are_fused(context, modules, QKV) else [module(x) for module in bound]
        counts = [context.config[f"num_{name}_heads"] for name in ("attention", "key_value", "key_value")]
        heads = [split_heads(context, tensor, count) for tensor, count in zip(whole, counts, strict=True)]
        del whole
        if self.head_norms:
            heads[0] = rms_norm(modules["self_attn.q_norm"], heads[0])
            heads[1] = rms_norm(modules["self_attn.k_norm"], heads[1])
        return heads


def _rotated(context: Context, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys in place, or copies of them if the row has positions of its own, which are then saved."""
    positions = context.position_tables
    node = NodeWithOutputs(query.tape, _rotated_back, (query.edge, key.edge), bool(positions), outputs=2)
    if positions:
        query, key = (tensor.tape.new(tensor.shape, tensor.dtype, "copy to rotate") for tensor in (query, key))
        node.save(positions[0])
    return (
        Tensor(query.tape, query.storage, query.shape, query.dtype, node, 0),
        Tensor(key.tape, key.storage, key.shape, key.dtype, node, 1),
    )


def _rotated_back(node: Node, grads: list[Tensor | None]) -> list[Tensor | None]:
    if not node.context:
        return grads
    return [grad and grad.tape.new(grad.shape, grad.dtype, "copy to rotate: gradient") for grad in grads]


def _attended(context: Context, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Run FlashAttention, or xformers with keys and values that are repeated for every head."""
    if context.training.is_highest and context.training.attention != "flash_attention_2":
        key, value = repeat_kv(query, key, "key, repeated"), repeat_kv(query, value, "value, repeated")
    return flash(query, key, value)
