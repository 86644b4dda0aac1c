"""Rotary position embeddings: what a config says of them, and the buffers that hold their frequencies."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from calculator.config import Check, Computed, Config, ContradictionError, Entry, Field, shown
from calculator.dimension import Dim
from calculator.families.fields import number
from calculator.module import Buffer

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What each type's parameters must hold beside `rope_type`.
#: Source: transformers/modeling_rope_utils.py, ROPE_INIT_FUNCTIONS and the functions that it names.
ROPE_TYPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "proportional": (),
}


def rope(*, theta: float = 10_000.0, partial: float | None = None, always_partial: bool = False) -> tuple[Entry, ...]:
    """The fields of a rotary embedding; `rope_type`, `partial_rotary_factor` and `rotary_dim` follow from them.

    `partial` is the class's default share of each head that is rotated. Llama's own frequencies ignore that share
    unless the type is one that scales; families with `always_partial` heed it in every type.
    """
    return (
        number("rope_theta", theta, minimum=1e-6),
        number("partial_rotary_factor", partial, nullable=True, minimum=0, maximum=1),
        Field(name="rope_parameters", type="object", default=None, nullable=True, aliases=("rope_scaling",)),
        Computed(name="rope_parameters", value=_standardised),
        Computed(name="rope_type", value=lambda config: config["rope_parameters"]["rope_type"]),
        Computed(name="partial_rotary_factor", value=lambda config: _share(config, always_partial)),
        Computed(name="rotary_dim", value=_rotary_dim),
        Check(name="rope_parameters", problem=_wrong_length),
    )


def standardised(told: Mapping[str, Any], theta: Any, partial: Any) -> Mapping[str, Any]:
    """Rotary parameters with their type, base and share filled in.

    Source: transformers/modeling_rope_utils.py, RotaryEmbeddingConfigMixin.standardize_rope_params.
    """
    kind = told.get("rope_type", told.get("type", "default"))
    if not isinstance(kind, str) or kind not in ROPE_TYPES:
        raise ContradictionError(
            "rope_parameters", f"rope_type must be one of {', '.join(ROPE_TYPES)}, not {shown(kind)}"
        )
    missing = [key for key in ROPE_TYPES[kind] if key not in told]
    if missing:
        raise ContradictionError("rope_parameters", f"rope_type {kind} needs {', '.join(missing)}")
    _numeric(told)
    full = {"rope_theta": theta, **({} if partial is None else {"partial_rotary_factor": partial}), **told}
    return MappingProxyType({**full, "rope_type": kind})


def frequencies(prefix: str, rotary_dim: int, name: str = "") -> tuple[Buffer, ...]:
    """The inverse frequencies of one rotary embedding and the copy that dynamic types start from."""
    half = (Dim(int(rotary_dim) // 2, "rotary_dim / 2"),)
    names = (f"{name}inv_freq", f"{name}original_inv_freq")
    return tuple(Buffer(name=f"{prefix}.{each}", shape=half, dtype="float32") for each in names)


def rotary_buffers(config: Config) -> tuple[Buffer, ...]:
    """The buffers of a model with one rotary embedding beside its layers."""
    return frequencies("model.rotary_emb", config["rotary_dim"])


def _standardised(config: Config) -> Mapping[str, Any]:
    return standardised(config["rope_parameters"] or {}, config["rope_theta"], config["partial_rotary_factor"])


def _numeric(told: Mapping[str, Any]) -> None:
    for key in ("rope_theta", "partial_rotary_factor", "factor", "low_freq_factor", "high_freq_factor"):
        value = told.get(key, 1)
        whole = isinstance(value, int | float) and not isinstance(value, bool)
        if not (whole and 0 < value < 1e15) and not (key == "factor" and value is None):
            raise ContradictionError("rope_parameters", f"{key} must be a number above 0, not {shown(value)}")


def _share(config: Config, always_partial: bool) -> float:  # noqa: FBT001  a family's trait, bound once
    told = config["rope_parameters"]
    return told.get("partial_rotary_factor", 1.0) if always_partial or told["rope_type"] != "default" else 1.0


def _rotary_dim(config: Config) -> int:
    head, share = config["head_dim"], config["partial_rotary_factor"]
    rotated = int(head * share)
    if not 0 < rotated <= head or rotated % 2:
        of = f" (partial_rotary_factor {share} of it)" if share != 1 else ""
        raise ContradictionError(
            "head_dim", f"{shown(head)} gives rotary embeddings {rotated:,} dimensions{of}; make it even"
        )
    return head if share == 1 else Dim(rotated, "rotary_dim")


def _wrong_length(config: Config) -> str | None:
    if config["rope_type"] != "longrope":
        return None
    pairs = config["rotary_dim"] // 2
    for key in ROPE_TYPES["longrope"]:
        factors = config["rope_parameters"][key]
        if not isinstance(factors, list | tuple) or len(factors) != pairs:
            return f"{key} must list {pairs:,} numbers, one for each pair of rotated dimensions"
    return None
