"""What distinguishes the layers of one stack from each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

#: How a layer attends, as `layer_types` of a config.json spells it.
AttentionType = Literal["full_attention", "sliding_attention"]
ATTENTION_TYPES: tuple[AttentionType, ...] = get_args(AttentionType)

#: How a layer mixes tokens without attention: a short convolution, or gated DeltaNet or Mamba 2.
RecurrentType = Literal["conv", "linear_attention"]
RECURRENT_TYPES: tuple[RecurrentType, ...] = get_args(RecurrentType)

#: How a layer mixes tokens: by attention, by recurrence, by both at once, or not, if it is an MLP alone.
MixerType = AttentionType | RecurrentType | Literal["hybrid", "mlp"]

#: What a layer's feed-forward sublayer is, as `mlp_layer_types` of a config.json spells it.
MlpType = Literal["dense", "sparse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """The kind of a layer. Layers of one stack and one kind have the same modules."""

    attention: MixerType = "full_attention"

    mlp: MlpType = "dense"

    #: Whether later layers attend to its keys and values, or it to those of an earlier layer of its type.
    shares: Literal["store", "reuse"] | None = None

    #: Whether rotary embeddings are applied, in a model that has them.
    rotated: bool = True

    #: Whether the causal mask that it owns covers a local window, as in GPT-Neo's local layers.
    local_mask: bool = False

    #: Whether it is the first or the last of its stack, if that layer's modules differ.
    end: Literal["first", "last"] | None = None
