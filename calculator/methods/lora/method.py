"""LoRA (Hu et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.inputs.settings import setting
from calculator.methods.lora.facts import FACTS
from calculator.methods.low_rank import layer, stored
from calculator.methods.low_rank.initialization import before_the_steps
from calculator.methods.low_rank.method import LowRank
from calculator.resident.int8 import Int8, eight_bits
from calculator.resident.module_spec import ModuleSpec
from calculator.resident.quantization import converted

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRA(LowRank):
    """r · (in_features + out_features) parameters for each adapted matrix."""

    name = "lora"
    facts = FACTS

    load_in_8bit: bool = setting(
        False,
        label="Load in 8 bits",
        help="Store linear layers except the output head in 8 bits (LLM.int8() of bitsandbytes), as "
        "BitsAndBytesConfig(load_in_8bit=True) does.",
    )
    prepare_model_for_kbit_training: bool = setting(
        True,
        label="Prepare for k-bit training",
        help="With load_in_8bit: cast everything that is not in 8 bits to float32, as PEFT's function of that name "
        "does. Without it, nothing changes.",
    )

    @property
    def quantizes_base(self) -> bool:
        """Whether the base model's linear layers are stored in 8 bits."""
        return self.load_in_8bit

    @property
    def keeps_inputs(self) -> bool:
        """Whether the base is in 8 bits: MatMul8bitLt refers to its input as an attribute."""
        return self.load_in_8bit

    @property
    def plain_steps_only(self) -> bool:
        """Whether the base is in 8 bits, or B is frozen, which are modelled on one GPU."""
        return self.load_in_8bit or self.init_lora_weights == "mica"

    @property
    def title(self) -> str:
        """The label, with the storage of the base, or what freezes B."""
        if self.load_in_8bit:
            return f"{self.facts.label} with load_in_8bit"
        return "MiCA" if self.init_lora_weights == "mica" else self.facts.label

    @property
    def label_parts(self) -> tuple[str, ...]:
        """The rank and the targets, and the storage of the base."""
        return (self.rank_and_targets, *(("base in 8 bits",) if self.load_in_8bit else ()))

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the initialisation takes before the first step, and the outliers of LLM.int8()."""
        return (*before_the_steps(self), *((stored.NO_OUTLIERS,) if self.load_in_8bit else ()))

    def warnings(self, model: Model, training: Training) -> tuple[str, ...]:
        """What checkpointing does not free of a base in 8 bits, and biases whose dtype autocast changes."""
        return tuple(stored.warnings(model, training)) if self.load_in_8bit else ()

    def check(self, model: Model, training: Training) -> None:
        """Refuse to train weights stored in 8 bits."""
        LowRank.check(self, model, training)
        if self.load_in_8bit:
            stored.check(self, model, "8 bits")

    def module_spec(self, path: str, module: Module, model: Model, training: Training) -> ModuleSpec:
        """Frozen, in 8 bits where bitsandbytes converts the module, with A and B added to each target."""
        dtype = self.hidden_dtype(training)
        packed = self.load_in_8bit and converted(path, module, model)
        # PEFT casts added parameters to no integer dtype (BaseTunerLayer._move_adapter_to_device_of_base_layer).
        adapted = layer.adapted(self, path, module, model, training, "float32" if packed else dtype)
        if not self.load_in_8bit:
            return ModuleSpec(dtype=dtype, **adapted)
        quantization = eight_bits(dtype, transposed=module.kind == "conv1d") if packed else None
        return ModuleSpec(dtype=dtype, quantization=quantization, runs=not model.is_idle(path), **adapted)

    def hidden_dtype(self, training: Training) -> DType:
        """The dtype of hidden states: that of the embeddings and norms."""
        return "float32" if self.load_in_8bit and self.prepare_model_for_kbit_training else training.dtype

    def base_quantization(self, training: Training) -> Int8 | None:
        """How the base model's linear layers are stored, if not in the model's dtype."""
        return eight_bits(self.hidden_dtype(training)) if self.load_in_8bit else None
