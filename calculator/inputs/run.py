"""The request's `run` object: what a run does in addition to its training steps."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

from calculator.inputs.settings import setting

Strategy = Literal["no", "steps", "epoch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """The settings of a run, named as in `TrainingArguments`, `Trainer` and PEFT."""

    max_steps: int = setting(
        1000, label="Training steps", help="Optimizer steps of the run.", minimum=1, maximum=10**9, unit="steps"
    )
    num_train_epochs: int = setting(
        3,
        label="Epochs",
        help="Epochs of the run. With save_strategy epoch, each ends with a checkpoint.",
        minimum=1,
        maximum=10**6,
    )
    checkpoint_dtype: Literal["bfloat16", "float16", "float32"] | None = setting(
        None,
        label="Checkpoint precision",
        help="The data type of the weights in the checkpoint's files; null means torch_dtype of the config, or the "
        "precision if the config has none.",
        empty="of the config",
    )
    device_map: Literal["auto"] | None = setting(
        None,
        label="Device map",
        help="The device_map of from_pretrained: auto loads the weights onto the GPU, null into host memory first. A "
        "4-bit model is loaded onto the GPU in either case.",
        empty="none",
    )
    eval_strategy: Strategy = setting("no", label="Evaluation", help="When the Trainer evaluates (eval_strategy).")
    per_device_eval_batch_size: int = setting(
        8, label="Evaluation batch size", help="Rows of the evaluation set per forward pass.", minimum=1, maximum=65_536
    )
    eval_samples: int = setting(
        1000, label="Evaluation samples", help="Rows of the evaluation set.", minimum=1, maximum=10**9, example=1000
    )
    compute_metrics: bool = setting(
        False,
        label="compute_metrics",
        help="Whether the Trainer has compute_metrics. It then gathers the logits of all evaluation samples.",
    )
    prediction_loss_only: bool = setting(
        False, label="Loss only", help="Gather no logits even with compute_metrics (prediction_loss_only)."
    )
    eval_accumulation_steps: int | None = setting(
        None,
        label="Evaluation accumulation steps",
        help="The number of evaluation batches after which gathered logits are moved to host memory; null moves them "
        "after the last batch.",
        minimum=1,
        maximum=10**9,
        example=10,
        empty="all batches",
    )
    predict_with_generate: bool = setting(
        False,
        label="Generation in evaluation",
        help="Generate during evaluation for compute_metrics, as Seq2SeqTrainer does with predict_with_generate. Each "
        "batch is decoded by greedy search.",
    )
    generation_max_length: int | None = setting(
        None,
        label="Generation length",
        help="The largest number of tokens of a prompt with its completion, or of a target (generation_max_length). "
        "The prompt has sequence_length tokens.",
        minimum=3,
        maximum=16_777_216,
        unit="tokens",
        example=2304,
    )
    save_strategy: Strategy = setting("steps", label="Checkpoints", help="When the Trainer saves (save_strategy).")
    save_steps: int = setting(
        500, label="Save every", help="Steps between checkpoints.", minimum=1, maximum=10**9, unit="steps"
    )
    save_total_limit: int | None = setting(
        None,
        label="Checkpoints kept",
        help="The largest number of checkpoints on the disk (save_total_limit). The oldest is deleted after a new one "
        "is saved.",
        minimum=1,
        maximum=10**9,
        example=2,
        empty="all",
    )
    save_only_model: bool = setting(
        False, label="Save the model only", help="Save no optimizer states (save_only_model)."
    )
    state_dict_type: Literal["FULL_STATE_DICT", "SHARDED_STATE_DICT"] = setting(
        "FULL_STATE_DICT",
        label="State dict under FSDP",
        help="How FSDP saves checkpoints (state_dict_type of fsdp_config): the first process writes whole tensors, or "
        "each process writes a file of its shards.",
    )
    load_best_model_at_end: bool = setting(
        False,
        label="Keep the best model",
        help="Keep the best checkpoint in addition to the last (load_best_model_at_end).",
    )
    merge_and_unload: bool = setting(
        False, label="Merge", help="Merge the adapter into the base model after training, and save the whole model."
    )
    host_memory_bytes: int | None = setting(
        None,
        label="Host memory",
        help="The host memory that the run can use. If it is set, the verdict depends on it too.",
        minimum=1,
        maximum=1 << 50,
        unit="bytes",
        example=64 << 30,
        empty="not given",
    )
    disk_bytes: int | None = setting(
        None,
        label="Disk space",
        help="The disk space for checkpoints. If it is set, the verdict depends on it too.",
        minimum=1,
        maximum=1 << 60,
        unit="bytes",
        example=500 << 30,
        empty="not given",
    )

    @property
    def evaluates(self) -> bool:
        """Whether the run evaluates."""
        return self.eval_strategy != "no"

    @property
    def saves(self) -> bool:
        """Whether the run writes checkpoints."""
        return self.save_strategy != "no"

    @property
    def generates(self) -> bool:
        """Whether evaluation generates text. It does so only for compute_metrics."""
        return self.evaluates and self.predict_with_generate and self.compute_metrics and not self.prediction_loss_only

    @property
    def gathers_logits(self) -> bool:
        """Whether evaluation keeps the logits of every sample."""
        return self.compute_metrics and not self.prediction_loss_only and not self.predict_with_generate

    @property
    def checkpoints(self) -> int:
        """The number of checkpoints that the run writes. With `steps`, the last step writes one too."""
        if self.save_strategy == "epoch":
            return self.num_train_epochs
        return ceil(self.max_steps / self.save_steps) if self.saves else 0

    @property
    def checkpoints_on_disk(self) -> int:
        """The largest number of checkpoints on the disk at once: a new one is complete before an old one is deleted.

        Source: transformers 5.24, trainer_utils.py, rotate_checkpoints, which keeps the last and the best.
        """
        return self.checkpoints if self.save_total_limit is None else min(self.checkpoints, self.checkpoints_kept + 1)

    @property
    def checkpoints_kept(self) -> int:
        """The largest number of checkpoints that remain: at least the last one, and the best one if it is kept."""
        if self.save_total_limit is None:
            return self.checkpoints
        return min(self.checkpoints, max(self.save_total_limit, 2 if self.load_best_model_at_end else 1))
