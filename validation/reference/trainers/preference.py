"""TRL's trainers of preferences: DPOTrainer, KTOTrainer, RewardTrainer and ORPOTrainer."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

from datasets import Dataset
from transformers import AutoModelForSequenceClassification
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from validation.reference.build import refusing
from validation.reference.trainers import preference_images
from validation.reference.trainers.arguments import training_arguments
from validation.reference.trainers.batches import labeled_tokens
from validation.reference.trainers.run import Run
from validation.reference.trainers.trl_model import adapters_on, loaded, model_and_config, tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from validation.reference.trainers.recipe import Recipe, TrainerName

    Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Preference:
    """A trainer of preferences: its classes, the rows of its dataset, and what it needs in addition to the policy.

    `prepared` replaces functions of its module that prepare the dataset, which has tokens already.
    """

    trainer: type
    config: type
    rows: Callable[[Recipe], list[Row]]
    rows_with_images: Callable[[Recipe], list[Row]] | None = None
    has_reference: bool = False
    auto_model: type | None = None
    task_type: str = "CAUSAL_LM"
    prepared: dict[str, Callable[..., Any]] = field(default_factory=dict)


def build(recipe: Recipe, folder: str, device: torch.device) -> Run:
    """Build a trainer of preferences; its dataset has tokens already.

    Raises:
        PlanError: if transformers, PEFT or TRL refuses the request.
    """
    kind = KINDS[recipe.trainer]
    reference, config = model_and_config(recipe, device, kind.auto_model, kind.task_type)
    frozen = None
    if kind.has_reference and config is None and reference.root == "" and not recipe.precompute_ref_log_probs:
        frozen = loaded(recipe, device)
    with ExitStack() as stack:
        stack.enter_context(refusing("training"))
        stack.enter_context(adapters_on(device, kind.trainer.__module__))
        if kind.has_reference and recipe.precompute_ref_log_probs:  # under FSDP, TRL loads it and frees it again
            build_reference = lambda *_, **__: loaded(recipe, device).model  # noqa: E731
            stack.enter_context(mock.patch(f"{kind.trainer.__module__}.create_model_from_path", build_reference))
        for name, replacement in kind.prepared.items():
            stack.enter_context(mock.patch(f"{kind.trainer.__module__}.{name}", replacement))
        trainer = kind.trainer(
            model=reference.model,
            args=kind.config(**training_arguments(recipe, folder), **_own_arguments(recipe, kind)),
            train_dataset=Dataset.from_list(_rows(recipe, kind) * recipe.batches),
            processing_class=_processing_class(recipe, reference.model.config),
            peft_config=config,
            **({"ref_model": frozen.model} if frozen else {}),
        )
    if recipe.request.training.padding:
        trainer.data_collator = _Padded(trainer.data_collator)
    return Run(trainer, reference.wrapped_as(trainer.model), frozen)


@dataclass(frozen=True, slots=True)
class _Padded:
    """A trainer's collator. The first row ends with padding; the number of its labels is the recipe's."""

    collator: Any

    def __call__(self, examples: list[Row]) -> dict[str, torch.Tensor]:
        """Return the batch of these examples."""
        batch: dict[str, torch.Tensor] = self.collator(examples)
        for name, tensor in batch.items():
            if name.endswith("attention_mask") and name != "pixel_attention_mask":
                tensor[0, -1] = 0
        return batch


def _rows(recipe: Recipe, kind: Preference) -> list[Row]:
    if recipe.request.training.has_images:
        assert kind.rows_with_images is not None
        return kind.rows_with_images(recipe)
    return kind.rows(recipe)


def _processing_class(recipe: Recipe, config: Any) -> Any:
    has_images = recipe.request.training.has_images
    return preference_images.Processor(recipe, config) if has_images else tokenizer()


def _own_arguments(recipe: Recipe, kind: Preference) -> dict[str, Any]:
    arguments: dict[str, Any] = {"max_length": recipe.request.training.sequence_length}
    if recipe.loss_type:
        arguments["loss_type"] = recipe.loss_type
    if recipe.activation_offloading:
        arguments["activation_offloading"] = True
    if kind.has_reference:
        arguments["precompute_ref_log_probs"] = recipe.precompute_ref_log_probs
    return arguments


def _pairs(recipe: Recipe) -> list[Row]:
    """Return pairs of completions to one prompt. A prompt has one token, or more if `completion_tokens` is set."""
    length = recipe.request.training.sequence_length
    precomputed = {"ref_chosen_logps": -1.0, "ref_rejected_logps": -1.0} if recipe.precompute_ref_log_probs else {}
    counts = labeled_tokens(recipe, sequences=2)
    return [{**_row(length, count, ("chosen_ids", "rejected_ids")), **precomputed} for count in counts]


def _texts(recipe: Recipe) -> list[Row]:
    """Return pairs as text. ORPOTrainer tokenizes them, and adds a token to the prompt and to each completion."""
    length = recipe.request.training.sequence_length
    return [
        {"prompt": " ".join("a" * (length - count - 1)), "chosen": answer, "rejected": answer}
        for count in labeled_tokens(recipe, sequences=2)
        for answer in (" a" * (count - 1),)
    ]


def _unpaired(recipe: Recipe) -> list[Row]:
    """Return completions, each desirable or not, and the completions of other prompts that estimate the KL divergence.

    The loss apo_zero_unpaired needs no such estimate, and TRL prepares nothing for it.
    """
    length = recipe.request.training.sequence_length
    estimated = recipe.loss_type != "apo_zero_unpaired"
    names = ("completion_ids", "KL_completion_ids") if estimated else ("completion_ids",)
    references = ("ref_logps", "ref_KL_logps") if estimated else ("ref_logps",)
    precomputed = dict.fromkeys(references, -1.0) if recipe.precompute_ref_log_probs else {}
    return [
        {**_row(length, count, names), **precomputed, "label": bool(number % 2)}
        for number, count in enumerate(labeled_tokens(recipe))
    ]


def _row(length: int, count: int, names: tuple[str, ...]) -> Row:
    return {"prompt_ids": [3] * (length - count), **{name: [3] * count for name in names}}


def _whole(recipe: Recipe) -> list[Row]:
    """Return pairs of whole sequences, for a reward model."""
    training = recipe.request.training
    sequence = [3] * training.sequence_length
    return [{"chosen_ids": sequence, "rejected_ids": sequence} for _ in range(training.micro_batch_size)]


def _tokenized(_: Any, dataset: Dataset, *__: Any) -> Dataset:
    """Return the dataset unchanged: it already has tokens, and log-probabilities if they are precomputed."""
    return dataset


#: The trainers of preferences.
KINDS: dict[TrainerName, Preference] = {
    "trl-dpo": Preference(
        DPOTrainer,
        DPOConfig,
        _pairs,
        preference_images.pairs,
        has_reference=True,
        prepared={
            "DPOTrainer._prepare_dataset": _tokenized,
            "DPOTrainer._precompute_ref_logps": _tokenized,
            "hash_module": lambda _: "",
        },
    ),
    "trl-kto": Preference(
        KTOTrainer,
        KTOConfig,
        _unpaired,
        preference_images.unpaired,
        has_reference=True,
        prepared={
            "KTOTrainer._prepare_dataset": _tokenized,
            "KTOTrainer._precompute_ref_logps": _tokenized,
            "hash_module": lambda _: "",
        },
    ),
    "trl-reward": Preference(
        RewardTrainer,
        RewardConfig,
        _whole,
        auto_model=AutoModelForSequenceClassification,
        task_type="SEQ_CLS",
        prepared={"RewardTrainer._prepare_dataset": _tokenized},
    ),
    "trl-orpo": Preference(ORPOTrainer, ORPOConfig, _texts),
}
