"""StarCoder 2: grouped-query attention with rotary embeddings, LayerNorm, a plain MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.layer_kind import LayerKind
from calculator.families.blocks import PRE_NORMS, Owned, attention, decoder, norms, plain_mlp, uniform_layers
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    activation,
    dropouts,
    flag,
    given_head_dim,
    grouped_sizes,
    number,
    padding,
    positions,
    tie,
)
from calculator.families.rope import rope
from calculator.families.starcoder2 import forward
from calculator.families.windows import attention_type, window

if TYPE_CHECKING:
    from calculator.architecture.config import Config


def _starcoder2(config: Config) -> Parts:
    def layer(_kind: LayerKind) -> Owned:
        bias = config["use_bias"]
        return (
            *attention(config, qkv_bias=bias, o_bias=bias),
            *plain_mlp(config, "mlp.c_fc", "mlp.c_proj", bias=bias),
            *norms(config, *PRE_NORMS, bias=True),
        )

    return decoder(config, uniform_layers(config, LayerKind(attention=attention_type(config))), layer, norm_bias=True)


FAMILIES = (
    Family(
        model_type="starcoder2",
        entries=(
            *grouped_sizes(kv=2, kv_nullable=False),
            positions(4096),
            *rope(),
            *given_head_dim(),
            window(None),
            activation("gelu_pytorch_tanh"),
            number("norm_epsilon", 1e-5),
            *dropouts("attention_dropout", "residual_dropout", "embedding_dropout"),
            flag("use_bias", True),
            tie(default=True),
            *padding(),
        ),
        parts=_starcoder2,
        forward=forward.STARCODER2,
    ),
)
