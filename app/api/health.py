"""`GET /healthz` and `GET /readyz`: whether the service is up, and whether it accepts every request."""

import asyncio

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.health import Health
from app.api.examples import GetExample
from app.api.responses import json_response, problem_responses
from app.http.problems import HTTPProblem
from app.resources import VERSION
from app.service.settings import ServiceSettings

router = APIRouter(tags=["Service"])


def health() -> Health:
    """Return the state and version of the service."""
    return Health(status="ok", version=VERSION)


@router.get("/healthz", summary="Check that the service is up", responses={200: {"model": Health}})
async def get_health() -> Response:
    """Return the state and version of the service."""
    return json_response(health())


@router.get(
    "/readyz",
    summary="Check that the service answers every request",
    responses={200: {"model": Health}, **problem_responses(503)},
)
async def get_ready() -> Response:
    """Return the state and version of the service, or 503 while the processes of long requests do not accept any."""
    socket = ServiceSettings.from_environment().long_socket
    if socket and not await _accepts(socket):
        detail = "the processes that answer long requests are starting: try again in 5 seconds"
        raise HTTPProblem(503, detail, {"Retry-After": "5"})
    return json_response(health())


async def _accepts(socket: str) -> bool:
    """Return whether a process accepts connections on a socket."""
    try:
        _, writer = await asyncio.open_unix_connection(socket)
    except OSError:
        return False
    writer.close()
    return True


EXAMPLES = (
    GetExample(path="/healthz", summary="The service is up", answer=health),
    GetExample(path="/readyz", summary="The service is ready", answer=health),
)
