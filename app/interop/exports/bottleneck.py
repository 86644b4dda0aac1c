"""Bottleneck adapters in a training script, which PEFT does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calculator.methods import Adapter

#: The families' names for the submodules that an adapter follows.
ATTENTION = ("self_attn", "attn", "attention", "self_attention", "conv", "linear_attn", "mamba")
MLP = ("mlp", "block_sparse_moe", "feed_forward", "ffn", "fc2", "shared_mlp")

ACTIVATIONS = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "tanh": "Tanh"}


def context(method: Adapter) -> dict[str, Any]:
    """Return the activation's class in torch.nn, and the sublayers that get an adapter."""
    return {
        "activation": ACTIVATIONS[method.non_linearity],
        "sublayers": MLP if method.placement == "pfeiffer" else ATTENTION + MLP,
    }
