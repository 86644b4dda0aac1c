"""TRL's trainers that generate, GRPOTrainer and RLOOTrainer. Tokens have no values: completions are given to them."""

from __future__ import annotations

import inspect
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from accelerate.utils import is_peft_model
from datasets import Dataset
from transformers import GenerationConfig, GenerationMixin
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.distributed import DistributedBackend
from trl.generation.vllm_generation import VLLMGeneration

from calculator.common.errors import refusal
from calculator.trainers.trl import generated
from validation.reference.build import refusing
from validation.reference.trainers import preference_images
from validation.reference.trainers.arguments import training_arguments
from validation.reference.trainers.run import Run
from validation.reference.trainers.trl_model import adapters_on, loaded, model_and_config, tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.reference.build import ReferenceModel
    from validation.reference.trainers.recipe import Recipe, TrainerName


@dataclass(frozen=True, slots=True)
class Generating:
    """A trainer that generates: its classes, and what its `_generate` returns after tokens and texts.

    `logps` is the place of vLLM's log-probabilities in `fields`; None if the trainer reads none.
    """

    trainer: type
    config: type
    fields: tuple[Any, ...]
    logps: int | None = None


def build(recipe: Recipe, folder: str, device: torch.device) -> Run:
    """Build a trainer whose completions are given.

    Raises:
        PlanError: if transformers, PEFT or TRL refuses the request.
    """
    kind, training = KINDS[recipe.trainer], recipe.request.training
    reference, config = model_and_config(recipe, device)
    reference.model.generation_config = GenerationConfig()
    compared: list[ReferenceModel] = []

    def load(*_: Any, **__: Any) -> Any:
        compared.append(loaded(recipe, device))
        return compared[0].model

    rows = training.micro_batch_size * training.gradient_accumulation_steps * recipe.request.device.count
    with ExitStack() as stack:
        stack.enter_context(refusing("training"))
        stack.enter_context(adapters_on(device, kind.trainer.__module__))
        stack.enter_context(mock.patch(f"{kind.trainer.__module__}.create_model_from_path", load))
        stack.enter_context(mock.patch(f"{kind.trainer.__module__}.VLLMGeneration"))
        trainer = kind.trainer(
            model=reference.model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=kind.config(**training_arguments(recipe, folder), **_own_arguments(recipe, rows)),
            train_dataset=Dataset.from_list([_prompt(recipe)] * rows * recipe.steps),
            processing_class=_processing_class(recipe, reference.model.config),
            peft_config=config,
        )
    trainer._generate = _with_completions(recipe, kind, trainer)
    trainer._prepare_inputs = _without_shuffle(trainer._prepare_inputs)
    return Run(trainer, reference.wrapped_as(trainer.model), compared[0] if compared else None)


def _processing_class(recipe: Recipe, config: Any) -> Any:
    has_images = recipe.request.training.has_images
    return preference_images.GeneratingProcessor(recipe, config) if has_images else tokenizer()


def _prompt(recipe: Recipe) -> dict[str, Any]:
    """Return a row of the dataset, whose values are not read: TRL asks for messages where there are images."""
    images = recipe.request.training.images
    if images is None or not recipe.request.training.has_images:
        return {"prompt": "a"}
    return {"prompt": [{"role": "user", "content": "a"}], "images": [*range(images.images_per_sequence)]}


def _own_arguments(recipe: Recipe, rows: int) -> dict[str, Any]:
    """Return the arguments of these trainers.

    TRL needs a whole number of groups in the `rows` of a step on all GPUs.
    """
    generations = recipe.num_generations or generated.generations(rows)
    if generations < 2 or rows % generations:
        reason = f"the {rows} rows of a step are no whole groups of at least 2 completions to one prompt"
        raise refusal("training.num_generations", reason, recipe.num_generations)
    given = {"loss_type": recipe.loss_type, "beta": recipe.beta, "use_vllm": recipe.use_vllm}
    return {
        "num_generations": generations,
        "max_completion_length": _longest(recipe),
        **{name: value for name, value in given.items() if value is not None},
    }


def _longest(recipe: Recipe) -> int:
    """Return the tokens of the longest completion: all but one of a sequence, unless the request has fewer.

    Without padding, completions are equally long.
    """
    training = recipe.request.training
    longest = recipe.max_completion_length or training.sequence_length - 1
    if recipe.completion_tokens is None or training.padding:
        return longest
    return min(longest, -(-recipe.completion_tokens // training.micro_batch_size))


def _completions(recipe: Recipe) -> list[int]:
    """Return the tokens of each completion of a micro-batch.

    Raises:
        PlanError: if none is the longest, or none is padded where the request has padding.
    """
    rows, longest = recipe.request.training.micro_batch_size, _longest(recipe)
    total = recipe.completion_tokens or rows * longest
    counts = [(total + row) // rows for row in range(rows)]
    if max(counts) != longest or (min(counts) < longest) != recipe.request.training.padding:
        reason = (
            f"the completions of {rows} rows, as equal as they can be, have {counts} tokens: one must have {longest}"
        )
        raise refusal(
            "training.completion_tokens", f"{reason}, and another fewer with padding", recipe.completion_tokens
        )
    return counts


class _ReadError(Exception):
    """Raised where a trainer reads generated tokens, which have no values."""


class _Tokens:
    """The output of `generate`, in place of its tokens."""

    def __getitem__(self, index: Any) -> Any:
        raise _ReadError


def _generates(trainer: Any, prompts: list[list[int]], longest: int, image_inputs: dict[str, Any]) -> None:
    """Run a trainer's own `generate` until its longest completion is whole.

    `image_inputs` is what the processor returns in addition to tokens.
    """
    module = "transformers.generation.utils"

    def stop(_: Any, unfinished: torch.Tensor, tokens: torch.Tensor, length: int) -> bool:
        return length >= max(map(len, prompts)) + longest

    # Under FSDP2, transformers' Trainer replaces the method of the object (register_fsdp_forward_method).
    owner: Any = trainer.model if "generate" in vars(trainer.model) else GenerationMixin
    generate = owner.generate

    def generated(*args: Any, **kwargs: Any) -> _Tokens:
        generate(*args, **kwargs)
        return _Tokens()

    with mock.patch(f"{module}.StopCheck.__call__", stop), mock.patch.object(owner, "generate", generated):
        names = inspect.signature(trainer._generate_single_turn).parameters
        others = {"images": None, "multimodal_fields": image_inputs, "num_generations": trainer.num_generations}
        with suppress(_ReadError):
            trainer._generate_single_turn(prompts, **{name: others[name] for name in names if name in others})


def _gathers_for_vllm(trainer: Any) -> None:
    """Gather the weights that vLLM reads, as a process does that sends none. Adapters are not merged into them."""
    engine = object.__new__(VLLMGeneration)
    engine.model, engine.accelerator = trainer.model, trainer.accelerator
    engine._dist = DistributedBackend(trainer.accelerator)
    with ExitStack() as stack:
        if is_peft_model(trainer.model):
            for name in ("merge_adapter", "unmerge_adapter"):
                stack.enter_context(mock.patch.object(trainer.model.base_model, name))
        for _ in engine._iter_named_params():
            pass


def _with_completions(recipe: Recipe, kind: Generating, trainer: Any) -> Any:
    """Return a replacement of `_generate` that generates, and then returns completions with the labeled tokens.

    The prompts of a step are of one length, but for those of the longest completions where there is padding: these are
    one token shorter, so that every row has padding.
    """
    counts, longest = _completions(recipe), _longest(recipe)
    sharding = recipe.request.device.sharding
    prompt, has_images = recipe.request.training.sequence_length - longest, recipe.request.training.has_images
    shortest = preference_images.prompt_length(recipe.request) if has_images else 1

    def generate(prompts: list[Any]) -> tuple[Any, ...]:
        rows = [counts[row % len(counts)] for row in range(len(prompts))]
        shorter = [recipe.request.training.padding and prompt > shortest and count == longest for count in rows]
        given = [[3] * (prompt - tokens) for tokens in shorter]
        image_inputs: dict[str, Any] = {}
        if has_images:
            given, image_inputs = trainer.processing_class.prompts([*map(len, given)])
        if not recipe.use_vllm:
            _generates(trainer, given, longest, image_inputs)
        elif sharding == "zero3":
            _gathers_for_vllm(trainer)
        fields = list(kind.fields)
        if recipe.use_vllm and kind.logps is not None:
            fields[kind.logps] = [[0.0] * count for count in rows]
        return (given, [[3] * count for count in rows], *_filled(tuple(fields), len(prompts)))

    return generate


def _without_shuffle(prepare: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`_prepare_inputs` without a shuffle, so that each micro-batch has the tokens that a request says."""

    def in_order(batch: Any) -> Any:
        with mock.patch("torch.randperm", torch.arange):
            return prepare(batch)

    return in_order


def _filled(fields: tuple[Any, ...], rows: int) -> list[Any]:
    """Return the fields of a batch: a text is one of each completion."""
    return [[field] * rows if isinstance(field, str) else field for field in fields]


#: The trainers that generate.
KINDS: dict[TrainerName, Generating] = {
    "trl-grpo": Generating(GRPOTrainer, GRPOConfig, (None, "a", None, {}, None, None), logps=2),
    "trl-rloo": Generating(RLOOTrainer, RLOOConfig, ("a",)),
}
