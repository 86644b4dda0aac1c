"""LLM.int8() of bitsandbytes as a base of LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from calculator.bases.base import Base
from calculator.resident.int8 import eight_bits
from calculator.resident.quantization import converted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training
    from calculator.resident.stored_weight import StoredWeight

#: The assumption that inputs have no outliers.
#: Source: transformers/utils/quantization_config.py, BitsAndBytesConfig.
NO_OUTLIERS = (
    "LLM.int8() is counted for inputs without outliers (no value of 6.0 or more, llm_int8_threshold). Each layer keeps,"
    " for each column of its input that has one, that column in the input's dtype."
)

#: The warning that checkpointing does not free the inputs of 8-bit layers.
#: Source: bitsandbytes/autograd/_functions.py, MatMul8bitLt.forward.
KEPT_INPUTS = (
    "bitsandbytes keeps the input of every layer in 8 bits until the graph is freed, where gradient checkpointing with"
    " use_reentrant=False does not see it. A base in 4 bits (qlora) keeps none."
)

#: The warning that autocast changes the data type of biases.
#: Source: bitsandbytes/nn/modules.py, Linear8bitLt.forward.
CAST_BIASES = (
    "Under autocast, bitsandbytes casts the bias of each layer in 8 bits to the dtype of the layer's input, which the"
    " figures take from the kind of layer before it. Where an activation or an image tower computes in another dtype,"
    " they differ by some kilobytes."
)

#: The path suffixes of attention's output projections, whose inputs are in autocast's data type.
ATTENTION_OUTPUTS = (
    "attn.c_proj",
    "attn.attention.out_proj",
    "attn.out_proj",
    "attn.o_proj",
    "attn.dense",
    "attention.dense",
    "mixer.o_proj",
)

#: The prefixes of model types that multiply the output of attention by a gate in the data type of the embeddings.
GATED = ("qwen3_next", "qwen3_5")


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMInt8(Base):
    """Weights in 8 bits with one scale per output. MatMul8bitLt keeps its input as an attribute."""

    label: ClassVar[str] = "load_in_8bit"
    loc: ClassVar[str] = "method.load_in_8bit"
    keeps_inputs: ClassVar[bool] = True
    is_cast_by_preparation: ClassVar[bool] = True
    has_dora: ClassVar[bool] = True

    @property
    def in_bits(self) -> str:
        """The number of bits of a weight, in words."""
        return "8 bits"

    @property
    def loading(self) -> str:
        """The config of bitsandbytes."""
        return "BitsAndBytesConfig(load_in_8bit=True)"

    def stored(self, hidden: DType, module: Module | None = None) -> StoredWeight:
        """Return the format of a module's weight."""
        return eight_bits(hidden, transposed=module is not None and module.kind == "conv1d")

    def stored_at(self, path: str, module: Module, model: Model, hidden: DType, training: Training) -> StoredWeight:
        """Return the format of a module's weight, which depends on the data type of its input under autocast."""
        autocast = training.autocast
        return self.stored(hidden if autocast is None else _input_dtype(path, model, hidden, autocast), module)

    def assumptions(self) -> tuple[str, ...]:
        """Return the assumption that inputs have no outliers."""
        return (NO_OUTLIERS,)

    def warnings(self, model: Model, training: Training) -> Iterator[str]:
        """Yield warnings about inputs that checkpointing does not free, and about biases that autocast casts."""
        if training.gradient_checkpointing and not training.use_reentrant:
            yield KEPT_INPUTS
        biased = any(module.bias is not None and converted(path, module, model) for path, module in model.paths)
        if training.autocast is not None and biased:
            yield CAST_BIASES


def _input_dtype(path: str, model: Model, hidden: DType, autocast: DType) -> DType:
    """Return the data type of a layer's input under autocast. The first call casts the bias to it.

    Attention returns autocast's data type. torch.nn.LayerNorm returns float32, but Nemotron's norm returns autocast's
    data type. RMSNorm and 8-bit layers return the data type of their input. A vision tower has norms of its own.
    """
    if path.endswith(ATTENTION_OUTPUTS) and not model.model_type.startswith(GATED):
        return autocast
    if model.model_type == "nemotron":
        return autocast
    in_tower = path.startswith(model.towers)
    norms = (
        module for name, module in model.paths if module.kind == "norm" and name.startswith(model.towers) is in_tower
    )
    has_layer_norm = any(module.bias is not None for module in norms)
    return "float32" if has_layer_norm else hidden
