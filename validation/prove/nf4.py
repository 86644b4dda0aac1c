"""NF4: its levels, the share of a Gaussian on each, its error compared with other formats, and its bits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import bitsandbytes as bnb
import torch

from calculator.resident import nf4
from validation.prove import four_bit_error
from validation.prove.bits import bits
from validation.prove.claim import Check, Claim, Figure, spread
from validation.prove.code_books import BLOCKSIZE, LEVELS, NF4, codes
from validation.prove.drawing import Axis, Curve, Series
from validation.prove.experiment import Experiment, Findings, Setting

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The largest ratio of two shares that count as equal.
EQUAL = 1.01

SEEDS = 5


def run(setting: Setting) -> Findings:
    """Test the claims about levels, shares, errors and bits."""
    shares, scale = _measured(setting)
    errors = four_bit_error.run(setting)
    counted, table = bits(setting)
    return Findings(
        claims=(_levels(), _masses(shares, scale), *errors.claims, counted),
        curves=(_curve(shares), *errors.curves),
        tables=(*errors.tables, table),
    )


def _levels() -> Claim:
    ours, theirs = torch.tensor(nf4.levels()), bnb.functional.get_4bit_type("nf4", device="cpu")
    differing = Figure(key="differing", name="levels that differ in any bit", value=int((ours != theirs).sum()))
    return Claim(
        id="nf4-levels",
        lesson="NF4's sixteen levels are quantiles of a normal distribution, scaled to between −1 and 1.",
        done="Computed with the standard library's NormalDist in single precision and compared with bitsandbytes'"
        " table.",
        figures=(
            differing,
            Figure(key="above", name="levels above zero", value=sum(level > 0 for level in nf4.levels())),
            Figure(key="below", name="levels below zero", value=sum(level < 0 for level in nf4.levels())),
            Figure(key="zero", name="levels that are zero", value=sum(level == 0 for level in nf4.levels())),
        ),
        checks=(Check(figure=differing, relation="equal to", bounds=(0,)),),
    )


def _measured(setting: Setting) -> tuple[list[list[float]], list[float]]:
    """For each seed, the percentage of a Gaussian on each level in blocks, and the mean position of level 1."""
    shares, scales = [], []
    for seed in range(2 if setting.quick else SEEDS):
        sample = torch.randn(1 << (16 if setting.quick else 21), generator=torch.Generator().manual_seed(seed))
        nearest, constants = codes(sample, LEVELS[NF4])
        counts = torch.bincount(nearest.flatten(), minlength=16)
        shares.append([100 * count / sample.numel() for count in counts.tolist()])
        scales.append(float(constants.mean()))
        setting.step()
    return shares, scales


def _masses(shares: Sequence[Sequence[float]], scales: Sequence[float]) -> Claim:
    nominal = [100 * mass for mass in nf4.bin_masses()]
    by_quantiles = Figure(
        key="nominal_ratio", name="largest share over the smallest, by the quantiles", value=max(nominal) / min(nominal)
    )
    in_blocks = spread(
        "blocks_ratio",
        f"largest share over the smallest, in blocks of {BLOCKSIZE}",
        [max(masses) / min(masses) for masses in shares],
    )
    decisive = (by_quantiles, in_blocks)
    information = spread("entropy", "entropy of a 4-bit code", [_entropy(s) for s in shares], "bits")
    return Claim(
        id="nf4-equal-mass",
        lesson="Each of NF4's sixteen bins has equal probability mass under a Gaussian.",
        done="Computed from the normal distribution, with level 1 at the largest quantile; and measured on Gaussian"
        f" numbers in blocks of {BLOCKSIZE}, scaled by their largest magnitude as in bitsandbytes.",
        figures=(
            *decisive,
            Figure(key="nominal_least", name="smallest share, by the quantiles", value=min(nominal), unit="%"),
            Figure(key="nominal_most", name="largest share, by the quantiles", value=max(nominal), unit="%"),
            spread("blocks_least", "smallest share, in blocks", [min(masses) for masses in shares], "%"),
            spread("blocks_most", "largest share, in blocks", [max(masses) for masses in shares], "%"),
            information,
            spread("level_one", "mean position of level 1 in a block", scales, "standard deviations"),
        ),
        checks=tuple(Check(figure=figure, relation="at most", bounds=(EQUAL,)) for figure in decisive),
        remark="Levels are quantiles, but a weight rounds to the nearest level, and a block's largest weight is beyond"
        f" the largest quantile. A 4-bit code still has {information.value:.3g} bits of information.",
    )


def _entropy(shares: Sequence[float]) -> float:
    return -sum(share / 100 * math.log2(share / 100) for share in shares if share)


def _curve(shares: Sequence[Sequence[float]]) -> Curve:
    by_level = [spread("share", "", level) for level in zip(*shares, strict=True)]
    return Curve(
        id="nf4-levels",
        title="NF4's levels and the share of a Gaussian that rounds to each",
        x=Axis(label="level"),
        y=Axis(label="share", unit="%"),
        series=(
            Series(name="by the quantiles", x=nf4.levels(), y=[100 * mass for mass in nf4.bin_masses()]),
            Series(
                name=f"measured in blocks of {BLOCKSIZE}",
                x=nf4.levels(),
                y=[figure.value for figure in by_level],
                low=[figure.low or 0 for figure in by_level],
                high=[figure.high or 0 for figure in by_level],
            ),
        ),
    )


def steps(quick: bool) -> int:
    """Return the number of steps."""
    return (2 if quick else SEEDS) + four_bit_error.steps(quick) + 2


EXPERIMENT = Experiment(
    name="nf4", title="NF4: levels, shares, error and bits", section="3. QLoRA", steps=steps, run=run
)
