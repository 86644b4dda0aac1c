"""Muon's step (Jordan et al. 2024) as `torch.optim.Muon` implements it. Source: torch/optim/_muon.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements

if TYPE_CHECKING:
    from calculator.engine.tape import Tape, Tensor
    from calculator.resident.optimizer import Optimizer
    from calculator.resident.tensor import ResidentTensor

#: The number of Newton-Schulz iterations.
STEPS = 5


def step(tape: Tape, parameters: list[ResidentTensor], optimizer: Optimizer) -> None:  # noqa: ARG001  loops share a signature
    """Run the loop of `_single_tensor_muon` over matrices, with Nesterov momentum."""
    update: Tensor | None = None
    for p in parameters:
        update = tape.new(p.shape, p.dtype, f"{p.name}: momentum of Nesterov")
        update = _orthogonalized(tape, p, update)
    del update


def _orthogonalized(tape: Tape, p: ResidentTensor, grad: Tensor) -> Tensor:
    """Return the update after Newton-Schulz iterations in bfloat16.

    The caller keeps `grad` alive meanwhile. From PyTorch 2.15 on, an update in bfloat16 is copied too. The copy
    is freed in the first iteration, which then needs as much as the second.
    """
    name, side = p.name, min(p.shape, key=lambda dim: elements((dim,)))
    ortho = grad if p.dtype == "bfloat16" else tape.new(p.shape, "bfloat16", f"{name}: update in bfloat16")
    norm = tape.new((), "bfloat16", "norm")
    least = tape.new((), "bfloat16", "norm, kept from 0")
    del norm, least
    for _ in range(STEPS):
        gram = tape.new((side, side), "bfloat16", f"{name}: gram matrix")
        gram_update = tape.new((side, side), "bfloat16", f"{name}: polynomial of the gram matrix")
        ortho = tape.new(p.shape, "bfloat16", f"{name}: update, orthogonalized")
    del gram, gram_update
    return ortho
