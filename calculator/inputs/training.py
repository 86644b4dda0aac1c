"""How a run trains and on what device: the request's `training` and `device` objects."""

from dataclasses import dataclass
from typing import Literal

from calculator.common.dtype import DType
from calculator.common.names import OptimizerName
from calculator.inputs.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One training step's settings, named as in `TrainingArguments`."""

    micro_batch_size: int = setting(
        1, label="Micro-batch size", help="Sequences per step and device (B).", minimum=1, maximum=65_536, example=1
    )
    sequence_length: int = setting(
        2048,
        label="Sequence length",
        help="Tokens per sequence (S); virtual tokens of prompt tuning come on top.",
        minimum=2,
        maximum=16_777_216,
        unit="tokens",
        example=2048,
    )
    gradient_accumulation_steps: int = setting(
        1,
        label="Gradient accumulation steps",
        help="Micro-batches per optimizer step; above 1, gradients stay alive during the next forward.",
        minimum=1,
        maximum=1_000_000,
    )
    dtype: Literal["bfloat16", "float16", "float32"] = setting(
        "bfloat16", label="Precision", help="The data type of the base weights and of the computation."
    )
    autocast: Literal["bfloat16", "float16"] | None = setting(
        None,
        label="Autocast",
        help="Mixed precision (AMP): weights stay in their dtype, products run in this one. It keeps a copy of every "
        "trained float32 weight for the forward pass, and copies everything else at each use.",
    )
    adapter_dtype: Literal["float32", "model"] = setting(
        "float32",
        label="Adapter precision",
        help="The data type of added parameters: float32 (PEFT's autocast_adapter_dtype=True), or what the layer "
        "beside them computes in, which is float32 where a prepared model is not in 4 bits.",
    )
    gradient_checkpointing: bool = setting(
        False,
        label="Gradient checkpointing",
        help="Keep only each decoder layer's input and recompute the layer in the backward pass.",
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = setting(
        "sdpa", label="Attention", help="The attention implementation, as attn_implementation."
    )
    padding: bool = setting(
        False, label="Padding", help="Whether an attention mask with padding is passed to the model."
    )
    optimizer: OptimizerName = setting(
        "adamw_torch", label="Optimizer", help="The optimizer, named as TrainingArguments.optim names it."
    )
    max_grad_norm: float | None = setting(
        1.0,
        label="Gradient clipping",
        help="The largest norm of all gradients together; null or 0 switches clipping off.",
        minimum=0,
        maximum=1e9,
    )

    @property
    def added_dtype(self) -> DType:
        """The dtype of parameters that a method adds."""
        return self.dtype if self.adapter_dtype == "model" else "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The card or cards that a plan should fit."""

    gpu: str | None = setting(
        None, label="GPU", help="A card of the catalogue; asks for a verdict.", example="rtx-4090"
    )
    memory_bytes: int | None = setting(
        None,
        label="Memory",
        help="What the card offers a process, instead of a named GPU.",
        minimum=1,
        maximum=1 << 50,
        unit="bytes",
        example=24 << 30,
    )
    count: int = setting(1, label="Number of GPUs", help="Cards of this kind; one so far.", minimum=1, maximum=65_536)
    sharding: Literal["none", "ddp", "zero1", "zero2", "zero3", "fsdp"] = setting(
        "none", label="Sharding", help="How a run over several cards divides its state; none so far."
    )
