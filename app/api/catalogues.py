"""The catalogues: models, cards and methods."""

from dataclasses import asdict
from functools import cache
from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import Response

from app.api.answers.catalogues import GPUList, MethodAnswer, MethodList, MethodSetting, ModelDetail, ModelList
from app.api.examples import PLAN, Read
from app.api.responses import json, problems_of
from app.http.problems import Refusal
from calculator import catalogue, devices
from calculator.common.errors import PlanError
from calculator.inputs.settings import declared
from calculator.methods import METHODS, Method

router = APIRouter(tags=["Catalogues"])

ModelId = Annotated[
    str,
    Path(description="A model's id, alias or hub URL.", openapi_examples={"id": {"value": "meta-llama/Llama-3.1-8B"}}),
]


@router.get(
    "/api/v1/models",
    summary="The models that the catalogue ships",
    responses={200: {"model": ModelList}},
)
def get_models() -> Response:
    """Every model of the catalogue, with its exact parameter count."""
    return json(listed_models())


@router.get(
    "/api/v1/models/{id:path}",
    summary="One model",
    responses={200: {"model": ModelDetail}, **problems_of(404)},
)
def get_model(id: ModelId) -> Response:  # noqa: A002  the contract's word
    """The model with its config and where that comes from; its id may be an alias or a hub URL too."""
    try:
        return json(ModelDetail.model_validate(catalogue.model(id)))
    except PlanError as error:
        raise Refusal(404, error.problems[0].msg) from error


@router.get(
    "/api/v1/gpus",
    summary="The cards that the catalogue ships",
    responses={200: {"model": GPUList}},
)
def get_gpus() -> Response:
    """Every card of the catalogue, with the memory that it offers a process."""
    return json(listed_gpus())


@router.get(
    "/api/v1/methods",
    summary="The methods and their inputs",
    responses={200: {"model": MethodList}},
)
def get_methods() -> Response:
    """Every method with its inputs, their defaults and limits, and what sets it apart."""
    return json(listed_methods())


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
    return MethodList(methods=tuple(_method(cls) for cls in METHODS.values()))


def _method(cls: type[Method]) -> MethodAnswer:
    return MethodAnswer(name=cls.name, **asdict(cls.facts), settings=_settings(cls))


def _settings(cls: type) -> tuple[MethodSetting, ...]:
    return tuple(
        MethodSetting(
            name=declaration.name,
            label=declaration.setting.label,
            help=declaration.setting.help,
            default=declaration.default,
            minimum=declaration.setting.minimum,
            maximum=declaration.setting.maximum,
            choices=declaration.choices,
            unit=declaration.setting.unit,
        )
        for declaration in declared(cls)
    )


def _first_models() -> ModelList:
    return ModelList(models=listed_models().models[:2])


def _first_gpus() -> GPUList:
    return GPUList(gpus=listed_gpus().gpus[:2])


def _first_methods() -> MethodList:
    return MethodList(methods=listed_methods().methods[:2])


READ = (
    Read(path="/api/v1/models", sentence="The first two models", answered=_first_models),
    Read(
        path="/api/v1/models/{id}",
        sentence="One model",
        answered=lambda: ModelDetail.model_validate(catalogue.model(PLAN["model"])),
    ),
    Read(path="/api/v1/gpus", sentence="The first two cards", answered=_first_gpus),
    Read(path="/api/v1/methods", sentence="Two methods", answered=_first_methods),
)
