"""The models of encoders that classify sequences."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.architecture.task import Task


def with_classifier(model: Model, base: str, head: tuple[Module, ...]) -> Model:
    """Return the model with a classifier in place of what is outside its base model; nothing is tied."""
    parts = tuple(part for part in model.parts if part.name.startswith(base))
    return replace(model, parts=(*parts, *head), head=head[-1].name, tied={})


def same_model(model: Model, _: Task) -> Model:
    """Return the model that the file describes."""
    return model
