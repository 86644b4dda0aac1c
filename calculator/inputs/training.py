"""The request's `training` object, and what follows from its fields."""

from dataclasses import dataclass, fields, replace
from math import ceil
from typing import Literal

from calculator.common.dtype import DType
from calculator.inputs.sharding import DeepSpeedConfig, ZeroOptimization
from calculator.inputs.training_settings import TrainingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Colocated:
    """An inference engine on the GPU of a training.

    Attributes:
        share: The part of the GPU's memory that it takes.
        sleeps: Whether it gives that back while the trainer trains.
    """

    share: float
    sleeps: bool

    def bytes_of(self, total_bytes: int) -> int:
        """What it takes of a GPU. Source: vllm/v1/worker/utils.py, request_memory."""
        return ceil(total_bytes * self.share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training(TrainingSettings):
    """The settings of one training step, and what follows from them."""

    @property
    def micro_batches(self) -> int:
        """The micro-batches of a step."""
        return self.gradient_accumulation_steps

    @property
    def is_highest(self) -> bool:
        """Whether this training gives the high end of an answer that is an interval."""
        return True

    @property
    def lowest(self) -> "Training":
        """The same training for the low end."""
        return LowestTraining(**{field.name: getattr(self, field.name) for field in fields(self)})

    @property
    def has_images(self) -> bool:
        """Whether sequences contain images."""
        return self.images is not None and self.images.images_per_sequence > 0

    @property
    def image_count(self) -> int:
        """The images of a micro-batch. They are run one by one, so a symbolic batch size is guarded."""
        return 0 if self.images is None else int(self.micro_batch_size) * self.images.images_per_sequence

    @property
    def is_first_micro_batch(self) -> bool:
        """Whether it is the training of a step's first micro-batch."""
        return self.gradient_accumulation_steps == 1

    @property
    def passes_mask(self) -> bool:
        """Whether the model gets an attention mask. A trainer passes its collator's, padding or not."""
        return self.padding or (self.trainer is not None and not self.flattened)

    @property
    def flattened(self) -> bool:
        """Whether the sequences of a micro-batch are one row, in which each is kept apart from the others."""
        return self.padding_free or (self.packing and self.packing_strategy != "wrapped")

    @property
    def samples(self) -> int:
        """The samples in a flattened micro-batch. A packed row has more than one if it is the only row."""
        if self.packing and self.micro_batch_size == 1 and self.packing_strategy != "wrapped":
            return 2
        return self.micro_batch_size

    @property
    def colocated(self) -> Colocated | None:
        """The share that vLLM takes of the trainer's GPU; None if it takes none."""
        if not self.use_vllm or self.vllm_mode == "server":
            return None
        share = 0.3 if self.vllm_gpu_memory_utilization is None else self.vllm_gpu_memory_utilization
        return Colocated(share=share, sleeps=self.vllm_enable_sleep_mode)

    @property
    def use_reentrant(self) -> bool:
        """Whether checkpointing is re-entrant."""
        return self.gradient_checkpointing_kwargs is not None and self.gradient_checkpointing_kwargs.use_reentrant

    @property
    def has_bucket_views(self) -> bool:
        """Whether gradients are views of DDP's buckets."""
        return self.ddp is not None and self.ddp.gradient_as_bucket_view

    @property
    def zero(self) -> ZeroOptimization:
        """The settings of ZeRO, with DeepSpeed's defaults."""
        return (self.deepspeed or DeepSpeedConfig()).zero

    @property
    def zero3_init_flag(self) -> bool:
        """Whether transformers knows of ZeRO-3 before it builds the model."""
        return (self.deepspeed or DeepSpeedConfig()).builds_partitioned(self.trainer)

    @property
    def first_micro_batch(self) -> "Training":
        """The training of a step that ends after its first micro-batch, which leaves gradients for the later ones."""
        if self.gradient_accumulation_steps == 1:
            return self
        ddp = replace(self.ddp, gradient_as_bucket_view=False) if self.ddp is not None else None
        values = {field.name: getattr(self, field.name) for field in fields(Training)}
        of = {"of_step": self.gradient_accumulation_steps, "of_samples": self.samples if self.flattened else 0}
        return FirstMicroBatch(**{**values, "gradient_accumulation_steps": 1, "ddp": ddp, **of})

    def by_sequences(self, count: int) -> "Training":
        """The same training with a row for each of the `count` sequences of a row."""
        return self if count == 1 else replace(self, micro_batch_size=count * self.micro_batch_size)

    def of_row(self, tokens: int, samples: int) -> "Training":
        """The training whose micro-batches are one row of some samples' tokens."""
        values = {field.name: getattr(self, field.name) for field in fields(Training)}
        sizes = {"micro_batch_size": 1, "sequence_length": tokens, "padding": False}
        return DrawnRow(**{**values, **sizes, "of_samples": samples})

    def generating(self, prompt: int, autocast: Literal["bfloat16", "float16"] | None) -> "Training":
        """The training of a trainer's model while it generates from prompts of that length, within autocast or not.

        No prompt of one token is shorter than another: they have no padding.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changes = {"gradient_checkpointing": False, "autocast": autocast, "sequence_length": prompt}
        changes["padding"] = self.padding and prompt > 1
        return GeneratingTraining(**{**values, **changes})

    @property
    def added_dtype(self) -> DType:
        """The data type of the parameters that a method adds."""
        return self.dtype if self.adapter_dtype == "model" else "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstMicroBatch(Training):
    """The training of the first of several micro-batches."""

    #: The micro-batches of its step, and the samples of the micro-batch if they are flattened.
    of_step: int
    of_samples: int

    @property
    def samples(self) -> int:
        """The samples in a flattened micro-batch."""
        return self.of_samples

    @property
    def micro_batches(self) -> int:
        """The micro-batches of a step."""
        return self.of_step


@dataclass(frozen=True, slots=True, kw_only=True)
class LowestTraining(Training):
    """The training of the low end, where the answer is an interval."""

    @property
    def is_highest(self) -> bool:
        """Whether this training gives the high end of an answer that is an interval."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnRow(Training):
    """The training of a flattened micro-batch that is drawn from samples of many lengths."""

    #: The samples of the row.
    of_samples: int

    @property
    def samples(self) -> int:
        """The samples in a flattened micro-batch."""
        return self.of_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratingTraining(Training):
    """The training of a model while it generates."""

    @property
    def passes_mask(self) -> bool:
        """Whether the model gets an attention mask. `generate` drops one that is all ones."""
        return self.padding
