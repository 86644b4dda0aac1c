"""ERNIE 4.5: Llama's layer, with one flag for all biases, and experts in some layers of its mixture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Computed
from calculator.architecture.layer_kind import LayerKind
from calculator.architecture.module import Module, Parameter
from calculator.families.blocks import (
    PRE_NORMS,
    Owned,
    attention,
    decoder,
    fused_experts,
    gated_mlp,
    norms,
    router,
    uniform_layers,
)
from calculator.families.ernie import forward
from calculator.families.family import Family, Parts
from calculator.families.fields import (
    activation,
    count,
    derived,
    experts,
    flag,
    grouped_sizes,
    number,
    padding,
    positions,
    size,
    tie,
)
from calculator.families.rope import rope

if TYPE_CHECKING:
    from calculator.architecture.config import Config

_KINDS = {sparse: LayerKind(mlp="sparse" if sparse else "dense") for sparse in (False, True)}


def _ernie4_5(config: Config) -> Parts:
    def layer(_kind: LayerKind) -> Owned:
        bias = bool(config["use_bias"])
        return (
            *attention(config, qkv_bias=bias, o_bias=bias),
            *gated_mlp(config, bias=bias),
            *norms(config, *PRE_NORMS),
        )

    return decoder(config, uniform_layers(config), layer)


def _mixture(config: Config) -> Owned:
    """Return a router with a frozen correction, the routed experts, and an MLP of the shared experts."""
    correction = Parameter(
        name="e_score_correction_bias",
        shape=(1, config["num_experts"]),
        dtype="float32",
        frozen=True,
        in_graph=False,
    )
    shared = gated_mlp(
        config, bias=bool(config["use_bias"]), name="mlp.shared_experts", width="shared_intermediate_size"
    )
    return (
        router(config, dtype="float32"),
        Module(name="mlp.gate.moe_statics", kind="other", parameters=(correction,)),
        fused_experts(config, "moe_intermediate_size"),
        *(shared if config["moe_num_shared_experts"] else ()),
    )


def _ernie4_5_moe(config: Config) -> Parts:
    start, end, every = (config[f"moe_layer_{name}"] for name in ("start_index", "end_index", "interval"))

    def layer(kind: LayerKind) -> Owned:
        bias = bool(config["use_bias"])
        mlp = _mixture(config) if kind.mlp == "sparse" else gated_mlp(config, bias=bias)
        return (*attention(config, qkv_bias=bias, o_bias=bias), *mlp, *norms(config, *PRE_NORMS))

    kinds = [_KINDS[(index + 1) % every == 0 and start <= index <= end] for index in range(config["num_hidden_layers"])]
    return decoder(config, kinds, layer, head_bias=bool(config["use_bias"]))


def _last_sparse(config: Config) -> int:
    """Return the index of the last layer that may have experts. -1 means the last layer."""
    end = int(config["moe_layer_end_index"])
    return int(config["num_hidden_layers"]) - 1 if end == -1 else end


_COMMON = (
    positions(131_072),
    *rope(theta=500_000.0),
    activation(),
    number("rms_norm_eps", 1e-5),
    flag("use_bias", False, nullable=True),
    tie(default=True),
    *padding(0),
)

FAMILIES = (
    Family(
        model_type="ernie4_5",
        entries=(*grouped_sizes(kv=2, head=128, head_nullable=True), *_COMMON),
        parts=_ernie4_5,
        forward=forward.ERNIE4_5,
    ),
    Family(
        model_type="ernie4_5_moe",
        entries=(
            *grouped_sizes(kv=4, head_nullable=False),
            *_COMMON,
            *experts(6, spelled="moe_num_experts", aliases=("num_experts",), k_spelled="moe_k"),
            size("moe_intermediate_size", 1536),
            count("moe_num_shared_experts", 2),
            derived(
                "shared_intermediate_size",
                lambda config: config["moe_num_shared_experts"] * config["moe_intermediate_size"],
            ),
            count("moe_layer_start_index", 1),
            count("moe_layer_end_index", -1, minimum=-1),
            size("moe_layer_interval", 1),
            Computed(name="moe_layer_end_index", value=_last_sparse),
            number("moe_norm_min", 1e-12),
        ),
        parts=_ernie4_5_moe,
        forward=forward.ERNIE4_5_MOE,
        adds_router_loss=True,
    ),
)
