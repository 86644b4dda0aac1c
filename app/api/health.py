"""`GET /healthz`: that the program runs."""

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.estimate import Health
from app.api.examples import Read
from app.api.responses import json
from app.http.version import VERSION

router = APIRouter(tags=["Service"])


def health() -> Health:
    """The program's version."""
    return Health(status="ok", version=VERSION)


@router.get("/healthz", summary="That the program runs", responses={200: {"model": Health}})
async def get_health() -> Response:
    """The program's version."""
    return json(health())


READ = (Read(path="/healthz", sentence="It runs", answered=health),)
