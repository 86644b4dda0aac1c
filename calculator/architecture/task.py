"""The task that a model is trained for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

if TYPE_CHECKING:
    from calculator.common.names import ProblemType, TaskName


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The task of a model, which decides its head and its loss.

    `num_labels` belongs to classifiers, `problem_type` to classifiers of sequences.
    """

    name: TaskName = "causal_lm"
    num_labels: int = 2
    problem_type: ProblemType | None = None
    #: Whether batches contain images. A vision tower runs only then.
    has_images: bool = False

    @property
    def head_names(self) -> tuple[str, ...]:
        """The names of heads that PEFT trains in addition to what a method adds.

        Source: peft/peft_model.py, PeftModelForSequenceClassification, PeftModelForTokenClassification and
        PeftModelForQuestionAnswering.
        """
        match self.name:
            case "seq_cls" | "token_cls":
                return ("classifier", "score")
            case "question_ans":
                return ("qa_outputs",)
            case "causal_lm" | "seq_2_seq_lm" | "feature_extraction" | "image_cls":
                return ()
            case _ as never:
                assert_never(never)

    @property
    def trained_heads(self) -> tuple[str, ...]:
        """The names of heads that are trained in addition to what a method outside PEFT adds."""
        return ("classifier",) if self.name == "image_cls" else self.head_names

    @property
    def embeds(self) -> bool:
        """Whether the model has no head and no loss of its own: the step embeds texts and compares them."""
        return self.name == "feature_extraction"

    @property
    def classifies(self) -> bool:
        """Whether the request gives the number of labels."""
        return self.name in ("seq_cls", "token_cls", "image_cls")

    @property
    def trains_head(self) -> bool:
        """Whether PEFT trains the model's head in full."""
        return bool(self.head_names)

    @property
    def loss(self) -> ProblemType:
        """The loss of a sequence classifier, by its labels (ForSequenceClassificationLoss in transformers)."""
        return self.problem_type or ("regression" if self.num_labels == 1 else "single_label_classification")


CAUSAL_LM = Task()
