"""Checks for whole runs that the libraries refuse, or that are not modeled."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError, Problem
from calculator.inputs.images import Images
from calculator.inputs.stack import DEFAULT_STACK
from calculator.resident.optimizers import OPTIMIZERS
from calculator.run.generation_refusals import problems_of_generation
from calculator.run.sharded_refusals import sharded_problems, virtual_token_problems
from calculator.trainers import TRAINERS, cut_cross_entropy, liger, trainer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.run.request import RunRequest

#: Families whose weights have other names in transformers' files, or whose files have buffers. Source: transformers
#: 5.24, conversion_mapping.py; modeling_apertus.py, whose activation saves two buffers.
OTHER_NAMES = frozenset({"apertus", "baichuan", "exaone", "gpt_neox", "internlm2", "vit"})

#: The libraries whose loaders and file formats are modeled for one release.
_LIBRARIES = ("transformers", "peft", "bitsandbytes")


def check_request(request: RunRequest) -> None:
    """Refuse a run before its model is built.

    Raises:
        PlanError: with every reason.
    """
    parts = (_estimate_problems, sharded_problems, _evaluation_problems, problems_of_generation)
    problems = [problem for part in parts for problem in part(request)]
    if problems:
        raise PlanError(*problems)


def check_model(request: RunRequest, model: Model) -> None:
    """Refuse a run of this model.

    Raises:
        PlanError: with every reason.
    """
    problems = [*_file_problems(request, model), *_merge_problems(request, model), *_output_problems(request, model)]
    if problems:
        raise PlanError(*problems)


def _estimate_problems(request: RunRequest) -> Iterator[Problem]:
    estimate = request.estimate
    if estimate.accounting == "textbook":
        yield Problem(loc="accounting", msg="the phases of a run have no textbook formula: use exact", input="textbook")
    if estimate.model.task.embeds:
        message = f"a run is a Trainer's, which has no loss for {estimate.task}: use the estimate for its step"
        yield Problem(loc="task", msg=message, input=estimate.task)
    if estimate.training.has_images:
        message = "the phases of a run are modeled for text only: leave images out"
        yield Problem(loc="training.images", msg=message, input=asdict(estimate.training.images or Images()))
    if OPTIMIZERS[estimate.training.optimizer].on_one_gpu and request.run.saves and not request.run.save_only_model:
        message = "the file of its states is not modeled: set run.save_only_model true, or run.save_strategy no"
        yield Problem(loc="training.optimizer", msg=message, input=estimate.training.optimizer)
    if estimate.training.optimizer_in_bwd or OPTIMIZERS[estimate.training.optimizer].layerwise:
        message = "the first step makes states in its backward pass, which is not modeled: use the estimate for a step"
        yield Problem(loc="training.optimizer", msg=message, input=estimate.training.optimizer)
    facts = TRAINERS[estimate.training.trainer].facts
    if facts.has_own_files:
        message = f"how {facts.label} loads and saves is not modeled: use the estimate for its step"
        yield Problem(loc="training.trainer", msg=message, input=estimate.training.trainer)
    if estimate.engine == "traced":
        yield Problem(loc="engine", msg="a trace covers one training step only: use auto or calculator", input="traced")
    for name in _LIBRARIES:
        release, modeled = getattr(estimate.stack, name), getattr(DEFAULT_STACK, name)
        if release != modeled:
            message = f"how {name} loads and saves is modeled for {modeled}: leave it out"
            yield Problem(loc=f"stack.{name}", msg=message, input=release)


def _evaluation_problems(request: RunRequest) -> Iterator[Problem]:
    run, training, method = request.run, request.estimate.training, request.estimate.method
    if run.load_best_model_at_end and not run.evaluates:
        message = "transformers compares evaluations for it: set eval_strategy, or use false"
        yield Problem(loc="run.load_best_model_at_end", msg=message, input=True)
    if not run.evaluates:
        return
    yield from _trainer_problems(request)
    if training.use_liger_kernel and (run.gathers_logits or run.generates):
        message = "what is gathered with Liger's kernels is not modeled: use run.prediction_loss_only"
        yield Problem(loc="training.use_liger_kernel", msg=message, input=True)
    if cut_cross_entropy.is_called(training):
        message = "evaluation with Cut Cross-Entropy is not modeled: use false, or run.eval_strategy no"
        yield Problem(loc="training.cut_cross_entropy", msg=message, input=True)
    if "mamba_ssm" in (training.kernels or ()):
        message = "what mamba_ssm allocates in evaluation is not modeled: leave it out, or use run.eval_strategy no"
        yield Problem(loc="training.kernels", msg=message, input=training.kernels)
    if method.virtual_tokens and request.estimate.device.sharding == "zero3":
        message = f"evaluation with {method.facts.label} is not modeled under zero3: use lora, or run.eval_strategy no"
        yield Problem(loc="method.name", msg=message, input=method.name)


def _trainer_problems(request: RunRequest) -> Iterator[Problem]:
    """Yield settings of a trainer's own evaluation that are not modeled."""
    run, training, trl = request.run, request.estimate.training, request.estimate.stack.trl
    trainer = TRAINERS[training.trainer] if training.trainer is not None else None
    if trainer is None or trainer.name == "transformers":
        return
    if trainer.facts.generates:
        yield from _group_problems(request)
        if request.estimate.device.sharding == "zero3":
            message = f"the completions that {trainer.facts.label} generates in it are not modeled under zero3: use no"
            yield Problem(loc="run.eval_strategy", msg=message, input=run.eval_strategy)
    if trainer.facts.is_interval or trainer.facts.has_own_files:
        message = f"the evaluation of {trainer.facts.label} is not modeled: use no"
        yield Problem(loc="run.eval_strategy", msg=message, input=run.eval_strategy)
    elif trl != DEFAULT_STACK.trl:
        message = f"the evaluation of {trainer.facts.label} is modeled for TRL {DEFAULT_STACK.trl}: leave it out"
        yield Problem(loc="stack.trl", msg=message, input=trl)
    if training.flattened:
        name = "packing" if training.packing else "padding_free"
        message = "evaluations of flattened rows are not modeled: use no"
        yield Problem(loc="run.eval_strategy", msg=f"{message}, or {name} false", input=run.eval_strategy)
    if run.gathers_logits and trainer.name != "trl-sft":
        message = f"the logits that {trainer.facts.label} gathers for it are not modeled: use prediction_loss_only"
        yield Problem(loc="run.compute_metrics", msg=message, input=True)
    if run.predict_with_generate:
        message = f"Seq2SeqTrainer generates in evaluation, {trainer.facts.label} does not: use false, or transformers"
        yield Problem(loc="run.predict_with_generate", msg=message, input=True)


def _group_problems(request: RunRequest) -> Iterator[Problem]:
    """Yield a batch that does not consist of whole groups of completions to one prompt. TRL refuses it."""
    run, group = request.run, request.estimate.training.num_generations
    together = run.per_device_eval_batch_size * request.estimate.device.count
    if group is not None and together % group:
        message = (
            f"the {together:,} rows of a batch on all GPUs cannot be divided into groups of {group:,} completions"
            f" (training.num_generations): use a multiple of {group:,}"
        )
        yield Problem(loc="run.per_device_eval_batch_size", msg=message, input=run.per_device_eval_batch_size)


def _file_problems(request: RunRequest, model: Model) -> Iterator[Problem]:
    method, run = request.estimate.method, request.run
    if not run.saves:
        return
    if method.refuses_checkpoint is not None:
        message = f"the size of its checkpoint is not modeled ({method.refuses_checkpoint}): use run.save_strategy no"
        yield Problem(loc="method.name", msg=message, input=method.name)
    yield from virtual_token_problems(request, model)
    reason = whole_model_files(model) if method.facts.trains_base else None
    if reason is not None:
        yield Problem(loc="run.save_strategy", msg=f"{reason}: use no, or lora", input=run.save_strategy)


def _merge_problems(request: RunRequest, model: Model) -> Iterator[Problem]:
    method, run = request.estimate.method, request.run
    if not run.merge_and_unload:
        return
    problem = None
    if not method.facts.mergeable:
        why = "has nothing to merge" if method.facts.mergeable is None else "can't be merged into the weights"
        problem = f"{method.facts.label} {why}: use false"
    elif method.base_quantization(request.estimate.training) is not None:
        problem = (
            "the files of a model that is merged into quantized weights are not modeled (bitsandbytes writes a number"
            " of each layer as text, whose length depends on the weights): use false, and merge into the base in 16"
            " bits, in a process of its own"
        )
    elif reason := whole_model_files(model):
        problem = f"{reason}: use false"
    if problem is not None:
        yield Problem(loc="run.merge_and_unload", msg=problem, input=True)


def _output_problems(request: RunRequest, model: Model) -> Iterator[Problem]:
    stored = request.estimate.method.base_quantization(request.estimate.training)
    if request.run.evaluates and stored is not None and not stored.is_bitsandbytes:
        message = f"evaluation of {request.estimate.method.title} is not modeled: use no"
        yield Problem(loc="run.eval_strategy", msg=message, input=request.run.eval_strategy)
    if request.run.evaluates and liger.computes_logits(model, request.estimate.training):
        message = f"evaluation of {model.model_type} with Liger's loss is not modeled: use false, or eval_strategy no"
        yield Problem(loc="training.use_liger_kernel", msg=message, input=True)
    estimate, gathers = request.estimate, request.run.compute_metrics and not request.run.prediction_loss_only
    trained = trainer_of(estimate.training).model(model, estimate.stack)
    if request.run.evaluates and gathers and (trained.adds_router_loss or model.config.get("output_router_logits")):
        message = "it gathers the routers' logits too, which is not modeled: use false, or prediction_loss_only"
        yield Problem(loc="run.compute_metrics", msg=message, input=True)


def whole_model_files(model: Model) -> str | None:
    """Return why the size of a whole model's files is not modeled, or None if it is."""
    if "experts" in model.kinds:
        return "transformers splits fused experts when it saves a whole model, which is not modeled"
    if model.idle or model.towers or model.model_type in OTHER_NAMES:
        return f"the names that transformers writes for weights of {model.model_type} are not modeled"
    return None
