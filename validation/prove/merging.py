"""Merging W₀ + (alpha/r)·BA: its error in each dtype, its loss in NF4, and methods that cannot be merged."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import torch

from validation.prove import merged_update, unmergeable
from validation.prove.claim import Check, Claim, Figure, formatted
from validation.prove.experiment import Experiment, Findings, Setting
from validation.prove.merged_layer import Layer

if TYPE_CHECKING:
    from torch import Tensor

#: The update's norm over the weight's.
SIZE = 0.05
TOKENS = 256


def run(setting: Setting) -> Findings:
    """Test merging in float32, in bfloat16 and into NF4, and methods that have no merged form."""
    width = 256 if setting.quick else 1024
    claims = [_dense(width, dtype, setting) for dtype in (torch.float32, torch.bfloat16)]
    claims += [_four_bit(width, setting)]
    kept = merged_update.run(width, setting)
    return Findings(claims=(*claims, *kept.claims, unmergeable.claim(setting)), curves=kept.curves)


def tolerance(width: int, dtype: torch.dtype) -> float:
    """Return the error of rounding a merged weight and two outputs, and of sums of `width` products in float32."""
    return (3 * torch.finfo(dtype).eps + sqrt(width) * torch.finfo(torch.float32).eps) / 2


def _dense(width: int, dtype: torch.dtype, setting: Setting) -> Claim:
    layer = Layer(width, dtype, setting.device, size=SIZE)
    x = torch.randn(TOKENS, width, dtype=dtype, device=setting.device)
    before, weight = layer.output(x), layer.weight()
    layer.merge()
    error = Figure(key="error", name="relative error of the output", value=_relative(layer.output(x), before))
    layer.unmerge()
    changed = _relative(layer.weight(), weight)
    setting.step()
    name = str(dtype).removeprefix("torch.")
    return Claim(
        id=f"merge-{name}",
        lesson="A merged weight W₀ + (alpha/r)·BA gives the output of W₀x + (alpha/r)·BAx.",
        done=f"A {width} × {width} layer in {name} with PEFT's LoRA, whose update is {SIZE:.0%} of the weight in norm,"
        f" merged by PEFT; {TOKENS} tokens.",
        figures=(error, Figure(key="unmerged", name="change of the weight after merging and unmerging", value=changed)),
        checks=(Check(figure=error, relation="at most", bounds=(tolerance(width, dtype),), tolerance=True),),
        remark=f"Unmerging does not restore the weight: it changes by {formatted(changed)} of its norm."
        if changed
        else None,
    )


def _four_bit(width: int, setting: Setting) -> Claim:
    layer = Layer(width, torch.bfloat16, setting.device, size=SIZE, four_bit=True)
    x = torch.randn(TOKENS, width, dtype=torch.bfloat16, device=setting.device)
    before, weight = layer.output(x), layer.weight()
    dense = _relative(x @ (weight + layer.update()).to(x.dtype).T, before)
    effect = _relative(x @ weight.to(x.dtype).T, before)
    codes = layer.codes()
    layer.merge()
    kept = float((layer.codes() == codes).double().mean())
    bound = tolerance(width, torch.bfloat16)
    error = Figure(
        key="error", name="relative error of the output, merged into NF4", value=_relative(layer.output(x), before)
    )
    whole = Figure(key="effect", name="relative change of the output by the whole update", value=effect)
    into_dense = Figure(
        key="error_dense",
        name="relative error of the output, merged into the dequantized weight in bfloat16",
        value=dense,
    )
    setting.step()
    return Claim(
        id="merge-nf4",
        lesson="QLoRA merges like LoRA, at no cost.",
        done="The same with the base in NF4: PEFT dequantizes it, adds the update and quantizes it again.",
        figures=(error, into_dense, whole, Figure(key="kept", name="share of unchanged codes", value=kept)),
        checks=(
            Check(figure=error, relation="at most", bounds=(bound,), tolerance=True),
            Check(figure=into_dense, relation="at most", bounds=(bound,), tolerance=True),
        ),
        remark=f"The error is {error.value / effect:.0%} of the update's effect: {kept:.0%} of the weights round to"
        " their old level. A merge that keeps the update needs a dequantized base, as large as an unquantized one.",
    )


def _relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def steps(quick: bool) -> int:
    """Return the number of steps."""
    return 3 + merged_update.steps(quick) + unmergeable.STEPS


EXPERIMENT = Experiment(
    name="merging",
    title="Merging",
    section="2. LoRA; 4. Adapters; 5. Prefix and prompt tuning; 6. Comparison",
    steps=steps,
    run=run,
)
