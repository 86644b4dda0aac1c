"""The properties in which the layers of one stack differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

#: The attention of a layer, as `layer_types` of a config.json spells it.
AttentionType = Literal["full_attention", "sliding_attention"]
ATTENTION_TYPES: tuple[AttentionType, ...] = get_args(AttentionType)

#: A token mixer without attention: a short convolution ("conv"), or gated DeltaNet or Mamba 2 ("linear_attention").
RecurrentType = Literal["conv", "linear_attention"]
RECURRENT_TYPES: tuple[RecurrentType, ...] = get_args(RecurrentType)

#: A token mixer: attention, a recurrence, both in parallel ("hybrid"), or none in a layer that is only an MLP.
MixerType = AttentionType | RecurrentType | Literal["hybrid", "mlp"]

#: The feed-forward sublayer of a layer, as `mlp_layer_types` of a config.json spells it.
MlpType = Literal["dense", "sparse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """The kind of a layer. The layers of one stack that have the same kind have the same modules."""

    attention: MixerType = "full_attention"

    mlp: MlpType = "dense"

    #: Whether later layers reuse its keys and values ("store"), or it reuses those of an earlier layer ("reuse").
    shares: Literal["store", "reuse"] | None = None

    #: Whether the layer applies rotary embeddings, in a model that has them.
    rotated: bool = True

    #: Whether the layer has its own causal mask of a local window, as in the local layers of GPT-Neo.
    local_mask: bool = False

    #: Whether the layer is the first or the last of its stack, if the modules of that layer differ.
    end: Literal["first", "last"] | None = None
