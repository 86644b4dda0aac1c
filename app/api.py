"""The JSON API, version 1."""

import sys
from dataclasses import asdict
from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.requests import Request

from app.answers import CompareAnswer, ComparisonRowAnswer, EstimateAnswer, Health
from app.bodies import json_body
from app.catalogues import GPUList, MethodAnswer, MethodList, MethodSetting, ModelDetail, ModelList
from app.problems import MEANINGS, MEDIA_TYPE, ProblemDocument, Refusal
from app.schema import CompareRequest, EstimateRequest
from app.version import VERSION
from calculator import catalogue, devices
from calculator.answer import Estimate
from calculator.comparison import AXES, ComparisonRow, compare, parse_comparison
from calculator.errors import PlanError
from calculator.estimate import estimate
from calculator.methods import METHODS
from calculator.request import parse_request
from calculator.settings import declared

router = APIRouter()

ModelId = Annotated[
    str,
    Path(description="A model's id, alias or hub URL.", openapi_examples={"id": {"value": "meta-llama/Llama-3.1-8B"}}),
]


def problems_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of an operation, for its description."""
    content = {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{ProblemDocument.__name__}"}}}
    return {status: {"description": MEANINGS[status][1], "content": content} for status in statuses}


def takes(model: type[BaseModel]) -> dict[str, Any]:
    """The description of a JSON body that the calculator validates."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def json(answer: BaseModel) -> Response:
    """An answer as the response that carries it."""
    return Response(answer.model_dump_json(), media_type="application/json")


def estimate_answer(plan: Estimate) -> EstimateAnswer:
    """The calculator's answer as the API words it."""
    return EstimateAnswer.model_validate(plan)


def compare_answer(rows: tuple[ComparisonRow, ...]) -> CompareAnswer:
    """A comparison as the API words it."""
    return CompareAnswer(rows=tuple(_row(row) for row in rows))


def _row(row: ComparisonRow) -> ComparisonRowAnswer:
    method = {"name": row.method.name, **asdict(row.method)}
    told = {name: getattr(row, name) for name in ("estimate", "problems", "alternative")}
    return ComparisonRowAnswer.model_validate({"method": method, **asdict(row.axes), **told}, from_attributes=True)


@router.post(
    "/api/v1/estimate",
    summary="What one plan needs, and whether it fits",
    responses={200: {"model": EstimateAnswer}, **problems_of(400, 413, 415, 422)},
    openapi_extra=takes(EstimateRequest),
    tags=["Plans"],
)
async def post_estimate(request: Request) -> Response:
    """Read a plan, answer with its parameters, its memory to the byte, and the verdict on its device."""
    return json(estimate_answer(estimate(parse_request(await json_body(request)))))


@router.post(
    "/api/v1/compare",
    summary="The methods side by side",
    responses={200: {"model": CompareAnswer}, **problems_of(400, 413, 415, 422)},
    openapi_extra=takes(CompareRequest),
    tags=["Plans"],
)
async def post_compare(request: Request) -> Response:
    """Read a plan without its method, answer with a row a method on the same model, training and device."""
    return json(compare_answer(compare(parse_comparison(await json_body(request)))))


@router.get(
    "/api/v1/models",
    summary="The models that the catalogue ships",
    responses={200: {"model": ModelList}},
    tags=["Catalogues"],
)
async def get_models() -> Response:
    """Every model of the catalogue, with its exact parameter count."""
    return json(listed_models())


@router.get(
    "/api/v1/models/{id:path}",
    summary="One model",
    responses={200: {"model": ModelDetail}, **problems_of(404)},
    tags=["Catalogues"],
)
async def get_model(id: ModelId) -> Response:  # noqa: A002  the contract's word
    """The model with its config and where that comes from; its id may be an alias or a hub URL too."""
    try:
        return json(ModelDetail.model_validate(catalogue.model(id)))
    except PlanError as error:
        raise Refusal(404, error.problems[0].msg) from error


@router.get(
    "/api/v1/gpus",
    summary="The cards that the catalogue ships",
    responses={200: {"model": GPUList}},
    tags=["Catalogues"],
)
async def get_gpus() -> Response:
    """Every card of the catalogue, with the memory that it offers a process."""
    return json(listed_gpus())


@router.get(
    "/api/v1/methods",
    summary="The methods and their inputs",
    responses={200: {"model": MethodList}},
    tags=["Catalogues"],
)
async def get_methods() -> Response:
    """Every method with its inputs, their defaults and limits, and what sets it apart."""
    return json(listed_methods())


@router.get("/healthz", summary="That the program runs", responses={200: {"model": Health}}, tags=["Service"])
async def get_health() -> Response:
    """The program's version."""
    return json(Health(status="ok", version=VERSION))


@cache
def listed_models() -> ModelList:
    """Every model of the catalogue."""
    return ModelList.model_validate({"models": catalogue.models()}, from_attributes=True)


@cache
def listed_gpus() -> GPUList:
    """Every card of the catalogue."""
    return GPUList.model_validate({"gpus": devices.gpus()}, from_attributes=True)


@cache
def listed_methods() -> MethodList:
    """Every method."""
    return MethodList(methods=tuple(_method(name) for name in METHODS))


def _method(name: str) -> MethodAnswer:
    return MethodAnswer(
        name=name, summary=summary(METHODS[name]), **asdict(AXES[name]), settings=_settings(METHODS[name])
    )


def _settings(cls: type) -> tuple[MethodSetting, ...]:
    return tuple(
        MethodSetting(
            name=told.name,
            label=told.setting.label,
            help=told.setting.help,
            default=told.default,
            minimum=told.setting.minimum,
            maximum=told.setting.maximum,
            choices=told.choices,
            unit=told.setting.unit,
        )
        for told in declared(cls)
    )


def summary(cls: type) -> str:
    """The first line of what a method's module says it is."""
    return (sys.modules[cls.__module__].__doc__ or "").strip().splitlines()[0]
