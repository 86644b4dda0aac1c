"""Mamba 2's mixer: its fields in a config, and its modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.architecture.config import Check, Computed, Config, ContradictionError, Entry, Field
from calculator.architecture.dimension import Dim
from calculator.architecture.module import bare, conv1d_of_channels, linear, norm
from calculator.common.errors import shown
from calculator.families.fields import flag, size

if TYPE_CHECKING:
    from calculator.families.blocks import Owned

#: A note on other allocations of a GPU, and on the effect of an installed package.
WITHOUT_KERNELS = (
    "Mamba 2 runs as transformers' own PyTorch code. With the packages mamba-ssm and causal-conv1d it needs less; an"
    " estimate of a training step counts them with training.kernels. cuBLAS's and cuDNN's workspaces for it are not"
    " counted."
)


def mamba_fields(inner: tuple[Entry, ...] = ()) -> tuple[Entry, ...]:
    """Return the sizes of a mixer, with Granite's names and defaults.

    `inner` is the field of its width, `mamba_inner`.
    """
    return (
        size("mamba_n_heads", 128),
        size("mamba_n_groups", 1),
        size("mamba_d_state", 256),
        size("mamba_d_conv", 4),
        size("mamba_expand", 2),
        size("mamba_chunk_size", 256),
        *(inner or (Computed(name="mamba_inner", value=expanded),)),
        Field(name="mamba_d_head", type="pattern", default="auto", nullable=True),
        Computed(name="mamba_d_head", value=_head),
        Check(name="mamba_n_heads", problem=_wrong_heads),
        WHOLE_GROUPS,
        flag("mamba_conv_bias", True),
        flag("mamba_proj_bias", False),
    )


def expanded(config: Config) -> int:
    """Return the width of a mixer, which is a multiple of the hidden size."""
    return Dim(int(config["mamba_expand"]) * int(config["hidden_size"]), "mamba_expand · hidden_size")


def _head(config: Config) -> int:
    given: Any = config["mamba_d_head"]
    if given in ("auto", None):
        return Dim(max(1, int(config["mamba_inner"]) // int(config["mamba_n_heads"])), "mamba_d_head")
    if not isinstance(given, int) or given < 1:
        raise ContradictionError("mamba_d_head", f"must be a whole number above 0, or auto, not {shown(given)}")
    return Dim(given, "mamba_d_head")


def _wrong_heads(config: Config) -> str | None:
    heads, head, inner = config["mamba_n_heads"], config["mamba_d_head"], config["mamba_inner"]
    if heads * head == inner:
        return None
    return f"{shown(heads)} heads of {shown(head)} are not the mixer's width, {shown(inner)}"


def _wrong_groups(config: Config) -> str | None:
    heads, groups = config["mamba_n_heads"], config["mamba_n_groups"]
    return f"{shown(heads)} heads do not divide into {shown(groups)} groups" if heads % groups else None


#: The check that the number of groups of B and C divides the number of heads.
WHOLE_GROUPS = Check(name="mamba_n_groups", problem=_wrong_groups)


def mixer(config: Config, name: str = "mamba", *, out_bias: bool | None = None, normed: bool = True) -> Owned:
    """Return the modules of a mixer.

    `out_bias` sets the bias of the output projection; by default it is as the input's.
    """
    hidden, heads, inner = config["hidden_size"], config["mamba_n_heads"], config["mamba_inner"]
    channels, bias = inner + 2 * config["mamba_n_groups"] * config["mamba_d_state"], config["mamba_proj_bias"]
    return (
        bare(name, "other", dt_bias=(heads,), A_log=(heads,), D=(heads,)),
        conv1d_of_channels(f"{name}.conv1d", channels, config["mamba_d_conv"], bias=config["mamba_conv_bias"]),
        linear(f"{name}.in_proj", hidden, inner + channels + heads, bias=bias),
        *((norm(f"{name}.norm", inner),) if normed else ()),
        linear(f"{name}.out_proj", inner, hidden, bias=bias if out_bias is None else out_bias),
    )
