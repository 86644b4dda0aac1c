"""The modules of a layer as Unsloth patches them: attention and the MLP.

Source: unsloth/models/llama.py, LlamaAttention_fast_forward, LlamaDecoderLayer_fast_forward and patch_peft_model;
unsloth/models/qwen3.py and gemma2.py; unsloth/utils/attention_dispatch.py, run_attention;
unsloth/kernels/rope_embedding.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.layers import mlp
from calculator.layers.attention import repeat_kv
from calculator.layers.kernels import Samples, flash
from calculator.layers.liger.norms import rms_norm
from calculator.layers.self_attention import split_heads
from calculator.trainers.unsloth.functions import lora_mlp, lora_qkv, lora_w
from calculator.trainers.unsloth.products import is_fused
from calculator.trainers.unsloth.releases import PREFERS_SDPA, torch_is
from calculator.trainers.unsloth.rotation import normed_and_rotated, norms_fuse, rotated, rotated_in_place
from calculator.trainers.unsloth.segments import segments

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules

#: The projections of attention, and those of the MLP, that run as one function if all of them have an update.
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
OUTPUT = "self_attn.o_proj"


def are_fused(context: Context, modules: LayerModules, names: Iterable[str], *, rewritten: bool) -> bool:
    """Return whether Unsloth replaces these modules.

    It does if each of them has an update and no bias, and before 2026.10 if there is no dropout.
    """
    return (rewritten or not drops(context)) and all(is_fused(modules[name]) for name in names)


def drops(context: Context) -> bool:
    """Return whether the inputs of updates are dropped out."""
    return bool(getattr(context.method, "lora_dropout", 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated:
    """The MLP. `rewritten`: whether the release has the kernels of 2026.10."""

    rewritten: bool

    def __call__(self, context: Context, modules: LayerModules, x: Tensor) -> Tensor:
        """Run the MLP."""
        if not are_fused(context, modules, MLP, rewritten=self.rewritten):
            return mlp.gated(context, modules, x)
        context.set_scope(f"{modules.prefix}mlp: ")
        return lora_mlp(x, *(modules[name] for name in MLP), keeps=self.rewritten, drops=drops(context))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Attention with FlashAttention, xformers or PyTorch's own.

    `head_norms`: whether each head of queries and keys has a norm. `rewritten`: whether the release has the kernels of
    2026.10.
    """

    head_norms: bool = False
    rewritten: bool = False

    def __call__(self, context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
        """Run attention: (batch, sequence, hidden_size) to the same."""
        query, key, value = self._project(context, modules, hidden_states)
        query, key = self._rotated(context, modules, query, key)
        out = (
            _attended(context, query, key, value)
            if not self.rewritten
            else _attended_by_rows(context, query, key, value)
        )
        batch, heads, length, head_dim = out.shape
        out = ops.view(out, (batch, length, heads * head_dim))
        fused = are_fused(context, modules, [OUTPUT], rewritten=self.rewritten)
        return (
            lora_w(out, modules[OUTPUT], keeps=self.rewritten, drops=drops(context)) if fused else modules[OUTPUT](out)
        )

    def _project(self, context: Context, modules: LayerModules, x: Tensor) -> list[Tensor]:
        bound = [modules[name] for name in QKV]
        whole = (
            lora_qkv(x, bound, keeps=self.rewritten, drops=drops(context))
            if are_fused(context, modules, QKV, rewritten=self.rewritten)
            else [module(x) for module in bound]
        )
        counts = [context.config[f"num_{name}_heads"] for name in ("attention", "key_value", "key_value")]
        heads = [split_heads(context, tensor, count) for tensor, count in zip(whole, counts, strict=True)]
        del whole
        return heads

    def _rotated(self, context: Context, modules: LayerModules, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        scope, positions = f"{modules.prefix}self_attn: ", context.position_tables
        if self.head_norms:
            if self.rewritten and norms_fuse(context.config["head_dim"]):
                context.set_scope(scope)
                return normed_and_rotated(query, key, positions[0])
            query = rms_norm(modules["self_attn.q_norm"], query)
            key = rms_norm(modules["self_attn.k_norm"], key)
        context.set_scope(scope)
        if self.rewritten:
            return rotated(query, key, positions)
        return rotated_in_place(query, key, positions)


def _attended(context: Context, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Run FlashAttention, or xformers with keys and values that are repeated for every head."""
    if context.training.is_highest and context.training.attention != "flash_attention_2":
        return _by_xformers(query, key, value)
    return flash(query, key, value)


def _by_xformers(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return flash(query, repeat_kv(query, key, "key, repeated"), repeat_kv(query, value, "value, repeated"))


def _attended_by_rows(context: Context, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Run attention of 2026.10 within the samples of a row without padding.

    FlashAttention gets their bounds. PyTorch's own attention runs on runs of samples of one length, whose outputs are
    joined in a copy. It does not run on GPUs below compute capability 8.0, which have no bfloat16.

    Source: unsloth/utils/attention_dispatch.py, _sdpa_packed_segments and select_attention_backend.
    """
    if not context.position_tables:
        return _attended(context, query, key, value)
    training = context.training
    if not training.is_highest or training.attention == "flash_attention_2":
        return flash(query, key, value, Samples(1, context.position_tables[0]))
    groups = query.shape[1] // key.shape[1]
    has_sdpa = torch_is(context.prepared.stack, PREFERS_SDPA)
    if has_sdpa and (training.dtype == "bfloat16" or groups == 1):
        return segments(query, key, value)
    return _by_xformers(query, key, value)
