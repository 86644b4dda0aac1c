"""Bamba: layers of Mamba 2 or attention with partial rotary embeddings, each with a gated MLP."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.layers import mlp, norms
from calculator.layers.decoder_forward import DecoderForward, final
from calculator.layers.decoder_layer import SequentialLayer
from calculator.layers.mamba import Mamba2
from calculator.layers.self_attention import SelfAttention, rotate_part

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.config import Config
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules

_attend, _mamba = SelfAttention(rotate=rotate_part), Mamba2()


def _mix(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    run = _mamba if modules.kind.attention == "linear_attention" else _attend
    return run(context, modules, hidden_states)


def _unsupported_fields(config: Config) -> Iterator[tuple[str, str]]:
    if config["z_loss_coefficient"] > 0:
        yield "z_loss_coefficient", "the z-loss of the logits is not modeled: set it to 0"


BAMBA = DecoderForward(
    layer=SequentialLayer(
        attention=_mix,
        mlp=partial(mlp.gated, name="feed_forward"),
        input_norms=("input_layernorm", "pre_ff_layernorm"),
    ),
    final_norm=final(norms.rms_norm, "model.final_layernorm"),
    masks=("full_attention", "linear_attention"),
    returns_weights=True,
    partial_rotary=True,
    unsupported_fields=_unsupported_fields,
)
