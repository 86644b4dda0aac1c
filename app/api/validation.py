"""`GET /api/v1/validation`: how far estimates were from measurements."""

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.validation import ValidationAnswer, validation
from app.api.examples import GetExample
from app.api.responses import json_response

router = APIRouter(tags=["Validation"])

#: The row that the documentation shows.
SHOWN_ROW = "peft_metamathqa/29/max_memory_reserved"


@router.get(
    "/api/v1/validation",
    summary="Compare estimates with measurements",
    responses={200: {"model": ValidationAnswer}},
)
def get_validation() -> Response:
    """Return published measurements with estimates of the same runs, our own measurements, and other calculators."""
    return json_response(validation())


def _one_row() -> ValidationAnswer:
    answer = validation()
    if answer.published is None:
        return answer
    rows = tuple(row for row in answer.published.rows if row.id == SHOWN_ROW)
    return answer.model_copy(update={"published": answer.published.model_copy(update={"rows": rows})})


EXAMPLES = (GetExample(path="/api/v1/validation", summary="One row of the published measurements", answer=_one_row),)
