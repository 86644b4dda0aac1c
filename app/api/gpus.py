"""`GET /api/v1/gpus`: the catalogue's GPUs."""

from functools import cache

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.gpus import GPUList
from app.api.examples import GetExample
from app.api.responses import json_response
from calculator import devices

router = APIRouter(tags=["Catalogues"])


@router.get("/api/v1/gpus", summary="List the catalogue's GPUs", responses={200: {"model": GPUList}})
def get_gpus() -> Response:
    """Return every GPU of the catalogue with the memory that a process can use on it."""
    return json_response(listed_gpus())


@cache
def listed_gpus() -> GPUList:
    """Return every GPU of the catalogue."""
    return GPUList.model_validate({"gpus": devices.gpus()}, from_attributes=True)


def _first_gpus() -> GPUList:
    return GPUList(gpus=listed_gpus().gpus[:2])


EXAMPLES = (GetExample(path="/api/v1/gpus", summary="The first two GPUs", answer=_first_gpus),)
