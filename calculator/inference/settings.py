"""The request's `serving` object: how a model is served."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from calculator.inputs.settings import setting
from calculator.inputs.training import Training

if TYPE_CHECKING:
    from calculator.common.dtype import DType


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The settings of greedy `generate` on a batch of prompts, named as in `transformers` and `bitsandbytes`."""

    batch_size: int = setting(1, label="Batch size", help="Prompts per batch.", minimum=1, maximum=65_536, example=1)
    context_length: int = setting(
        2048,
        label="Context length",
        help="Tokens of each prompt, without virtual tokens.",
        minimum=2,
        maximum=16_777_216,
        unit="tokens",
        example=2048,
    )
    max_new_tokens: int = setting(
        256,
        label="New tokens",
        help="Tokens generated after each prompt; the prompt's own pass generates the first.",
        minimum=1,
        maximum=16_777_216,
        unit="tokens",
        example=256,
    )
    tasks: int = setting(
        1,
        label="Tasks",
        help="Adapters on the GPU at the same time, or whole models if they are merged or fully fine-tuned.",
        minimum=1,
        maximum=100_000,
        example=1,
    )
    dtype: Literal["bfloat16", "float16", "float32"] = setting(
        "bfloat16", label="Precision", help="The data type of the computation, and of weights that are not quantized."
    )
    storage: Literal["as_trained", "dtype", "nf4", "fp4"] = setting(
        "as_trained",
        label="Weights' storage",
        help="The storage of the base weights: as in training (as_trained: 4 bits for QLoRA), in the precision above "
        "(dtype), or in 4 bits for any method.",
    )
    bnb_4bit_use_double_quant: bool = setting(
        True,
        label="Double quantization of the storage",
        help="Quantize the block constants too. Only if the storage is nf4 or fp4.",
    )
    merged: bool = setting(
        False, label="Merged", help="Whether the added parameters are merged into the weights before serving."
    )
    adapter_dtype: Literal["float32", "model"] = setting(
        "float32",
        label="Adapter precision",
        help="The data type of added parameters; PEFT's autocast_adapter_dtype=True makes them float32.",
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = setting(
        "sdpa", label="Attention", help="The attention implementation, as attn_implementation."
    )
    padding: bool = setting(False, label="Padding", help="Whether prompts are padded, so that a mask is passed.")

    @property
    def training(self) -> Training:
        """The same sizes, dtypes and kernels as training settings, which the step reads."""
        return Training(
            micro_batch_size=self.batch_size,
            sequence_length=self.context_length,
            dtype=self.dtype,
            adapter_dtype=self.adapter_dtype,
            attention=self.attention,
            padding=self.padding,
        )

    @property
    def one_task(self) -> Serving:
        """The same settings for one task."""
        return replace(self, tasks=1)

    @property
    def added_dtype(self) -> DType:
        """The dtype of parameters that a method adds."""
        return self.training.added_dtype
