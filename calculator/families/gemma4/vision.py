"""The weights of Gemma 4's vision tower.

Source: transformers/models/gemma4/modeling_gemma4.py, Gemma4VisionModel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Check
from calculator.architecture.model import stack
from calculator.architecture.module import Buffer, bare, linear, norm
from calculator.common.errors import shown
from calculator.families.blocks import uniform_layers
from calculator.families.fields import MOST_LAYERS, activation, dropouts, flag, number, size
from calculator.families.gemma4.clipped import clippable

if TYPE_CHECKING:
    from calculator.architecture.config import Config, Entry
    from calculator.families.blocks import Owned
    from calculator.families.family import Parts


def _ungroupable(config: Config) -> str | None:
    queries, groups = config["num_attention_heads"], config["num_key_value_heads"]
    return f"{shown(queries)} attention heads do not divide into {shown(groups)} groups" if queries % groups else None


def _head_problem(config: Config) -> str | None:
    head = config["head_dim"]
    return f"{shown(head)} does not divide into pairs for rows and columns: use a multiple of 4" if head % 4 else None


#: Source: transformers/models/gemma4/configuration_gemma4.py, Gemma4VisionConfig.
VISION: tuple[Entry, ...] = (
    size("hidden_size", 768),
    size("intermediate_size", 3072),
    size("num_hidden_layers", 16, maximum=MOST_LAYERS),
    size("num_attention_heads", 12),
    size("num_key_value_heads", 12),
    Check(name="num_key_value_heads", problem=_ungroupable),
    size("head_dim", 64),
    Check(name="head_dim", problem=_head_problem),
    activation("gelu_pytorch_tanh", spelled="hidden_activation"),
    number("rms_norm_eps", 1e-6),
    *dropouts("attention_dropout", nullable=True),
    size("pooling_kernel_size", 3),
    size("patch_size", 16),
    size("position_embedding_size", 10_240),
    flag("use_clipped_linears", False),
    flag("standardize", False),
)

#: The norms of a layer.
_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


def _layer(config: Config) -> Owned:
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    return (
        *clippable(config, "self_attn.q_proj", hidden, queries),
        *clippable(config, "self_attn.k_proj", hidden, keys),
        *clippable(config, "self_attn.v_proj", hidden, keys),
        *clippable(config, "self_attn.o_proj", queries, hidden),
        norm("self_attn.q_norm", head),
        norm("self_attn.k_norm", head),
        *clippable(config, "mlp.gate_proj", hidden, inner),
        *clippable(config, "mlp.up_proj", hidden, inner),
        *clippable(config, "mlp.down_proj", inner, hidden),
        *(norm(name, hidden) for name in _NORMS),
    )


def vision_tower(config: Config, path: str) -> Parts:
    """Return the modules of Gemma4VisionModel."""
    hidden, quarter = config["hidden_size"], int(config["head_dim"]) // 4
    standard = ("std_bias", "std_scale") if config["standardize"] else ()
    return (
        bare(
            f"{path}.patch_embedder",
            "other",
            position_embedding_table=(2, config["position_embedding_size"], hidden),
        ),
        linear(f"{path}.patch_embedder.input_proj", 3 * int(config["patch_size"]) ** 2, hidden),
        *(
            Buffer(name=f"{path}.encoder.rotary_emb.{name}", shape=(quarter,), dtype="float32")
            for name in ("inv_freq", "original_inv_freq")
        ),
        stack(f"{path}.encoder.layers", uniform_layers(config), lambda _kind: _layer(config)),
        *(Buffer(name=f"{path}.{name}", shape=(hidden,), dtype="model", persistent=True) for name in standard),
    )
