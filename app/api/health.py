"""`GET /healthz`: whether the service is up."""

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.health import Health
from app.api.examples import GetExample
from app.api.responses import json_response
from app.resources import VERSION

router = APIRouter(tags=["Service"])


def health() -> Health:
    """Return the state and version of the service."""
    return Health(status="ok", version=VERSION)


@router.get("/healthz", summary="Check that the service is up", responses={200: {"model": Health}})
async def get_health() -> Response:
    """Return the state and version of the service."""
    return json_response(health())


EXAMPLES = (GetExample(path="/healthz", summary="The service is up", answer=health),)
