"""The error of 4-bit formats with equal block sizes, on Gaussian numbers and on a trained network's weights."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import TYPE_CHECKING, get_args

import torch

from validation.prove import digits
from validation.prove.claim import Check, Claim, Figure, spread
from validation.prove.code_books import BLOCKSIZE, FP4, LEVELS, NF4, relative_error, round_by_bitsandbytes, round_trip
from validation.prove.drawing import Axis, Curve, Series, Table
from validation.prove.experiment import Findings, Setting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

SEEDS = 3
WIDTH, STEPS, LR = 256, 200, 3e-3

GAUSSIAN = "Gaussian numbers"

#: The formats' names in figures' keys.
KEYS = ("nf4", "fp4", "int4", "even")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One kind of weights, with one tensor per seed."""

    key: str
    name: str
    samples: tuple[Tensor, ...]

    def errors(self, levels: tuple[float, ...], *, double_quant: bool) -> list[float]:
        """Return the relative error of a format for each seed."""
        return [
            relative_error(sample, round_trip(sample, levels, double_quant=double_quant)) for sample in self.samples
        ]

    @property
    def kurtosis(self) -> Figure:
        """The fourth central moment over the square of the variance."""
        values = [
            float((sample - sample.mean()).pow(4).mean() / sample.var(correction=0) ** 2) for sample in self.samples
        ]
        return spread(
            f"{self.key}_kurtosis",
            f"kurtosis of {self.name} (3 for a Gaussian, 1.8 for a uniform distribution)",
            values,
        )

    @property
    def against_best(self) -> Figure:
        """NF4's error over the smallest error of the other formats, for the worst seed."""
        by_format = {name: self.errors(levels, double_quant=False) for name, levels in LEVELS.items()}
        error = by_format.pop(NF4)
        ratios = [mine / min(others) for mine, *others in zip(error, *by_format.values(), strict=True)]
        name = f"NF4's error over the smallest of the other formats' errors, {self.name}, worst seed"
        return Figure(key=f"{self.key}_against_best", name=name, value=max(ratios))

    def to_figures(self) -> tuple[Figure, ...]:
        """Return each format's error."""
        return tuple(
            spread(
                f"{self.key}_{key}",
                f"relative error of {name}, {self.name}",
                self.errors(LEVELS[name], double_quant=False),
            )
            for key, name in zip(KEYS, LEVELS, strict=True)
        )


def run(setting: Setting) -> Findings:
    """Compute the formats' errors and compare them."""
    seeds = range(1 if setting.quick else SEEDS)
    gaussian = Weights(key="gaussian", name=GAUSSIAN, samples=tuple(_gaussian(seed, setting) for seed in seeds))
    trained = [
        Weights(
            key=f"from_{initial.lower()}",
            name=f"weights trained from {initial} initial values",
            samples=tuple(_trained(seed, initial, setting) for seed in seeds),
        )
        for initial in get_args(digits.Initial)
    ]
    kinds = [gaussian, *trained]
    return Findings(
        claims=(
            _claim_of_least_error(
                [gaussian],
                id="nf4-gaussian",
                lesson="NF4 suits normally distributed weights: no other 4-bit format has a smaller error.",
                done=f"Gaussian numbers in blocks of {BLOCKSIZE}, quantized to NF4, FP4, INT4 and sixteen even levels.",
            ),
            _claim_of_least_error(
                trained,
                id="nf4-trained",
                lesson="Trained weights are normally distributed, so NF4 suits them too.",
                done=f"The same for the hidden layers, {WIDTH} wide, of networks trained on scikit-learn's digits from"
                " nn.Linear's uniform initial values and from Gaussian ones of the same standard deviation.",
            ),
            _kernels(gaussian),
        ),
        curves=(_curve(kinds),),
        tables=(_table(kinds),),
    )


def _gaussian(seed: int, setting: Setting) -> Tensor:
    setting.step()
    drawn = torch.randn(1 << (16 if setting.quick else 20), generator=torch.Generator().manual_seed(seed))
    return drawn.to(setting.device)


def _trained(seed: int, initial: digits.Initial, setting: Setting) -> Tensor:
    """Return the weights of the hidden layers, whose sizes are whole blocks."""
    torch.manual_seed(seed)
    on = digits.task(seed, setting.device)
    model = digits.network(WIDTH, setting.device, initial)
    digits.train(model, model.parameters(), on, steps=20 if setting.quick else STEPS, lr=LR)
    setting.step()
    return torch.cat([layer.weight.detach().flatten() for layer in digits.linear_layers(model)[:-1]])


def _claim_of_least_error(kinds: Sequence[Weights], *, id: str, lesson: str, done: str) -> Claim:  # noqa: A002  (the name of Claim's field)
    ratios = [kind.against_best for kind in kinds]
    return Claim(
        id=id,
        lesson=lesson,
        done=done,
        figures=(*ratios, *(figure for kind in kinds for figure in (*kind.to_figures(), kind.kurtosis))),
        checks=tuple(Check(figure=ratio, relation="at most", bounds=(1,)) for ratio in ratios),
    )


def _kernels(weights: Weights) -> Claim:
    """Return whether the tables of levels give the same numbers as bitsandbytes' kernels."""
    differing = sum(
        int(
            (
                round_trip(sample, LEVELS[name], double_quant=double)
                != round_by_bitsandbytes(sample, name.lower(), double_quant=double)
            ).sum()
        )
        for name in (NF4, FP4)
        for double in (False, True)
        for sample in weights.samples
    )
    figure = Figure(key="differing", name="numbers that bitsandbytes dequantizes differently", value=differing)
    return Claim(
        id="nf4-kernels",
        lesson="A weight is stored as its block's constant times the nearest level.",
        done=f"{GAUSSIAN} in NF4 and FP4, with and without double quantization, by that rule and by bitsandbytes.",
        figures=(figure,),
        checks=(Check(figure=figure, relation="equal to", bounds=(0,)),),
    )


def _curve(kinds: Sequence[Weights]) -> Curve:
    return Curve(
        id="nf4-error",
        title=f"Relative error of 4-bit formats in blocks of {BLOCKSIZE}",
        x=Axis(label="format"),
        y=Axis(label="root mean square error over that of the weights"),
        series=tuple(_series(kind) for kind in kinds),
    )


def _series(kind: Weights) -> Series:
    figures = [spread("error", name, kind.errors(levels, double_quant=False)) for name, levels in LEVELS.items()]
    return Series(
        name=kind.name,
        x=list(LEVELS),
        y=[figure.value for figure in figures],
        low=[figure.low or 0 for figure in figures],
        high=[figure.high or 0 for figure in figures],
    )


def _table(kinds: Sequence[Weights]) -> Table:
    columns = {
        "weights": Axis(label="weights"),
        "format": Axis(label="format"),
        "single": Axis(label="relative error"),
        "double": Axis(label="with double quantization"),
    }
    rows = tuple(
        (
            kind.name,
            name,
            median(kind.errors(levels, double_quant=False)),
            median(kind.errors(levels, double_quant=True)),
        )
        for kind, (name, levels) in product(kinds, LEVELS.items())
    )
    return Table(id="nf4-error-table", title="Error with and without double quantization", columns=columns, rows=rows)


def steps(quick: bool) -> int:
    """Return the number of steps: one per kind of weights and seed."""
    return (1 + len(get_args(digits.Initial))) * (1 if quick else SEEDS)
