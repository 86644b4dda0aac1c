"""The requests that the documentation shows, answered live when it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

#: What the examples plan, less the method.
PLAN: dict[str, Any] = {
    "model": "meta-llama/Llama-3.1-8B",
    "training": {"micro_batch_size": 1, "sequence_length": 2048, "gradient_checkpointing": True},
    "device": {"gpu": "rtx-4090"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """A path that takes a JSON body: the body's model, requests each with a sentence, and what answers them.

    An answer that is no JSON object is text of the `media_type`, of lines as `line` describes them.
    """

    path: str
    takes: type[BaseModel]
    requests: dict[str, tuple[str, dict[str, Any]]]
    answered: Callable[[Any], BaseModel | str]
    media_type: str = "application/json"
    line: type[BaseModel] | None = None

    def example(self, body: dict[str, Any]) -> Any:
        """The answer to a request, as the documentation shows it."""
        answer = self.answered(body)
        return answer if isinstance(answer, str) else answer.model_dump(mode="json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A path that only reads: a sentence on an answer of it, and that answer."""

    path: str
    sentence: str
    answered: Callable[[], BaseModel]
