"""`GET /api/v1/methods`: the fine-tuning methods and their settings."""

from dataclasses import asdict
from functools import cache

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.methods import MethodAnswer, MethodList, MethodSetting
from app.api.examples import GetExample
from app.api.responses import json_response
from calculator.inputs.settings import declared
from calculator.methods import METHODS, Method

router = APIRouter(tags=["Catalogues"])


@router.get(
    "/api/v1/methods", summary="List the fine-tuning methods and their settings", responses={200: {"model": MethodList}}
)
def get_methods() -> Response:
    """Return every method: what it trains, what it costs at inference, and its settings with defaults and limits."""
    return json_response(listed_methods())


@cache
def listed_methods() -> MethodList:
    """Return every method."""
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


def _first_methods() -> MethodList:
    return MethodList(methods=listed_methods().methods[:2])


EXAMPLES = (GetExample(path="/api/v1/methods", summary="Two methods", answer=_first_methods),)
