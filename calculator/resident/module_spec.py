"""What a method does to one module: in which dtype it is stored, what of it is trained, what is put beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.devices.kernels import kernels_of

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module, Parameter
    from calculator.common.dtype import DType
    from calculator.devices.kernels import Kernels
    from calculator.inputs.training import Device, Training
    from calculator.methods.base import Method
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


class PreparedModel:
    """A model with a method applied to it, and the training and the device that it is prepared for."""

    __slots__ = ("device", "method", "model", "module_specs", "training")

    def __init__(self, model: Model, method: Method, training: Training, device: Device) -> None:
        self.model = model
        self.method = method
        self.training = training
        self.device = device
        #: Cached specs by path and identity: two kinds of layers may have different modules at the same path.
        self.module_specs: dict[tuple[str, int], ModuleSpec] = {}

    @property
    def kernels(self) -> Kernels:
        """The attention kernels of the device."""
        return kernels_of(self.device)

    def module_spec(self, path: str, module: Module) -> ModuleSpec:
        """How the method stores and trains one module."""
        known = self.module_specs.get((path, id(module)))
        if known is None:
            known = self.method.module_spec(path, module, self.model, self.training)
            self.module_specs[path, id(module)] = known
        return known

    def for_run(self, training: Training, device: Device) -> PreparedModel:
        """The same model for a run that differs in batch, length, accumulation or device; it shares the specs."""
        prepared = PreparedModel(self.model, self.method, training, device)
        prepared.module_specs = self.module_specs
        return prepared
