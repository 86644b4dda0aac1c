"""Examples for the documentation. Their answers are computed when the documentation is first read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

#: The model, training and device of the example requests.
RUN: dict[str, Any] = {
    "model": "meta-llama/Llama-3.1-8B",
    "training": {"micro_batch_size": 1, "sequence_length": 2048, "gradient_checkpointing": True},
    "device": {"gpu": "rtx-4090"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PostExamples:
    """Example requests of a POST endpoint, and how to answer them."""

    path: str
    #: The Pydantic model of the request body.
    request_model: type[BaseModel]
    #: A summary and a body for each example.
    requests: dict[str, tuple[str, dict[str, Any]]]
    #: Answers a body: with a model, or with the text of the response.
    answer: Callable[[Any], BaseModel | str]
    media_type: str = "application/json"
    #: The model of one line, if the response is lines of JSON.
    line_model: type[BaseModel] | None = None

    def response(self, body: dict[str, Any]) -> Any:
        """Return the answer to a body as the documentation shows it."""
        answer = self.answer(body)
        return answer if isinstance(answer, str) else answer.model_dump(mode="json")


@dataclass(frozen=True, slots=True, kw_only=True)
class GetExample:
    """An example answer of a GET endpoint."""

    path: str
    summary: str
    answer: Callable[[], BaseModel]
