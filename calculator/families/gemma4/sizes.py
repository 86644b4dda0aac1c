"""The head sizes of Gemma 4 by attention type, and its rotary embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.architecture.config import Check, Computed, ContradictionError, Field
from calculator.architecture.dimension import Dim
from calculator.architecture.layer_kind import ATTENTION_TYPES
from calculator.common.errors import refusal, shown
from calculator.families.rope import must_be_usable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.architecture.config import Config, Entry

#: The rotary parameters of a file that sets none.
#: Source: configuration_gemma4.py, Gemma4TextConfig.
_ROPE: Mapping[str, Mapping[str, Any]] = {
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}

#: The types of rotary embeddings whose tables are as wide as a head.
_WHOLE = ("default", "proportional")

_PER_LAYER = {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}


def sizes_by_type(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Read `per_layer_config`, in which transformers saves the sizes of full attention.

    Raises:
        PlanError: if it sets anything else, or if the model would return its routers' logits.
    """
    if raw.get("output_router_logits"):
        message = "the model would return its routers' logits, which is not modeled: leave it out"
        raise refusal("model.config.output_router_logits", message, raw["output_router_logits"])
    sizes = raw.get("per_layer_config")
    if sizes is None:
        return raw
    entries = list(sizes.values()) if isinstance(sizes, dict) else [None]
    first = entries[0] if entries else {}
    if not isinstance(first, dict) or any(entry != first for entry in entries) or not {*first} <= {*_PER_LAYER}:
        message = "sets more than one head_dim and num_key_value_heads for all layers of full attention: leave it out"
        raise refusal("model.config.per_layer_config", message, sizes)
    kept = {key: value for key, value in raw.items() if key != "per_layer_config"}
    return {**kept, **{_PER_LAYER[key]: value for key, value in first.items()}}


def _global_heads(config: Config) -> int:
    global_heads = config["num_global_key_value_heads"]
    return Dim(
        int(global_heads if config["attention_k_eq_v"] and global_heads else config["num_key_value_heads"]),
        "key_value_heads",
    )


def _ungroupable(config: Config) -> str | None:
    queries, groups = config["num_attention_heads"], config["global_key_value_heads"]
    return f"{shown(queries)} attention heads do not divide into {shown(groups)} groups" if queries % groups else None


#: The number of key/value heads of full attention, which must divide the number of query heads.
GLOBAL_GROUPS: tuple[Entry, Entry] = (
    Computed(name="global_key_value_heads", value=_global_heads),
    Check(name="num_global_key_value_heads", problem=_ungroupable),
)


def _parameters(config: Config) -> Mapping[str, Mapping[str, Any]]:
    return config["rope_parameters"] or _ROPE


def _types(config: Config) -> dict[str, Any]:
    """Return the rotary type of each attention type."""
    sizes: dict[str, Any] = {}
    for kind in ATTENTION_TYPES:
        if kind not in config["layer_types"]:
            continue
        rope = _parameters(config).get(kind)
        if not isinstance(rope, dict) and rope is not _ROPE[kind]:
            raise ContradictionError("rope_parameters", f"needs the parameters of {kind}, an object")
        if rope.get("rope_theta") is None:
            raise ContradictionError("rope_parameters", f"{kind} needs rope_theta, a number above 0")
        sizes[kind] = rope.get("rope_type")
        must_be_usable(rope, str(sizes[kind]))
        if sizes[kind] not in _WHOLE:
            message = f"rope_type of {kind} must be {' or '.join(_WHOLE)}, not {shown(sizes[kind])}"
            raise ContradictionError("rope_parameters", message)
    return sizes


def _widths(config: Config) -> dict[str, int]:
    """Return the width of the rotary tables of each attention type, which is the size of its heads."""
    widths = {"full_attention": config["global_head_dim"], "sliding_attention": config["head_dim"]}
    for kind in config["rope_type"]:
        if widths[kind] % 2:
            name = "global_head_dim" if kind == "full_attention" else "head_dim"
            raise ContradictionError(name, f"{shown(widths[kind])} is odd; rotary embeddings need an even number")
    return widths


#: The rotary embeddings, one for each attention type.
ROTATIONS: tuple[Entry, ...] = (
    Field(name="rope_parameters", type="object", default=None, nullable=True, aliases=("rope_scaling",)),
    Computed(name="rope_type", value=_types),
    Computed(name="partial_rotary_factor", value=lambda _config: 1.0),
    Computed(name="rotary_dim_by_type", value=_widths),
)
