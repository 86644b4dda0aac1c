"""The interface of a quantized base of LoRA: its storage format, the settings it refuses, and its assumptions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from calculator.bases.config import QuantizationConfig  # noqa: TC001  a field of each base
from calculator.common.errors import Problem
from calculator.resident.quantization import converted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training
    from calculator.methods.low_rank.method import LowRank
    from calculator.resident.stored_weight import StoredWeight


@dataclass(frozen=True, slots=True, kw_only=True)
class Base(ABC):
    """A quantized base. Each subclass describes one format of one library."""

    config: QuantizationConfig

    #: The name of the base in words.
    label: ClassVar[str]
    #: The path of the setting that chooses the base.
    loc: ClassVar[str] = "method.quantization_config"
    #: Whether the layers keep references to their inputs until the graph is freed, even with checkpointing.
    keeps_inputs: ClassVar[bool] = False
    #: Whether PEFT's prepare_model_for_kbit_training casts every parameter that is not quantized to float32.
    #: Source: peft/utils/other.py.
    is_cast_by_preparation: ClassVar[bool] = False
    #: Whether the library loads the rest of the model in bfloat16 if the request sets that.
    takes_bfloat16: ClassVar[bool] = True
    #: Whether PEFT can merge LoRA into the base.
    merges: ClassVar[bool] = True
    #: Whether PEFT supports DoRA over the base.
    has_dora: ClassVar[bool] = False
    #: Whether the layers are instances of torch.nn.Linear, which PEFT's all-linear selects.
    #: Source: peft/tuners/tuners_utils.py, _maybe_include_all_linear_layers.
    is_linear: ClassVar[bool] = True
    #: Whether the layers store biases as buffers, which no method trains.
    keeps_biases_as_buffers: ClassVar[bool] = False
    #: The lowest compute capability that supports the base. (0, 0) if every GPU does.
    compute_capability: ClassVar[tuple[int, int]] = (0, 0)
    #: The lowest compute capability that no longer supports the base. None if there is none.
    unsupported_from: ClassVar[tuple[int, int] | None] = None
    #: What else the checkpoint needs, as the end of a sentence.
    checkpoint_needs: ClassVar[str] = ""
    #: A sentence on the figures that come from reading the source only, without a measurement.
    from_source: ClassVar[str] = ""

    @property
    def in_bits(self) -> str:
        """The number of bits of a weight, in words."""
        return f"{self.config.bits} bits"

    @property
    def title(self) -> str:
        """The label, with the settings that change it."""
        return self.label

    @property
    def imports(self) -> str:
        """The statement that imports the names in `loading` that do not come from transformers."""
        return ""

    @property
    @abstractmethod
    def loading(self) -> str:
        """The `quantization_config` argument of from_pretrained that loads the base, as Python code."""

    @property
    def quantizing(self) -> str:
        """The call that quantizes the loaded model. Empty if from_pretrained does so."""
        return ""

    def hidden_dtype(self, training: Training, *, is_prepared: bool) -> DType:
        """Return the data type of hidden states, which is that of the embeddings and norms."""
        return "float32" if is_prepared and self.is_cast_by_preparation else training.dtype

    @abstractmethod
    def stored(self, hidden: DType, module: Module | None = None) -> StoredWeight:
        """Return the format of a module's weight for hidden states of a data type.

        Without a module, return the format of every weight.
        """

    def stored_at(
        self,
        path: str,  # noqa: ARG002
        module: Module,
        model: Model,  # noqa: ARG002
        hidden: DType,
        training: Training,  # noqa: ARG002
    ) -> StoredWeight:
        """Return the format of the weight of the module at a path."""
        return self.stored(hidden, module)

    def adapter_dtype(self, hidden: DType) -> DType:  # noqa: ARG002
        """Return the data type of A and B with adapter_dtype `model`. PEFT does not cast them to an integer type."""
        return "float32"

    def converts(self, path: str, module: Module, model: Model) -> bool:
        """Return whether the library quantizes a module."""
        return converted(path, module, model)

    def names(self, model: Model) -> tuple[str, ...]:
        """Return the names of the quantized modules, as target_modules lists them."""
        last_names = (path.rpartition(".")[2] for path, module in model.paths if self.converts(path, module, model))
        return tuple(dict.fromkeys(last_names))

    def _subclasses(self, model: Model) -> Iterator[Problem]:
        """Yield a problem for the first layer of a subclass of torch.nn.Linear, which the library quantizes too.

        LLM.int8() and FP8 leave subclasses as they are.
        """
        for path, module in model.paths:
            if module.kind == "linear" and not module.quantizable and not module.is_last and not path.endswith(".wo"):
                message = (
                    f"{path} is of a subclass of torch.nn.Linear, which is not modeled in {self.label}: use qlora or"
                    " load_in_8bit, which do not replace it"
                )
                yield Problem(loc=f"{self.loc}.quant_method", msg=message, input=self.config.quant_method)
                return

    def problems(self, method: LowRank, model: Model, training: Training) -> Iterator[Problem]:  # noqa: ARG002
        """Yield the settings that the libraries refuse, or that are not modeled."""
        return iter(())

    def assumptions(self) -> tuple[str, ...]:
        """Return the assumptions of the figures about the base, in sentences."""
        return (self.from_source,) if self.from_source else ()

    def warnings(self, model: Model, training: Training) -> Iterator[str]:  # noqa: ARG002
        """Yield risks of the base, in sentences."""
        return iter(())


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTQModelBase(Base):
    """A base with layers of gptqmodel."""

    is_linear: ClassVar[bool] = False
    keeps_biases_as_buffers: ClassVar[bool] = True
    merges: ClassVar[bool] = False

    @property
    def group_size(self) -> int:
        """The number of inputs that share a scale, or -1 for all. The default is 128 (GPTQConfig, AwqConfig)."""
        return 128 if self.config.group_size is None else self.config.group_size
