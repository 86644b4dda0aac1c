"""QLoRA (Dettmers et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.common.errors import refusal
from calculator.inputs.settings import setting
from calculator.inputs.sharding import QuantStorage  # noqa: TC001  `declared` evaluates annotations
from calculator.methods.low_rank import layer, stored, tokens
from calculator.methods.low_rank.method import LowRank
from calculator.methods.qlora.facts import FACTS
from calculator.resident.module_spec import new_module_spec
from calculator.resident.quantization import (
    Quantization,
    blocksize_setting,
    check_blocksize,
    code_book,
    converted,
    four_bits,
)

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training
    from calculator.resident.module_spec import ModuleSpec
    from calculator.resident.tensor import ResidentTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class QLoRA(LowRank):
    """QLoRA: LoRA over linear layers that bitsandbytes stores in 4 bits and dequantizes for each product."""

    name = "qlora"
    facts = FACTS

    quant_type: Literal["nf4", "fp4"] = setting("nf4", label="4-bit type", help="NormalFloat4 or 4-bit floating point.")
    double_quant: bool = setting(
        True, label="Double quantization", help="Quantize the block constants too (section 3 of the paper)."
    )
    blocksize: int = blocksize_setting()
    quant_storage: QuantStorage = setting(
        "uint8",
        label="4-bit storage type",
        help="The data type of the tensors that contain the packed 4-bit weights (bnb_4bit_quant_storage). FSDP shards "
        "only tensors of a float type.",
    )
    prepare_model_for_kbit_training: bool = setting(
        True,
        label="Prepare for k-bit training",
        help="Cast everything that is not in 4 bits to float32, as PEFT's function of that name does.",
    )

    @property
    def title(self) -> str:
        """The label, and whether tokens are trained."""
        return tokens.titled(self, self.facts.label)

    @property
    def plain_steps_only(self) -> bool:
        """Whether tokens are trained."""
        return bool(self.trainable_token_indices)

    @property
    def plain_shardings(self) -> tuple[str, ...]:
        """The shardings of trained tokens."""
        return tokens.SHARDINGS

    @property
    def is_cast_to_float32(self) -> bool:
        """Whether the model is prepared."""
        return self.prepare_model_for_kbit_training

    @property
    def label_parts(self) -> tuple[str, ...]:
        """The rank and the targets, and whether the model is not prepared."""
        prepared = () if self.prepare_model_for_kbit_training else ("not prepared",)
        return (self.rank_and_targets, *prepared)

    def check(self, model: Model, training: Training) -> None:
        """Refuse to train weights that are stored in 4 bits, and block sizes that bitsandbytes does not have."""
        check_blocksize("method.blocksize", self.blocksize)
        self._check_classifier(model)
        self._check_last_layer(model)
        LowRank.check(self, model, training)
        stored.check_saved(self, model, "4 bits")

    @staticmethod
    def _check_classifier(model: Model) -> None:
        """Refuse to train a classifier's head that is stored in 4 bits. A head with a bias is converted too.

        Source: transformers/quantizers/base.py, get_keys_to_not_convert.
        """
        if model.task.trains_head and converted(model.output.name, model.output, model):
            message = (
                f"bitsandbytes stores the head {model.output.name} of {model.model_type} in 4 bits, which PEFT can't"
                " train: use lora"
            )
            raise refusal("method.name", message, "qlora")

    @staticmethod
    def _check_last_layer(model: Model) -> None:
        """Refuse a model without a head whose last weight belongs to a linear layer, like OLMo's.

        That layer is not converted.

        Source: transformers/quantizers/base.py, get_keys_to_not_convert.
        """
        names = (name for path in model.modules_to_not_convert for name in path.split("."))
        if model.task.embeds and any(map(str.isdigit, names)):
            message = (
                f"transformers does not quantize the last linear layer of {model.model_type} without a head, which is"
                " not modeled: use lora"
            )
            raise refusal("method.name", message, "qlora")

    def module_spec(self, path: str, module: Module, model: Model, training: Training) -> ModuleSpec:
        """Return the module in 4 bits if bitsandbytes converts it, with A and B added to each target."""
        dense: DType = "float32" if self.prepare_model_for_kbit_training else training.dtype
        quantization = self.base_quantization(training) if converted(path, module, model) else None
        base = quantization.compute_dtype if quantization else dense
        trained, added, copied = layer.adapted(self, path, module, model, training, base)
        return new_module_spec(
            dtype=dense,
            trained=trained,
            quantization=quantization,
            added=added,
            copied=copied,
            copy_dtype=self.copy_dtype,
            runs=model.runs(path),
        )

    def hidden_dtype(self, training: Training) -> DType:
        """Return the dtype of hidden states, which is that of the embeddings and norms."""
        return "float32" if self.prepare_model_for_kbit_training else training.dtype

    def added(self, model: Model, training: Training) -> tuple[ResidentTensor, ...]:
        """Return the code book of nested constants, if bitsandbytes creates one. torchtune's 4 bits are torchao's."""
        if training.trainer == "torchtune":
            return ()
        return code_book(model, self.base_quantization(training))

    def base_quantization(self, training: Training) -> Quantization:
        """Return how the base model's linear layers are stored."""
        return four_bits(
            self.quant_type,
            self.blocksize,
            training.dtype,
            double_quant=self.double_quant,
            storage=self.quant_storage,
        )
