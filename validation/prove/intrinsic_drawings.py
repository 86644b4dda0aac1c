"""The curves and the table of the experiment on low rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from validation.prove.claim import spread
from validation.prove.drawing import Axis, Curve, Series, Table
from validation.prove.fine_tuning import STARTS, WIDTH
from validation.prove.spectrum import energy, singular_values
from validation.prove.subspace import ENOUGH

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from validation.prove.fine_tuning import Change, TuningResult

#: The layers, in the order of the updates.
LAYERS = ("first", "hidden", "last")

Runs = dict["Change", "list[TuningResult]"]


def curves(runs: Runs) -> tuple[Curve, ...]:
    """Accuracy by rank and by dimension, and the spectra of the updates."""
    accuracy = Axis(label="accuracy on test images")
    index = Axis(label="singular value")
    return (
        Curve(
            id="accuracy-by-rank",
            title="Accuracy of LoRA by rank, and of full fine-tuning",
            x=Axis(label="r"),
            y=accuracy,
            series=tuple(line for change, seeds in runs.items() for line in _series_by_rank(change, seeds)),
        ),
        Curve(
            id="subspace",
            title="Accuracy in random subspaces, from pretrained and from random weights",
            x=Axis(label="directions"),
            y=accuracy,
            series=tuple(line for change, seeds in runs.items() for line in _series_by_dimension(change, seeds)),
        ),
        Curve(
            id="spectrum",
            title="ΔW of full fine-tuning: share of its energy in the first singular values",
            x=index,
            y=Axis(label="share of the energy"),
            series=_spectra(runs, energy),
        ),
        Curve(
            id="singular-values",
            title="ΔW of full fine-tuning: singular values over the largest",
            x=index,
            y=Axis(label="over the largest"),
            series=_spectra(runs, singular_values),
        ),
    )


def dimensions(runs: Runs) -> Table:
    """d90 of each change and start."""
    columns = {
        "change": Axis(label="fine-tuned on"),
        "start": Axis(label="initial weights"),
        "d90": Axis(label="d90, median"),
        "low": Axis(label="lowest"),
        "high": Axis(label="highest"),
        "parameters": Axis(label="parameters"),
        "share": Axis(label="d90 over parameters"),
    }
    rows = []
    for change, seeds in runs.items():
        for start in STARTS:
            figure = spread("", "", [seed.dimension(start) for seed in seeds])
            parameters = seeds[0].parameters
            rows.append((change, start, figure.value, figure.low, figure.high, parameters, figure.value / parameters))
    return Table(id="d90", title="Intrinsic dimension d90", columns=columns, rows=tuple(rows))


def _series_by_rank(change: Change, seeds: Sequence[TuningResult]) -> tuple[Series, Series]:
    ranks = list(seeds[0].lora)
    return (
        _line(f"LoRA, {change}", ranks, [[seed.lora[r] for seed in seeds] for r in ranks]),
        _line(f"full, {change}", ranks, [[seed.full for seed in seeds] for _ in ranks]),
    )


def _series_by_dimension(change: Change, seeds: Sequence[TuningResult]) -> tuple[Series, ...]:
    tried = list(seeds[0].subspace[STARTS[0]])
    lines = (
        _line(f"{start}, {change}", tried, [[seed.subspace[start][d] for seed in seeds] for d in tried])
        for start in STARTS
    )
    enough = _line(f"{ENOUGH:.0%} of full, {change}", tried, [[ENOUGH * seed.full for seed in seeds] for _ in tried])
    return (*lines, enough)


def _spectra(runs: Runs, measure: Callable[[Tensor], Tensor]) -> tuple[Series, ...]:
    lines = [
        _spectrum(f"{layer} layer, {change}", [measure(seed.updates[i]) for seed in seeds])
        for change, seeds in runs.items()
        for i, layer in enumerate(LAYERS)
    ]
    generator = torch.Generator().manual_seed(0)
    random = [measure(torch.randn(WIDTH, WIDTH, generator=generator)) for _ in next(iter(runs.values()))]
    return (*lines, _spectrum(f"a random matrix, {WIDTH} × {WIDTH}", random))


def _spectrum(name: str, spectra: Sequence[Tensor]) -> Series:
    """Return a line of spectra, one per seed."""
    values = torch.stack(list(spectra)).T.tolist()
    return _line(name, list(range(1, len(values) + 1)), values)


def _line(name: str, x: Sequence[float], values: Sequence[Sequence[float]]) -> Series:
    """Return a line of the seeds' medians and spreads at each x."""
    points = [spread("", name, value) for value in values]
    return Series(
        name=name,
        x=x,
        y=[point.value for point in points],
        low=[point.low or 0 for point in points],
        high=[point.high or 0 for point in points],
    )
