"""GPT-J: attention and MLP in parallel after one norm, rotary embeddings on a part of each head, a biased head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Check
from calculator.architecture.model import stack
from calculator.architecture.module import Buffer, embedding, linear, norm
from calculator.common.errors import shown
from calculator.families.blocks import Owned, norms, uniform_layers
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    GPT2_SIZES,
    ONE_HEAD_SIZE,
    activation,
    dropouts,
    number,
    padding,
    positions,
    size,
    tie,
)
from calculator.families.gptj import forward

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import LayerKind


def _unrotatable(config: Config) -> str | None:
    rotated, head = config["rotary_dim"], config["head_dim"]
    if rotated % 2:
        return f"{shown(rotated)} is odd, but dimensions are rotated in pairs"
    return f"{shown(rotated)} is more than a head's {shown(head)} dimensions" if rotated > head else None


def _gptj(config: Config) -> Parts:
    vocabulary, hidden, inner = config["vocab_size"], config["hidden_size"], config["intermediate_size"]

    def layer(_kind: LayerKind) -> Owned:
        return (
            *norms(config, "ln_1", bias=True),
            *(linear(f"attn.{name}_proj", hidden, hidden) for name in ("k", "v", "q", "out")),
            linear("mlp.fc_in", hidden, inner, bias=True),
            linear("mlp.fc_out", inner, hidden, bias=True),
        )

    table = (config["max_position_embeddings"], config["rotary_dim"])
    return (
        embedding("transformer.wte", vocabulary, hidden),
        stack("transformer.h", uniform_layers(config), layer),
        norm("transformer.ln_f", hidden, bias=True),
        Buffer(name="transformer.rotary_emb.embed_positions", shape=table, dtype="float32"),
        linear("lm_head", hidden, vocabulary, bias=True),
    )


FAMILIES = (
    Family(
        model_type="gptj",
        entries=(
            *GPT2_SIZES,
            *ONE_HEAD_SIZE,
            size("rotary_dim", 64),
            Check(name="rotary_dim", problem=_unrotatable),
            positions(2048, spelled="n_positions", aliases=("max_position_embeddings",)),
            activation("gelu_new", spelled="activation_function"),
            number("layer_norm_epsilon", 1e-5),
            *dropouts("resid_pdrop", "embd_pdrop", "attn_pdrop"),
            tie(default=False),
            *padding(),
        ),
        parts=_gptj,
        forward=forward.GPTJ,
        tied={"lm_head.weight": "transformer.wte.weight"},
    ),
)
