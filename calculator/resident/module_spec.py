"""What a method does to one module: in which dtype it is stored, what of it is trained, what is put beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.architecture.module import Parameter
    from calculator.common.dtype import DType
    from calculator.resident.quantization import Quantization


@dataclass(slots=True, kw_only=True, eq=False)
class Added:
    """A parameter that a method puts into the model: its name relative to its owner, shape, dtype, whether trained."""

    name: str
    shape: Shape
    dtype: DType
    trained: bool = True


@dataclass(slots=True, kw_only=True, eq=False)
class ModuleSpec:
    """One module under a method.

    `dtype`: of its dense parameters. `trained`: the names of its own parameters that are trained. `quantization`: how
    its weight is stored in 4 bits, if it is. `added`: what the method puts beside it. `copied`: whether the module
    itself is a trained copy of a frozen original that stays in memory (PEFT's modules_to_save). `runs`: whether it does
    in the step.
    """

    dtype: DType
    trained: tuple[str, ...] = ()
    quantization: Quantization | None = None
    added: tuple[Added, ...] = ()
    copied: bool = False
    runs: bool = True

    def dtype_of(self, parameter: Parameter) -> DType:
        """A parameter's dtype: its own where it has one, else the model's.

        Beside a 4-bit weight the bias takes the compute dtype when it first runs. Source: bitsandbytes/nn/modules.py,
        Linear4bit.forward.
        """
        if parameter.name == "bias" and self.quantization is not None and self.runs:
            return self.quantization.compute_dtype
        return self.dtype if parameter.dtype == "model" else parameter.dtype
