"""LoRA (Hu et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from calculator.bases import QuantizationConfig, base_of
from calculator.inputs.settings import setting
from calculator.methods.lora.facts import FACTS
from calculator.methods.low_rank import layer, stored, tokens
from calculator.methods.low_rank.initialization import before_the_steps
from calculator.methods.low_rank.method import LowRank
from calculator.resident.module_spec import new_module_spec

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.bases.base import Base
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training
    from calculator.resident.module_spec import ModuleSpec
    from calculator.resident.stored_weight import StoredWeight


#: Settings with which a step is modeled on one GPU only.
_PLAIN_SETTINGS = ("use_bdlora", "layer_replication", "target_parameters")
_plain_values = attrgetter(*_PLAIN_SETTINGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRA(LowRank):
    """LoRA: r · (in_features + out_features) parameters for each adapted matrix."""

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
        help="Cast everything that is not in 4 or 8 bits to float32, as PEFT's function of that name does. It has no "
        "effect on an unquantized base, nor on a GPTQ base, which PEFT does not cast.",
    )

    quantization_config: QuantizationConfig | None = setting(
        None,
        label="Quantized base",
        help="How a library other than bitsandbytes stores linear layers of the base. Null means what the model's "
        "config.json states.",
        example={"quant_method": "gptq", "bits": 4},
    )

    @property
    def base(self) -> Base | None:
        """The format of the base model's linear layers. None if they are stored in the model's dtype."""
        if self.quantization_config is None and not self.load_in_8bit:
            return None
        return base_of(self.quantization_config, load_in_8bit=self.load_in_8bit)

    @property
    def quantizes_base(self) -> bool:
        """Whether the base model's linear layers are quantized."""
        return self.base is not None

    @property
    def keeps_inputs(self) -> bool:
        """Whether the layers of the base refer to their inputs as attributes."""
        return self.base is not None and self.base.keeps_inputs

    @property
    def _on_one_gpu(self) -> bool:
        """Whether a setting is modeled on one GPU only, such as a quantized base or replicated layers."""
        return self.quantizes_base or self.init_lora_weights == "mica" or any(_plain_values(self))

    @property
    def plain_steps_only(self) -> bool:
        """Whether a setting is modeled on one GPU only, or tokens are trained."""
        return self._on_one_gpu or bool(self.trainable_token_indices)

    @property
    def plain_shardings(self) -> tuple[str, ...]:
        """The shardings of trained tokens."""
        return () if self._on_one_gpu else tokens.SHARDINGS

    @property
    def title(self) -> str:
        """The label, with the storage of the base, what freezes B, or a setting that is modeled on one GPU only."""
        if self.load_in_8bit:
            title = f"{self.facts.label} with load_in_8bit"
        elif self.base is not None:
            title = f"{self.facts.label} over {self.base.title}"
        elif parts := [name for name in _PLAIN_SETTINGS if getattr(self, name)]:
            title = f"{self.facts.label} with {parts[0]}"
        else:
            title = "MiCA" if self.init_lora_weights == "mica" else self.facts.label
        return tokens.titled(self, title)

    @property
    def is_cast_to_float32(self) -> bool:
        """Whether the model is prepared, and its base is one whose other weights the function casts."""
        return self.prepare_model_for_kbit_training and self.base is not None and self.base.is_cast_by_preparation

    @property
    def label_parts(self) -> tuple[str, ...]:
        """The rank and the targets, and the storage of the base."""
        stored = () if self.base is None else (f"base in {self.base.in_bits}",)
        return (self.rank_and_targets, *stored)

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences on the memory of the initialization before the first step, and on the base."""
        return (*before_the_steps(self), *(() if self.base is None else self.base.assumptions()))

    def warnings(self, model: Model, training: Training) -> tuple[str, ...]:
        """Return names that PEFT ignores, and the risks of a quantized base."""
        warnings = LowRank.warnings(self, model, training)
        return warnings if self.base is None else (*warnings, *self.base.warnings(model, training))

    def check(self, model: Model, training: Training) -> None:
        """Refuse to train quantized weights, and what the base refuses."""
        LowRank.check(self, model, training)
        if self.base is not None:
            stored.check(self, self.base, model, training)

    def module_spec(self, path: str, module: Module, model: Model, training: Training) -> ModuleSpec:
        """Return the module as frozen, with A and B added to each target.

        It is quantized if the base's library converts it.
        """
        base = self.base
        if base is None:
            trained, added, copied = layer.adapted(self, path, module, model, training, training.dtype)
            copy_dtype = self.copy_dtype if copied else None
            return new_module_spec(
                dtype=training.dtype, trained=trained, added=added, copied=copied, copy_dtype=copy_dtype
            )
        dtype = self.hidden_dtype(training)
        packed = base.converts(path, module, model)
        adapter_dtype = base.adapter_dtype(dtype) if packed else dtype
        trained, added, copied = layer.adapted(self, path, module, model, training, adapter_dtype)
        return new_module_spec(
            dtype=dtype,
            trained=() if packed and base.keeps_biases_as_buffers else trained,
            quantization=base.stored_at(path, module, model, dtype, training) if packed else None,
            added=added,
            copied=copied,
            copy_dtype=self.copy_dtype,
            runs=model.runs(path),
        )

    def hidden_dtype(self, training: Training) -> DType:
        """Return the dtype of hidden states, which is that of the embeddings and norms."""
        base = self.base
        if base is None:
            return training.dtype
        return base.hidden_dtype(training, is_prepared=self.prepare_model_for_kbit_training)

    def base_quantization(self, training: Training) -> StoredWeight | None:
        """Return how the base model's linear layers are stored, or None if in the model's dtype."""
        return None if self.base is None else self.base.stored(self.hidden_dtype(training))
