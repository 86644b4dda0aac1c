"""The request's `training` object, and values that derive from its fields."""

from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import repeat
from math import ceil
from operator import attrgetter
from typing import Literal

from calculator.common.dtype import DType
from calculator.inputs.sharding import DEFAULT_DEEPSPEED, ZeroOptimization
from calculator.inputs.training_settings import TrainingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Colocated:
    """An inference engine on the GPU that also trains.

    Attributes:
        share: The fraction of the GPU's memory that it reserves.
        sleeps: Whether it frees that memory while the trainer trains.
    """

    share: float
    sleeps: bool

    def bytes_of(self, total_bytes: int) -> int:
        """Return the bytes that the engine reserves of a GPU. Source: vllm/v1/worker/utils.py, request_memory."""
        return ceil(total_bytes * self.share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training(TrainingSettings):
    """The settings of one training step, and values that derive from them."""

    @property
    def micro_batches(self) -> int:
        """The number of micro-batches of a step."""
        return self.gradient_accumulation_steps

    @property
    def is_highest(self) -> bool:
        """Whether this training gives the high end of an answer that is an interval."""
        return True

    @property
    def low_end(self) -> "Training":
        """The same training for the low end of an answer that is an interval."""
        return LowestTraining(**{field.name: getattr(self, field.name) for field in fields(self)})

    @property
    def has_images(self) -> bool:
        """Whether sequences contain images."""
        return self.images is not None and self.images.images_per_sequence > 0

    @property
    def image_count(self) -> int:
        """The number of images of a micro-batch. Images run one by one, so a symbolic batch size gets a guard."""
        return 0 if self.images is None else int(self.micro_batch_size) * self.images.images_per_sequence

    @property
    def is_first_micro_batch(self) -> bool:
        """Whether this is the training of the first micro-batch of a step."""
        return self.gradient_accumulation_steps == 1

    @property
    def passes_mask(self) -> bool:
        """Whether the model gets an attention mask. A trainer always passes the mask of its collator."""
        return self.padding or (self.trainer is not None and not self.flattened)

    @property
    def flattened(self) -> bool:
        """Whether the sequences of a micro-batch are one row, in which each attends only to itself."""
        return self.padding_free or (self.packing and self.packing_strategy != "wrapped")

    @property
    def samples(self) -> int:
        """The number of samples in a flattened micro-batch. A single packed row has more than one sample."""
        if self.packing and self.micro_batch_size == 1 and self.packing_strategy != "wrapped":
            return 2
        return self.micro_batch_size

    @property
    def colocated(self) -> Colocated | None:
        """The vLLM engine on the trainer's GPU. None if there is none."""
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
        return (self.deepspeed or DEFAULT_DEEPSPEED).zero

    @property
    def zero3_init_flag(self) -> bool:
        """Whether transformers activates ZeRO-3 before it builds the model."""
        return (self.deepspeed or DEFAULT_DEEPSPEED).builds_partitioned(self.trainer)

    @property
    def first_micro_batch(self) -> "Training":
        """The training of a step that ends after the first micro-batch, whose gradients stay for the later ones."""
        if self.gradient_accumulation_steps == 1:
            return self
        ddp = replace(self.ddp, gradient_as_bucket_view=False) if self.ddp is not None else None
        values = {field.name: getattr(self, field.name) for field in fields(Training)}
        counts = {
            "batches_of_step": self.gradient_accumulation_steps,
            "sample_count": self.samples if self.flattened else 0,
        }
        return FirstMicroBatch(**{**values, "gradient_accumulation_steps": 1, "ddp": ddp, **counts})

    def by_sequences(self, count: int) -> "Training":
        """Return the training with one row for each of the `count` sequences of a sample."""
        return self if count == 1 else _changed(self, type(self), {"micro_batch_size": count * self.micro_batch_size})

    def one_row(self, tokens: int, samples: int) -> "Training":
        """Return the training whose micro-batch is one row with the tokens of some samples."""
        values = {field.name: getattr(self, field.name) for field in fields(Training)}
        sizes = {"micro_batch_size": 1, "sequence_length": tokens, "padding": False}
        return DrawnRow(**{**values, **sizes, "sample_count": samples})

    def generating(
        self,
        prompt: int,
        autocast: Literal["bfloat16", "float16"] | None,
        shortest: int = 1,
        *,
        drops_mask: bool = True,
    ) -> "Training":
        """Return the training of a trainer's model while it generates from prompts of that length.

        `autocast` is the data type of the context in which it generates, or None. Prompts of the `shortest` length
        have no padding. `drops_mask`: whether `generate` drops a mask that is all ones.
        """
        changes = {"gradient_checkpointing": False, "autocast": autocast, "sequence_length": prompt}
        kind = GeneratingTraining if drops_mask else Training
        return _changed(self, kind, {**changes, "padding": self.padding and prompt > shortest})

    @property
    def without_checkpointing(self) -> "Training":
        """The training of a model whose layers are not checkpointed."""
        return _changed(self, type(self), {"gradient_checkpointing": False}) if self.gradient_checkpointing else self

    @property
    def added_dtype(self) -> DType:
        """The data type of the parameters that a method adds."""
        return self.dtype if self.adapter_dtype == "model" else "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstMicroBatch(Training):
    """The training of the first of several micro-batches."""

    #: The number of micro-batches of the step, and of samples in the micro-batch if it is flattened (0 otherwise).
    batches_of_step: int
    sample_count: int

    @property
    def samples(self) -> int:
        """The number of samples in a flattened micro-batch."""
        return self.sample_count

    @property
    def micro_batches(self) -> int:
        """The number of micro-batches of a step."""
        return self.batches_of_step


@dataclass(frozen=True, slots=True, kw_only=True)
class LowestTraining(Training):
    """The training for the low end of an answer that is an interval."""

    @property
    def is_highest(self) -> bool:
        """Whether this training gives the high end of an answer that is an interval."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnRow(Training):
    """The training of a flattened micro-batch, drawn from samples of many lengths."""

    #: The number of samples in the row.
    sample_count: int

    @property
    def samples(self) -> int:
        """The number of samples in a flattened micro-batch."""
        return self.sample_count


def _changed(training: Training, kind: type[Training], changes: dict[str, object]) -> Training:
    """Return a copy of another kind with other settings. dataclasses.replace takes several times as long."""
    changed = object.__new__(kind)
    names, values = _shared(kind, type(training))  # type: ignore[arg-type]  # a class is hashable
    any(map(object.__setattr__, repeat(changed), names, values(training)))
    any(map(object.__setattr__, repeat(changed), changes, changes.values()))
    return changed


@cache
def _shared(kind: type[Training], other: type[Training]) -> tuple[list[str], "attrgetter[tuple[object, ...]]"]:
    """Return the names of the settings that two kinds of training have, and what reads them."""
    other_names = {field.name for field in fields(other)}
    names = [field.name for field in fields(kind) if field.name in other_names]
    return names, attrgetter(*names)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratingTraining(Training):
    """The training of a model while it generates."""

    @property
    def passes_mask(self) -> bool:
        """Whether the model gets an attention mask. `generate` drops one that is all ones."""
        return self.padding
