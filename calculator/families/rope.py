"""Rotary position embeddings: their fields in a config, and the buffers of their frequencies."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from calculator.architecture.config import Check, Computed, Config, ContradictionError, Entry, Field
from calculator.architecture.dimension import Dim
from calculator.architecture.layer_kind import ATTENTION_TYPES
from calculator.architecture.module import Buffer
from calculator.common.errors import shown
from calculator.families.fields import number

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The parameters that each `rope_type` requires.
#: Source: transformers/modeling_rope_utils.py, ROPE_INIT_FUNCTIONS and the functions that it names.
ROPE_TYPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}

#: The types that divide by a factor: the others compute it from the lengths if it is null, or read none.
_NEED_FACTOR = ("linear", "dynamic", "llama3")

#: The length before scaling, and the types that read it. If a file leaves it out, it is max_position_embeddings.
_ORIGINAL = "original_max_position_embeddings"
_READ_ORIGINAL = ("yarn", "llama3", "longrope")

_NUMBERS = ("rope_theta", "partial_rotary_factor", "factor", "low_freq_factor", "high_freq_factor")


def rope(
    *,
    theta: float = 10_000.0,
    theta_key: str | None = None,
    share: float | None = None,
    share_key: str | None = None,
    always: bool = False,
    types: Mapping[str, str] | None = None,
    otherwise: Mapping[str, Any] | None = None,
) -> tuple[Entry, ...]:
    """Return the fields of a rotary embedding, and the values that derive from them.

    The derived values are `rope_type`, `partial_rotary_factor` and `rotary_dim`. `share` is the default share of each
    head that is rotated. Unless `always` is set, the frequencies depend on it only in scaling types, as in Llama.
    `types` maps the types in files to types that the family's code implements. `otherwise` are the parameters of a file
    that sets none.
    """

    def standard(config: Config) -> Mapping[str, Any]:
        defaults = {"rope_theta": config["rope_theta"], "partial_rotary_factor": config["partial_rotary_factor"]}
        return standardized(config["rope_parameters"] or otherwise or {}, defaults, types)

    return (
        number("rope_theta", theta, spelled=theta_key, minimum=1e-6),
        number("partial_rotary_factor", share, spelled=share_key, nullable=True, minimum=0, maximum=1),
        Field(name="rope_parameters", type="object", default=None, nullable=True, aliases=("rope_scaling",)),
        Computed(name="rope_parameters", value=standard),
        Computed(name="rope_type", value=lambda config: config["rope_parameters"]["rope_type"]),
        Computed(name="partial_rotary_factor", value=lambda config: _share(config, always=always)),
        Computed(name="rotary_dim", value=rotary_dim),
        Check(name="rope_parameters", problem=_unusable),
    )


def rope_per_type(
    *,
    theta: float,
    theta_key: str | None = None,
    local_theta: float | None = None,
    local_theta_key: str | None = None,
    scaled: tuple[str, ...] = ("full_attention",),
    only_by_type: bool = False,
) -> tuple[Entry, ...]:
    """Return the fields of a rotary embedding for each attention type. `rope_parameters` and `rope_type` are by type.

    `rope_scaling`, the older name in files, applies to the `scaled` types. `only_by_type`: whether the config class
    raises an error for `rope_parameters` that are not by type.
    """

    def standard(config: Config) -> Mapping[str, Any]:
        nested, scaling = config["rope_parameters"] or {}, config["rope_scaling"] or {}
        bases = {"full_attention": config["rope_theta"], "sliding_attention": config["local_rope_theta"]}
        by_type = {kind: {**_inner(nested, kind), **(scaling if kind in scaled else {})} for kind in bases}
        return MappingProxyType({kind: standardized(by_type[kind], {"rope_theta": bases[kind]}) for kind in bases})

    return (
        number("rope_theta", theta, spelled=theta_key, minimum=1e-6),
        number("local_rope_theta", local_theta or theta, spelled=local_theta_key, minimum=1e-6),
        Field(name="rope_parameters", type="object", default=None, nullable=True),
        *((Check(name="rope_parameters", problem=_not_by_type),) if only_by_type else ()),
        Field(name="rope_scaling", type="object", default=None, nullable=True),
        Computed(name="rope_parameters", value=standard),
        Computed(
            name="rope_type",
            value=lambda c: {kind: c["rope_parameters"][kind]["rope_type"] for kind in ATTENTION_TYPES},
        ),
        Computed(name="partial_rotary_factor", value=lambda _config: 1.0),
        Computed(name="rotary_dim", value=rotary_dim),
    )


def _not_by_type(config: Config) -> str | None:
    other = next((key for key in config["rope_parameters"] or () if key not in ATTENTION_TYPES), None)
    return other and f"{other} must be in the parameters of each attention type: {' and '.join(ATTENTION_TYPES)}"


def _inner(nested: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    parameters = nested.get(kind) or {}
    if not isinstance(parameters, dict):
        raise ContradictionError("rope_parameters", f"{kind} must be an object or null, not {shown(parameters)}")
    return parameters


def standardized(
    parameters: Mapping[str, Any], defaults: Mapping[str, Any], types: Mapping[str, str] | None = None
) -> Mapping[str, Any]:
    """Fill in the type, base and share of rotary parameters.

    Source: transformers/modeling_rope_utils.py, RotaryEmbeddingConfigMixin.standardize_rope_params.
    """
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    accepted = types or ROPE_TYPES
    if not isinstance(kind, str) or kind not in accepted:
        raise ContradictionError(
            "rope_parameters", f"rope_type must be one of {', '.join(accepted)}, not {shown(kind)}"
        )
    kind = types[kind] if types else kind
    missing = [key for key in ROPE_TYPES[kind] if key not in parameters]
    if missing:
        raise ContradictionError("rope_parameters", f"rope_type {kind} needs {', '.join(missing)}")
    must_be_usable(parameters, kind)
    filled = {key: value for key, value in defaults.items() if value is not None}
    return MappingProxyType({**filled, **parameters, "rope_type": kind})


def must_be_usable(parameters: Mapping[str, Any], kind: str) -> None:
    """Refuse parameters of a rotary type that are no numbers above 0.

    Raises:
        ContradictionError: with the first parameter.
    """
    nested = next((key for key in ATTENTION_TYPES if key in parameters), None)
    if nested:
        raise ContradictionError("rope_parameters", f"{nested} has its own, but this family has one for all layers")
    original = (_ORIGINAL,) if kind in _READ_ORIGINAL else ()
    for key in (*_NUMBERS, *original):
        value = parameters.get(key, 1)
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        may_be_null = key == "factor" and kind not in _NEED_FACTOR
        if not (numeric and 0 < value < 1e15) and not (may_be_null and value is None):
            raise ContradictionError("rope_parameters", f"{key} must be a number above 0, not {shown(value)}")


def frequencies(path: str, rotary_dim: int, kind: str = "") -> tuple[Buffer, ...]:
    """Return the buffers of a rotary embedding: inverse frequencies, and their original copy for dynamic types."""
    half = (Dim(int(rotary_dim) // 2, "rotary_dim / 2"),)
    names = (f"{kind}inv_freq", f"{kind}original_inv_freq")
    return tuple(Buffer(name=f"{path}.{name}", shape=half, dtype="float32") for name in names)


def frequencies_per_type(config: Config, path: str) -> tuple[Buffer, ...]:
    """Return the buffers for each attention type of the layers."""
    kinds = [kind for kind in ATTENTION_TYPES if kind in config["layer_types"]]
    return tuple(frequency for kind in kinds for frequency in frequencies(path, config["rotary_dim"], f"{kind}_"))


def _share(config: Config, *, always: bool) -> float:
    parameters = config["rope_parameters"]
    share: float = (
        parameters.get("partial_rotary_factor", 1.0) if always or parameters["rope_type"] != "default" else 1.0
    )
    return share


def rotary_dim(config: Config) -> int:
    """Return the number of dimensions of each head that are rotated, which is even."""
    head, share = config["head_dim"], config["partial_rotary_factor"]
    rotated = int(int(head) * share)
    if not 0 < rotated <= head or rotated % 2:
        note = f" ({share} of it, by partial_rotary_factor)" if share != 1 else ""
        message = f"{shown(head)} leaves rotary embeddings {shown(rotated)} dimensions{note}; they need an even number"
        raise ContradictionError("head_dim", message)
    return Dim(rotated, "rotary_dim" if share != 1 else "head_dim")


def _unusable(config: Config) -> str | None:
    parameters = config["rope_parameters"]
    pairs = int(config["rotary_dim"]) // 2
    if parameters["rope_type"] == "dynamic" and pairs < 2:
        return "rope_type dynamic divides by the rotated dimensions less 2; it needs more than these 2"
    if parameters["rope_type"] != "longrope":
        return None
    for key in ROPE_TYPES["longrope"]:
        factors = parameters[key]
        if not isinstance(factors, list | tuple) or len(factors) != pairs:
            return f"{key} must list {pairs:,} numbers, one for each pair of rotated dimensions"
    return None
