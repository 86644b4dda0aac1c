"""`GET /api/v1/trainers`: trainers and tools, and their defaults."""

from functools import cache

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.trainers import TrainerAnswer, TrainerList
from app.api.examples import GetExample
from app.api.responses import json_response
from app.tools import TOOLS

router = APIRouter(tags=["Catalogues"])


@router.get(
    "/api/v1/trainers", summary="List trainers and tools with their defaults", responses={200: {"model": TrainerList}}
)
def get_trainers() -> Response:
    """Return the trainers that a request can name, and the tools that run one of them with their own defaults.

    An estimate does not apply these defaults: a request without a setting has the default of this API.
    """
    return json_response(listed_trainers())


@cache
def listed_trainers() -> TrainerList:
    """Return every trainer and tool."""
    return TrainerList(trainers=tuple(TrainerAnswer.model_validate(tool) for tool in TOOLS.values()))


def _two_trainers() -> TrainerList:
    names = ("trl-sft", "axolotl")
    return TrainerList(trainers=tuple(trainer for trainer in listed_trainers().trainers if trainer.name in names))


EXAMPLES = (GetExample(path="/api/v1/trainers", summary="A trainer and a tool", answer=_two_trainers),)
