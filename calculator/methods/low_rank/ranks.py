"""Ranks that exceed the smaller side of a matrix: they add parameters, but no rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.inputs.training import Training
    from calculator.methods.base import Method


def smaller_side(module: Module) -> int | None:
    """Return the smaller side of a module's matrix. None if it has none named weight, as fused experts."""
    if all(parameter.name != "weight" or len(parameter.shape) < 2 for parameter in module.parameters):
        return None
    return int(min(module.in_features, module.out_features))


def smaller_sides(method: Method, model: Model, training: Training) -> dict[str, int]:
    """Return the smaller side of each adapted matrix that runs, by the last part of its name."""
    return {
        path.rsplit(".", 1)[-1]: side
        for path, module in model.running
        if (side := smaller_side(module)) is not None and method.module_spec(path, module, model, training).added
    }


def too_large(method: Method, rank_of: Callable[[str], int], model: Model, training: Training) -> Iterator[str]:
    """Yield a sentence for each rank, by a module's path, that exceeds the smaller side of some adapted matrices."""
    sides: dict[int, dict[str, int]] = {}
    for path, module in model.running:
        r, side = rank_of(path), smaller_side(module)
        if side is not None and side < r and method.module_spec(path, module, model, training).added:
            sides.setdefault(r, {})[path.rsplit(".", 1)[-1]] = side
    for r, named_sides in sides.items():
        yield f"{sentence(r, named_sides)}."


def sentence(r: int, sides: Mapping[str, int]) -> str:
    """Return a sentence without its full stop on a rank and the smaller sides that it exceeds."""
    names = ", ".join(f"{name} ({side:,})" for name, side in sides.items())
    return f"r {r:,} is larger than the smaller side of {names}: it adds parameters there, but no rank"
