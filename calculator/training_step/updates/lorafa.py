"""LoRA-FA's step (Zhang et al. 2023), which multiplies the gradient of each B by the pseudoinverse of A A^T.

Source: peft 0.21.2, optimizers/lorafa.py, LoraFAOptimizer.step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tape, Tensor
    from calculator.resident.optimizer import Optimizer
    from calculator.resident.tensor import ResidentTensor


def step(tape: Tape, parameters: list[ResidentTensor], optimizer: Optimizer) -> None:  # noqa: ARG001  loops share a signature
    """Run the loop over the pairs of A and B, whose variables live until the next pair assigns them."""
    product = inverse = grad = denom_b = denom = None
    for b in parameters:
        if ".lora_B." not in b.name:  # a bias or a copy of a module, which AdamW updates
            denom = tape.new(b.shape, b.dtype, f"{b.name}: denominator")
            continue
        product = _matrix(tape, b, "A A^T", b.dtype)
        inverse = _inverse(tape, b)
        grad = _gradient(tape, b)
        if b.dtype != "bfloat16":
            grad = tape.new(b.shape, b.dtype, f"{b.name}: gradient, in its dtype")
        denom_b = tape.new(b.shape, b.dtype, f"{b.name}: denominator")
    del product, inverse, grad, denom_b, denom


def _gradient(tape: Tape, b: ResidentTensor) -> Tensor:
    """Return the product of gradient and pseudoinverse, and a multiple of it. Autocast casts both factors."""
    casts: list[Tensor] = []
    if b.dtype != "bfloat16":
        casts.append(tape.new(b.shape, "bfloat16", f"{b.name}: gradient in bfloat16"))
    casts.append(_matrix(tape, b, "pseudoinverse in bfloat16", "bfloat16"))
    product = tape.new(b.shape, "bfloat16", f"{b.name}: gradient times the pseudoinverse")
    del casts
    scaled = tape.new(b.shape, "bfloat16", f"{b.name}: gradient times the pseudoinverse, scaled")
    del product
    return scaled


def _inverse(tape: Tape, b: ResidentTensor) -> Tensor:
    """Return torch.linalg.pinv of A A^T plus a multiple of the identity, in float32.

    Source: aten/src/ATen/native/LinearAlgebra.cpp, linalg_pinv; its decomposition is that of cuSOLVER's gesvdj.
    """
    identity = _matrix(tape, b, "identity")
    multiple = _matrix(tape, b, "multiple of the identity")
    del identity
    whole = _matrix(tape, b, "A A^T + multiple of the identity")
    del multiple
    bounds = [tape.new((), "float64", f"{b.name}: {name} tolerance") for name in ("absolute", "relative")]
    left, values, right = _singular(tape, b)
    product = tape.new((1,), "float64", f"{b.name}: relative tolerance times the largest value")
    tolerance = tape.new((1,), "float64", f"{b.name}: tolerance")
    del product
    inverted = _inverted(tape, b)
    scaled = _matrix(tape, b, "right singular vectors over the values")
    out = _matrix(tape, b, "pseudoinverse")
    del whole, bounds, left, values, right, tolerance, inverted, scaled
    return out


def _singular(tape: Tape, b: ResidentTensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the singular vectors and values from cuSOLVER's gesvdj, which overwrites a copy."""
    left = _matrix(tape, b, "left singular vectors")
    values = _vector(tape, b, "singular values", "float32")
    right = _matrix(tape, b, "right singular vectors")
    info = tape.new((), "int32", f"{b.name}: status of the decomposition")
    copied = _matrix(tape, b, "copy that gesvdj overwrites")
    del info, copied
    return left, values, right


def _inverted(tape: Tape, b: ResidentTensor) -> Tensor:
    """Return the reciprocals of singular values above the tolerance, and zeros for the others."""
    above = _vector(tape, b, "whether a value is above the tolerance", "bool")
    reciprocals = _vector(tape, b, "reciprocals of the values", "float32")
    zero = tape.new((), "float32", f"{b.name}: zero")
    inverted = _vector(tape, b, "inverted values", "float32")
    del above, reciprocals, zero
    return inverted


def _matrix(tape: Tape, b: ResidentTensor, name: str, dtype: DType = "float32") -> Tensor:
    return tape.new((b.shape[1], b.shape[1]), dtype, f"{b.name}: {name}")


def _vector(tape: Tape, b: ResidentTensor, name: str, dtype: DType) -> Tensor:
    return tape.new((b.shape[1],), dtype, f"{b.name}: {name}")
