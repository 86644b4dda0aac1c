"""The models of encoders that classify sequences."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.architecture.module import linear
from calculator.families.token_heads import with_head_dropout

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.architecture.task import Task


def with_classifier(model: Model, base: str, head: tuple[Module, ...]) -> Model:
    """Return the model with a classifier in place of all modules outside its base model. Nothing is tied."""
    parts = tuple(part for part in model.parts if part.name.startswith(base))
    return replace(model, parts=(*parts, *head), head=head[-1].name, tied={})


def with_token_head(model: Model, base: str, task: Task, dropout: float, answering: float = 0.0) -> Model:
    """Return the model that classifies tokens or finds answers. It has no pooler, and the head has its own dropout."""
    hidden = model.config["hidden_size"]
    if task.name == "question_ans":
        head, probability = linear("qa_outputs", hidden, 2, bias=True), answering
    else:
        head, probability = linear("classifier", hidden, named(task.num_labels, "num_labels"), bias=True), dropout
    return with_head_dropout(with_classifier(model, base, (head,)), probability)


def base_model(model: Model, _: Task, pooler: tuple[Module, ...] = ()) -> Model:
    """Return the model that AutoModel builds from the same file, without the head.

    A pooler runs, but its output is not used. It therefore gets no gradient.
    """
    base = f"{model.embedding.name.partition('.')[0]}."
    parts = (*(part for part in model.parts if part.name.startswith(base)), *pooler)
    tied = {name: other for name, other in model.tied.items() if name.startswith(base) and other.startswith(base)}
    idle = tuple(part.name for part in pooler)
    return replace(
        model,
        parts=tuple(replace(part, name=part.name.removeprefix(base)) for part in parts),
        buffers=tuple(replace(buffer, name=buffer.name.removeprefix(base)) for buffer in model.buffers),
        head=None,
        base=base,
        tied={name.removeprefix(base): other.removeprefix(base) for name, other in tied.items()},
        idle=tuple(path.removeprefix(base) for path in (*model.idle, *idle)),
        idle_with_images=tuple(path.removeprefix(base) for path in (*model.idle_with_images, *idle)),
        towers=tuple(path.removeprefix(base) for path in model.towers),
        has_router_loss=False,
        adds_router_loss=False,
    )


def same_model(model: Model, _: Task) -> Model:
    """Return the model of the file."""
    return model
