"""A quantized base of LoRA: what decides how its modules are stored, what it refuses, and what it assumes."""

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
    """A base that is quantized. Each subclass is one format of one library."""

    config: QuantizationConfig

    #: Its name in words.
    label: ClassVar[str]
    #: The setting that chooses it.
    loc: ClassVar[str] = "method.quantization_config"
    #: Whether its layers refer to their inputs until the graph is freed, which checkpointing does not see.
    keeps_inputs: ClassVar[bool] = False
    #: Whether PEFT's prepare_model_for_kbit_training casts everything that is not quantized to float32.
    #: Source: peft/utils/other.py.
    is_cast_by_preparation: ClassVar[bool] = False
    #: Whether its library loads the rest of the model in bfloat16 where that is set.
    takes_bfloat16: ClassVar[bool] = True
    #: Whether PEFT merges LoRA into it.
    merges: ClassVar[bool] = True
    #: Whether PEFT has DoRA over it.
    has_dora: ClassVar[bool] = False
    #: Whether its layers are instances of torch.nn.Linear, which PEFT's all-linear looks for.
    #: Source: peft/tuners/tuners_utils.py, _maybe_include_all_linear_layers.
    is_linear: ClassVar[bool] = True
    #: Whether its layers keep biases as buffers, which no method trains.
    keeps_biases_as_buffers: ClassVar[bool] = False
    #: The compute capability from which on it runs, if not on every card.
    compute_capability: ClassVar[tuple[int, int]] = (0, 0)
    #: That from which on it does not run any more, if there is one.
    unsupported_from: ClassVar[tuple[int, int] | None] = None
    #: What else its checkpoint needs.
    checkpoint_needs: ClassVar[str] = ""
    #: Which part of the figures is from source only.
    from_source: ClassVar[str] = ""

    @property
    def in_bits(self) -> str:
        """How many bits a weight has, in words."""
        return f"{self.config.bits} bits"

    @property
    def title(self) -> str:
        """Its name in words, with what its settings change of it."""
        return self.label

    @property
    def imports(self) -> str:
        """The statement that imports what `loading` calls in addition to transformers."""
        return ""

    @property
    @abstractmethod
    def loading(self) -> str:
        """The quantization_config with which from_pretrained loads it, as Python code."""

    @property
    def quantizing(self) -> str:
        """The call that quantises the loaded model, where from_pretrained does not."""
        return ""

    def hidden_dtype(self, training: Training, *, is_prepared: bool) -> DType:
        """The dtype of hidden states: that of the embeddings and norms."""
        return "float32" if is_prepared and self.is_cast_by_preparation else training.dtype

    @abstractmethod
    def stored(self, hidden: DType, module: Module | None = None) -> StoredWeight:
        """The format of a module's weight, or of all where it is the same, for hidden states of a dtype."""

    def stored_at(
        self,
        path: str,  # noqa: ARG002
        module: Module,
        model: Model,  # noqa: ARG002
        hidden: DType,
        training: Training,  # noqa: ARG002
    ) -> StoredWeight:
        """The format of the weight of a module at a path."""
        return self.stored(hidden, module)

    def adapter_dtype(self, hidden: DType) -> DType:  # noqa: ARG002
        """The dtype of A and B with adapter_dtype `model`; PEFT casts them to no integer dtype."""
        return "float32"

    def converts(self, path: str, module: Module, model: Model) -> bool:
        """Whether a module is stored so."""
        return converted(path, module, model)

    def names(self, model: Model) -> tuple[str, ...]:
        """The names of the modules that are stored so, as target_modules lists them."""
        found = (path.rpartition(".")[2] for path, module in model.paths if self.converts(path, module, model))
        return tuple(dict.fromkeys(found))

    def _subclasses(self, model: Model) -> Iterator[Problem]:
        """The first layer of a subclass of torch.nn.Linear that the library stores so, too.

        LLM.int8() and FP8 leave subclasses as they are.
        """
        for path, module in model.paths:
            if module.kind == "linear" and not module.quantizable and not module.is_last and not path.endswith(".wo"):
                message = (
                    f"{path} is of a subclass of torch.nn.Linear, which is not modelled in {self.label}: use qlora or"
                    " load_in_8bit, which do not replace it"
                )
                yield Problem(loc=f"{self.loc}.quant_method", msg=message, input=self.config.quant_method)
                return

    def problems(self, method: LowRank, model: Model, training: Training) -> Iterator[Problem]:  # noqa: ARG002
        """What the libraries refuse, or what is not modelled."""
        return iter(())

    def assumptions(self) -> tuple[str, ...]:
        """What the figures assume of it, in sentences."""
        return (self.from_source,) if self.from_source else ()

    def warnings(self, model: Model, training: Training) -> Iterator[str]:  # noqa: ARG002
        """Its risks, in sentences."""
        return iter(())


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTQModelBase(Base):
    """A base whose layers are modules of gptqmodel."""

    is_linear: ClassVar[bool] = False
    keeps_biases_as_buffers: ClassVar[bool] = True
    merges: ClassVar[bool] = False

    @property
    def group_size(self) -> int:
        """The inputs that share a scale, -1 for all; 128 by default (GPTQConfig, AwqConfig)."""
        return 128 if self.config.group_size is None else self.config.group_size
