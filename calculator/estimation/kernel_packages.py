"""Packages whose kernels replace a model's PyTorch code: what is modeled of `training.kernels`, and what answers say.

transformers calls a package's function if the package is installed (integrations/hub_kernels.py,
use_kernel_func_from_hub_with_fallback).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.families import mamba
from calculator.families.lfm2.weights import CONVOLUTIONS
from calculator.families.qwen3_5.weights import WITHOUT_KERNELS
from calculator.inputs.stack import DEFAULT_STACK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.config import Config
    from calculator.architecture.model import Model
    from calculator.estimation.request import Request

#: For each model type, the packages that its layers call. The first one is required.
_PACKAGES: dict[str, tuple[str, ...]] = {
    "lfm2": ("causal_conv1d",),
    "lfm2_moe": ("causal_conv1d",),
    "bamba": ("causal_conv1d", "mamba_ssm"),
    "falcon_h1": ("causal_conv1d", "mamba_ssm"),
    "granitemoehybrid": ("causal_conv1d", "mamba_ssm"),
    "mamba2": ("causal_conv1d", "mamba_ssm"),
    "nemotron_h": ("causal_conv1d", "mamba_ssm"),
    "qwen3_5_moe_text": ("fla", "causal_conv1d"),
    "qwen3_5_text": ("fla", "causal_conv1d"),
    "qwen3_next": ("fla", "causal_conv1d"),
}

#: The sizes that the package's kernels accept. Source: causal_conv1d 1.6.1, csrc/causal_conv1d.cpp and
#: causal_conv1d_interface.py; fla 0.5.2, ops/common/chunk_delta_h.py.
_WIDTHS, _MULTIPLE, _ACTIVATIONS, _LARGEST_KEY = range(2, 5), 8, ("silu", "swish"), 256

_SOURCES = {
    "causal_conv1d": "causal-conv1d 1.6.1, causal_conv1d/causal_conv1d_interface.py, CausalConv1dFn",
    "fla": "fla 0.5.2, fla/ops/gated_delta_rule/chunk.py, ChunkGatedDeltaRuleFunction",
    "mamba_ssm": "mamba-ssm 2.3.2.post1, mamba_ssm/ops/triton/ssd_combined.py, MambaSplitConv1dScanCombinedFn and"
    " MambaChunkScanCombinedFn",
}

#: The trainers that only run the model as it trains. With a cache, mamba_ssm would replace more of it.
_TRAINS_ALONE = (None, "transformers", "trl-sft")

#: The sentences of an answer on these packages.
FROM_SOURCE = (
    "With {packages}: their part of the figures is only from their source ({sources}). Steps with their own Python"
    " functions, whose kernels were not launched, allocate the same; what kernels allocate themselves is not counted,"
    " and nothing was measured on a GPU."
)

_MULTIPROCESSORS = " mamba_ssm splits sums over 108 multiprocessors, as many as an A100 has; more make them larger."


def problems(request: Request, model: Model, given: tuple[str, ...]) -> Iterator[Problem]:
    """Yield packages that the model does not call, or whose kernels refuse its sizes.

    Also yield the settings that are not modeled with any package.
    """
    name = model.model_type
    packages = _PACKAGES.get(name, ())
    unmodeled = next((package for package in given if package not in packages), None)
    if unmodeled is not None or packages[0] not in given:
        yield Problem(loc="training.kernels", msg=_way_out(name, packages, unmodeled), input=list(given))
        return
    if request.device.sharding != "none":
        message = "kernel packages are modeled on one GPU without sharding: use none, or leave kernels out"
        yield Problem(loc="device.sharding", msg=message, input=request.device.sharding)
    if request.stack.transformers != DEFAULT_STACK.transformers:
        message = f"kernel packages are modeled with transformers {DEFAULT_STACK.transformers}: leave kernels out"
        yield Problem(loc="stack.transformers", msg=message, input=request.stack.transformers)
    if "mamba_ssm" in given:
        yield from _scan_problems(request)
    reasons = [*(_rule_problems(model.config) if "fla" in given else ())]
    reasons += [*(_convolution_problems(model) if "causal_conv1d" in given else ())]
    for reason in reasons:
        yield Problem(loc="training.kernels", msg=f"{reason}: leave it out", input=list(given))


def notes(request: Request, model: Model) -> tuple[str, ...]:
    """Return the model's notes, with those on the packages in place of those on running without them."""
    given = request.training.kernels
    if given is None:
        return model.notes
    other_notes = tuple(
        note for note in model.notes if note not in (WITHOUT_KERNELS, CONVOLUTIONS, mamba.WITHOUT_KERNELS)
    )
    source_note = FROM_SOURCE.format(packages=" and ".join(given), sources="; ".join(map(_SOURCES.__getitem__, given)))
    return (*other_notes, source_note + _MULTIPROCESSORS if "mamba_ssm" in given else source_note)


def _way_out(name: str, packages: tuple[str, ...], unmodeled: str | None) -> str:
    if not packages:
        return f"kernel packages are not modeled for {name}: leave it out"
    choices = " or ".join(str([*packages[:count]]) for count in range(1, len(packages) + 1))
    reason = f"{unmodeled} is not modeled" if unmodeled else f"{packages[1]} is not modeled without {packages[0]}"
    return f"{reason} for {name}: use {choices}, or leave it out"


def _scan_problems(request: Request) -> Iterator[Problem]:
    training = request.training
    if training.autocast is not None:
        message = "what mamba_ssm casts under autocast is not modeled: leave autocast or the package out"
        yield Problem(loc="training.autocast", msg=message, input=training.autocast)
    if training.trainer not in _TRAINS_ALONE:
        message = "mamba_ssm is modeled with the trainers transformers and trl-sft: use one, or leave the package out"
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)


def _rule_problems(config: Config) -> Iterator[str]:
    width = config["linear_key_head_dim"]
    if width > _LARGEST_KEY:
        yield f"fla takes keys of at most {_LARGEST_KEY} numbers a head, not {width:,}"


def _convolution_problems(model: Model) -> Iterator[str]:
    convolutions = {
        module.parameters[0].shape
        for layer in set(model.decoder.layers)
        for module in layer.modules
        if module.name in ("conv.conv", "linear_attn.conv1d", "mamba.conv1d", "mixer.conv1d")
    }
    for channels, _, width in convolutions:
        if width not in _WIDTHS or channels % _MULTIPLE:
            sizes = f"{width} positions and {channels:,} channels"
            yield f"causal_conv1d takes filters of 2 to 4 positions and a multiple of 8 channels, not {sizes}"
    activation = model.config.get("mamba_hidden_act", model.config["hidden_act"])
    if model.model_type not in ("lfm2", "lfm2_moe") and activation not in _ACTIVATIONS:
        yield f"causal_conv1d applies silu, not {activation}"
