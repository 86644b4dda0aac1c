"""The lines of an answer that is streamed."""

from typing import Any

from pydantic import Field

from app.api.answers.answer import Answer, described
from app.http.problems import ProblemDocument


class ProgressLine(Answer):
    """A line of a streamed answer: the seconds so far. The last one has the status, and the answer or the problem."""

    seconds: float = described("The seconds since the request arrived.", 1.0)
    status: int | None = Field(None, description="In the last line: the status of the answer.", examples=[200])
    answer: dict[str, Any] | None = Field(
        None, description="In the last line: what the endpoint answers as JSON.", examples=[{"warnings": []}]
    )
    problem: ProblemDocument | None = Field(
        None, description="In the last line: why there is no answer.", examples=[{"status": 422}]
    )
