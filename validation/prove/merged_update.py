"""The share of an update that merging loses, by the update's size and the base's dtype."""

from __future__ import annotations

import torch

from validation.prove.claim import Check, Claim, Figure
from validation.prove.drawing import Axis, Curve, Series
from validation.prove.experiment import Findings, Setting
from validation.prove.merged_layer import Layer

#: ‖(alpha/r)·BA‖ over ‖W₀‖.
SIZES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
#: The size at which the claim is tested, and the largest share of an update that may be lost.
CLAIM_SIZE, LARGEST_LOSS = 0.01, 0.01

#: The base's storage: a name, the dtype, and whether it is in 4 bits.
BASES = (("float32", torch.float32, False), ("bfloat16", torch.bfloat16, False), ("NF4", torch.bfloat16, True))


def run(width: int, setting: Setting) -> Findings:
    """Measure the lost share of an update in each base, at each size."""
    sizes = (CLAIM_SIZE,) if setting.quick else SIZES
    lost = {
        name: [_lost(Layer(width, dtype, setting.device, size=size, four_bit=four_bit), setting) for size in sizes]
        for name, dtype, four_bit in BASES
    }
    return Findings(
        claims=(_claim(width, {name: losses[sizes.index(CLAIM_SIZE)] for name, losses in lost.items()}),),
        curves=(_curve(sizes, lost),),
    )


def _lost(layer: Layer, setting: Setting) -> float:
    update, exact = layer.update(), layer.weight() + layer.update()
    layer.merge()
    setting.step()
    return float((layer.weight() - exact).norm() / update.norm())


def _claim(width: int, lost: dict[str, float]) -> Claim:
    figures = {
        name: Figure(key=name.lower(), name=f"share of the update lost in {name}", value=value)
        for name, value in lost.items()
    }
    return Claim(
        id="merge-update",
        lesson="Merging costs nothing: a merged model equals the unmerged one.",
        done=f"The difference of a merged weight, {width} × {width}, from W₀ + (alpha/r)·BA, over the update's norm,"
        f" for an update of {CLAIM_SIZE:.0%} of the weight.",
        figures=tuple(figures.values()),
        checks=tuple(Check(figure=figure, relation="at most", bounds=(LARGEST_LOSS,)) for figure in figures.values()),
        remark="A merged weight is rounded to the base's storage, and an update is small compared with it: much of a"
        " small update is lost, though the output hardly changes. Unmerged, the update is exact.",
    )


def _curve(sizes: tuple[float, ...], lost: dict[str, list[float]]) -> Curve:
    return Curve(
        id="merge-loss",
        title="Share of an update that merging loses",
        x=Axis(label="norm of the update over that of the weight"),
        y=Axis(label="lost share of the update"),
        series=tuple(Series(name=name, x=sizes, y=values) for name, values in lost.items()),
    )


def steps(quick: bool) -> int:
    """Return the number of steps: one per merge."""
    return len(BASES) * (1 if quick else len(SIZES))
