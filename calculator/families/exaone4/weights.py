"""EXAONE 4: norms after sublayers, normalized queries and keys, and no rotary embeddings in layers without a window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Computed, ContradictionError, Field
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.module import norm
from calculator.common.errors import shown
from calculator.families.blocks import Owned, attention, decoder, gated_mlp, norms
from calculator.families.exaone4 import forward
from calculator.families.family import Family, Parts
from calculator.families.fields import activation, dropouts, grouped_sizes, number, padding, positions, tie
from calculator.families.rope import rope
from calculator.families.windows import layer_types, window

if TYPE_CHECKING:
    from calculator.architecture.config import Config


def _pattern(config: Config) -> int | str | None:
    pattern: int | str | None = config["sliding_window_pattern"]
    return 0 if config["sliding_window"] is None else pattern


def _slides(config: Config, index: int) -> bool:
    """Return whether a layer has a sliding window, for a file without `layer_types` (Exaone4Config.__post_init__)."""
    pattern = config["sliding_window_pattern"]
    if not isinstance(pattern, int) or not pattern:
        message = f"is required where sliding_window_pattern is {shown(pattern)} or sliding_window is null"
        raise ContradictionError("layer_types", message)
    return (index + 1) % pattern != 0


def _exaone4(config: Config) -> Parts:
    def layer(_kind: LayerKind) -> Owned:
        head = config["head_dim"]
        return (
            *attention(config),
            norm("self_attn.q_norm", head),
            norm("self_attn.k_norm", head),
            *gated_mlp(config),
            *norms(config, "post_attention_layernorm", "post_feedforward_layernorm"),
        )

    windowed = config["sliding_window"] is not None
    kinds = [
        LayerKind(attention=attends, rotated=not windowed or attends == "sliding_attention")
        for attends in config["layer_types"]
    ]
    return decoder(config, kinds, layer)


FAMILIES = (
    Family(
        model_type="exaone4",
        entries=(
            *grouped_sizes(kv=32, kv_nullable=False, head_nullable=False),
            positions(2048),
            *rope(),
            window(4096),
            Field(name="sliding_window_pattern", type="pattern", default=4, nullable=True),
            Computed(name="sliding_window_pattern", value=_pattern),
            *layer_types(_slides),
            activation(),
            number("rms_norm_eps", 1e-5),
            *dropouts("attention_dropout"),
            tie(default=False),
            *padding(),
        ),
        parts=_exaone4,
        forward=forward.EXAONE4,
    ),
)
