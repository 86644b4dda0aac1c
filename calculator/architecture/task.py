"""What a model is trained for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.common.names import ProblemType, TaskName


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The task of a model, which decides its head and its loss. `num_labels` and `problem_type` are a classifier's."""

    name: TaskName = "causal_lm"
    num_labels: int = 2
    problem_type: ProblemType | None = None

    @property
    def classifies(self) -> bool:
        """Whether the model has the head of a classifier."""
        return self.name == "seq_cls"

    @property
    def loss(self) -> ProblemType:
        """The loss of a classifier whose labels are whole numbers (transformers' ForSequenceClassificationLoss)."""
        return self.problem_type or ("regression" if self.num_labels == 1 else "single_label_classification")


CAUSAL_LM = Task()
