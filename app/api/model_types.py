"""`GET /api/v1/models/types`: the model types of transformers, and which engine answers each."""

from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from app.api.accuracy import results
from app.api.answers.model_types import ModelTypeAnswer, ModelTypeList, TaskAnswer
from app.api.examples import GetExample
from app.api.responses import json_response, problem_responses
from calculator import catalogue
from calculator.families import FAMILIES

router = APIRouter(tags=["Catalogues"])

#: The longest search text.
LONGEST = 100

Search = Annotated[
    str,
    Query(
        description="Words that the type, its tasks, engine or grade contain; all types without it.",
        max_length=LONGEST,
        openapi_examples={"q": {"value": "qwen traced"}},
    ),
]


@router.get(
    "/api/v1/models/types",
    summary="List the model types of transformers",
    responses={200: {"model": ModelTypeList}, **problem_responses(422)},
)
def get_model_types(q: Search = "") -> Response:
    """Return every model type of transformers with its tasks, and whether the calculator or a trace answers it.

    A trace of each type's default config, with four layers, has been tried. `why` states how it fails where no engine
    answers.
    """
    return json_response(found(q))


def found(query: str = "") -> ModelTypeList:
    """Return the model types that contain every word of a search text."""
    census = results.model_types() or {"date": None, "versions": {}}
    words = query[:LONGEST].lower().split()
    return ModelTypeList(
        date=census["date"],
        versions=census["versions"],
        tasks=tasks(),
        types=tuple(each for each in types() if all(word in _text(each) for word in words)),
    )


def _text(row: ModelTypeAnswer) -> str:
    """Return the text that a search looks through."""
    engine = row.engine or "refused"
    words = (row.model_type, *row.tasks, engine, row.grade or "", *row.kernel_packages, *row.catalogue)
    return " ".join(words).lower()


@cache
def types() -> tuple[ModelTypeAnswer, ...]:
    """Return every model type. What the calculator models now counts, whatever the census found."""
    census = {row["model_type"]: row for row in (results.model_types() or {"types": ()})["types"]}
    modelled = {name for name, family in FAMILIES.items() if family.forward is not None and family.built_as is None}
    rows: dict[str, dict[str, Any]] = {**census}
    for name in modelled:
        tasks = census.get(name, {}).get("tasks", ())
        rows[name] = {"model_type": name, "tasks": tasks, "engine": "calculator", "grade": "modelled", "why": None}
    return tuple(_row(rows[name]) for name in sorted(rows))


def _row(row: dict[str, Any]) -> ModelTypeAnswer:
    known = [entry.id for entry in catalogue.models() if entry.model_type == row["model_type"]]
    found_only_in_traces: dict[str, Any] = {"kernel_packages": {}, "unchecked_operations": ()}
    return ModelTypeAnswer.model_validate({**found_only_in_traces, **row, "catalogue": known})


@cache
def tasks() -> tuple[TaskAnswer, ...]:
    """Return how many types of each task are answered."""
    names = dict.fromkeys(task for row in types() for task in row.tasks)
    counted = []
    for task in names:
        engines = [row.engine for row in types() if task in row.tasks]
        counted.append(
            TaskAnswer(
                task=task, types=len(engines), modelled=engines.count("calculator"), traced=engines.count("traced")
            )
        )
    return tuple(sorted(counted, key=lambda each: -each.types))


def _example() -> ModelTypeList:
    answer = found()
    return answer.model_copy(update={"types": answer.types[:2], "tasks": answer.tasks[:2]})


EXAMPLES = (GetExample(path="/api/v1/models/types", summary="The first two types", answer=_example),)
