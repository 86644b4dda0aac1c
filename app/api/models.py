"""`GET /api/v1/models` and `GET /api/v1/models/{id}`: the catalogue's models."""

from functools import cache
from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import Response

from app.api.answers.models import ModelDetail, ModelList
from app.api.examples import RUN, GetExample
from app.api.responses import json_response, problem_responses
from app.http.problems import HTTPProblem
from calculator import catalogue
from calculator.common.errors import PlanError

router = APIRouter(tags=["Catalogues"])

ModelId = Annotated[
    str,
    Path(
        description="The model's id, alias or hub URL.",
        openapi_examples={"id": {"value": "meta-llama/Llama-3.1-8B"}},
    ),
]


@router.get("/api/v1/models", summary="List the catalogue's models", responses={200: {"model": ModelList}})
def get_models() -> Response:
    """Return every model of the catalogue with its exact number of parameters."""
    return json_response(listed_models())


@router.get(
    "/api/v1/models/{id:path}",
    summary="Get one model of the catalogue",
    responses={200: {"model": ModelDetail}, **problem_responses(404)},
)
def get_model(id: ModelId) -> Response:  # noqa: A002  the contract's word
    """Return a model with its config and the config's sources. An alias or a hub URL works as well as the id."""
    try:
        return json_response(ModelDetail.model_validate(catalogue.model(id)))
    except PlanError as error:
        raise HTTPProblem(404, error.problems[0].msg) from error


@cache
def listed_models() -> ModelList:
    """Return every model of the catalogue."""
    return ModelList.model_validate({"models": catalogue.models()}, from_attributes=True)


def _first_models() -> ModelList:
    return ModelList(models=listed_models().models[:2])


EXAMPLES = (
    GetExample(path="/api/v1/models", summary="The first two models", answer=_first_models),
    GetExample(
        path="/api/v1/models/{id}",
        summary="One model",
        answer=lambda: ModelDetail.model_validate(catalogue.model(RUN["model"])),
    ),
)
