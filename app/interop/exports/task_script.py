"""Training scripts of tasks other than causal language modeling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.estimation.request import Request


def check(request: Request) -> None:
    """Refuse what scripts of tasks do not have yet."""
    problems = tuple(_problems(request))
    if problems:
        raise PlanError(*problems)


def _problems(request: Request) -> Iterator[Problem]:
    training, sharding = request.training, request.device.sharding
    if request.method.name == "adapter":
        message = f"scripts of task {request.task} support full and the methods of PEFT: use one of them"
        yield Problem(loc="method.name", msg=message, input=request.method.name)
    if request.task == "image_cls":
        message = "scripts are written for tasks on text, not on images: use another task"
        yield Problem(loc="task", msg=message, input=request.task)
    if sharding != "none":
        message = f"scripts of task {request.task} run on one GPU: use none"
        yield Problem(loc="device.sharding", msg=message, input=sharding)
    if training.sequence_lengths:
        message = f"scripts of task {request.task} have sequences of one length: leave it out"
        yield Problem(loc="training.sequence_lengths", msg=message, input=training.sequence_lengths)


def context(request: Request, model: Model) -> dict[str, Any]:
    """Return a task's template variables: the task, its head's settings in the model's config, and the audio."""
    task = request.model.task
    head: dict[str, Any] = {"num_labels": task.num_labels} if task.trains_head else {}
    if task.problem_type is not None:
        head["problem_type"] = task.problem_type
    return {
        "task": task,
        "head": head,
        "target_length": request.training.target_length or request.training.sequence_length,
        "loss_call": "loss_of(model, next(batches))" if task.embeds else "model(**next(batches)).loss",
        "task_parent": f"{'peft' if request.training.trainer is None else 'trainer'}.py.jinja",
        "keeps_float32": task.name == "seq_2_seq_lm",
        "audio": _audio(request, model) if model.reads_audio else None,
    }


def _audio(request: Request, model: Model) -> dict[str, Any]:
    """Return the shape of the features of a recording, and their dtype."""
    return {
        "mel_bins": int(model.config["num_mel_bins"]),
        "frames": 2 * int(model.config["max_source_positions"]),
        "dtype": request.method.hidden_dtype(request.training),
    }
