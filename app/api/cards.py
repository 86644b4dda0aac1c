"""`GET /api/v1/cards` and `GET /api/v1/cards/{id}`: what GPUs can train."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from starlette.requests import Request

from app.api import schema
from app.api.answers.cards import CardAnswer, CardList, card_answer, card_list
from app.api.examples import GetExample
from app.api.responses import json_response, problem_responses
from app.forms.card_query import read_strictly
from app.http.problems import HTTPProblem
from calculator import devices
from calculator.cards.query import CardQuery
from calculator.common.errors import PlanError
from calculator.devices.gpus import INSTEAD

router = APIRouter(tags=["Catalogues"])

#: The longest search text.
LONGEST = 100

#: Where to find the names of GPUs.
_LIST = "see the list at /cards or /api/v1/cards"

CardId = Annotated[
    str, Path(description="The GPU's id, name or alias.", openapi_examples={"id": {"value": "rtx-4090"}})
]
Search = Annotated[
    str, Query(max_length=LONGEST, description="Words of a GPU's name, id, vendor, architecture or segment.")
]


def query_parameters() -> list[dict[str, Any]]:
    """Describe the query parameters. The calculator validates them; the model only documents them."""
    properties = schema.model("CardQuery", CardQuery).model_json_schema()["properties"]
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": annotation.pop("description"),
            "schema": annotation,
        }
        for name, annotation in properties.items()
    ]


@router.get(
    "/api/v1/cards",
    summary="List the GPUs with what they can train",
    responses={200: {"model": CardList}, **problem_responses(422)},
)
def get_cards(q: Search = "") -> Response:
    """Return every GPU with the number of models that each method trains on it, and the largest of them."""
    return json_response(card_list(q))


@router.get(
    "/api/v1/cards/{id}",
    summary="List what one GPU can train",
    responses={200: {"model": CardAnswer}, **problem_responses(404, 422)},
    openapi_extra={"parameters": query_parameters()},
)
def get_card(id: CardId, request: Request) -> Response:  # noqa: A002  the catalogue's word
    """Return models and methods on a GPU: whether they fit, the longest sequence, and the largest micro-batch.

    The rows come from a table of replays, so the answer takes milliseconds. A name or an alias works as well as the id.
    """
    return json_response(card_answer(card_of(id), read_strictly(request.query_params.multi_items()).query()))


def card_of(name: str) -> devices.GPU:
    """Return the GPU of an address.

    Raises:
        HTTPProblem: if the catalogue lacks it.
    """
    try:
        return devices.gpu(name)
    except PlanError as error:
        raise HTTPProblem(404, error.problems[0].msg.replace(INSTEAD, _LIST)) from error


def _first_cards() -> CardList:
    answer = card_list()
    return answer.model_copy(update={"cards": answer.cards[:2]})


EXAMPLES = (
    GetExample(path="/api/v1/cards", summary="The two smallest GPUs", answer=_first_cards),
    GetExample(
        path="/api/v1/cards/{id}",
        summary="The two largest models on one GPU",
        answer=lambda: card_answer(devices.gpu("rtx-4090"), CardQuery(limit=2)),
    ),
)
