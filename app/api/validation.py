"""`GET /api/v1/validation`: how far estimates were from measurements, row by row."""

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.measurements import ValidationAnswer, validation
from app.api.examples import Read
from app.api.responses import json

router = APIRouter(tags=["Validation"])

#: A figure that the documentation shows.
SHOWN = "peft_metamathqa/29/max_memory_reserved"


@router.get(
    "/api/v1/validation",
    summary="How far estimates were from measurements",
    responses={200: {"model": ValidationAnswer}},
)
def get_validation() -> Response:
    """Every published measurement beside the estimate of the same run, our own measurements, and the peers' figures."""
    return json(validation())


def _one_row() -> ValidationAnswer:
    answer = validation()
    if answer.published is None:
        return answer
    rows = tuple(row for row in answer.published.rows if row.id == SHOWN)
    return answer.model_copy(update={"published": answer.published.model_copy(update={"rows": rows})})


READ = (Read(path="/api/v1/validation", sentence="One row of the published figures", answered=_one_row),)
