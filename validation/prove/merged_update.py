"""How much of an update survives merging, by the update's size and the base's data type."""

from __future__ import annotations

import torch

from validation.prove.claim import Check, Claim, Figure
from validation.prove.drawing import Axis, Curve, Series
from validation.prove.experiment import Findings, Setting
from validation.prove.merged_layer import Layer

#: ‖(alpha/r)·BA‖ over ‖W₀‖.
SIZES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
#: The size that the claim is told at, and what of an update may be lost where merging is said to keep it.
TOLD, LITTLE = 0.01, 0.01

#: What the base is stored in: its name, its dtype, whether in 4 bits.
BASES = (("float32", torch.float32, False), ("bfloat16", torch.bfloat16, False), ("NF4", torch.bfloat16, True))


def run(width: int, setting: Setting) -> Findings:
    """The share of an update that is lost in each base, at each size."""
    sizes = (TOLD,) if setting.quick else SIZES
    lost = {
        name: [_lost(Layer(width, dtype, setting.device, size=size, four_bit=four_bit), setting) for size in sizes]
        for name, dtype, four_bit in BASES
    }
    return Findings(
        claims=(_claim(width, {name: of[sizes.index(TOLD)] for name, of in lost.items()}),),
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
        lesson="Merging costs nothing: a merged model is the unmerged one.",
        done=f"What a merged weight, {width} × {width}, lacks of W₀ + (alpha/r)·BA, over the update's norm, for an"
        f" update of {TOLD:.0%} of the weight.",
        figures=tuple(figures.values()),
        checks=tuple(Check(figure=figure, relation="at most", bounds=(LITTLE,)) for figure in figures.values()),
        remark="A merged weight is rounded as the base is, and an update is small beside it: much of a small one is"
        " lost, though the output hardly changes. Unmerged it stays whole.",
    )


def _curve(sizes: tuple[float, ...], lost: dict[str, list[float]]) -> Curve:
    return Curve(
        id="merge-loss",
        title="What merging loses of an update",
        x=Axis(label="norm of the update over that of the weight"),
        y=Axis(label="share of the update that is lost"),
        series=tuple(Series(name=name, x=sizes, y=values) for name, values in lost.items()),
    )


def steps(quick: bool) -> int:
    """How many steps it takes: a merge each."""
    return len(BASES) * (1 if quick else len(SIZES))
