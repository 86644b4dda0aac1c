"""`GET /api/v1/models/types`: the model types of transformers, and the engine that estimates each."""

from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from app.api.accuracy import results
from app.api.answers.model_types import ModelTypeAnswer, ModelTypeList, TaskAnswer
from app.api.examples import GetExample
from app.api.responses import json_response, problem_responses
from calculator import catalogue
from calculator.common.names import TaskName
from calculator.estimation.image_requests import image_families
from calculator.families import FAMILIES
from calculator.families.tasks import families_of

router = APIRouter(tags=["Catalogues"])

#: The longest search text.
LONGEST = 100

#: The names of tasks in the results of traces, by the `task` of a request.
TASKS: dict[TaskName, str] = {
    "causal_lm": "causal LM",
    "seq_cls": "sequence classification",
    "token_cls": "token classification",
    "question_ans": "question answering",
    "seq_2_seq_lm": "seq2seq LM",
    "feature_extraction": "feature extraction",
    "image_cls": "image classification",
}

Search = Annotated[
    str,
    Query(
        description="Words that the type, its tasks, engine or grade contain. Without it, all types are listed.",
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

    A trace of each type's default config, with four layers, has been tried. `why` states how it fails if no engine
    answers.
    """
    return json_response(search(q))


def search(query: str = "") -> ModelTypeList:
    """Return the model types that contain every word of a search text."""
    census = results.model_types() or {"date": None, "versions": {}}
    words = query[:LONGEST].lower().split()
    return ModelTypeList(
        date=census["date"],
        versions=census["versions"],
        tasks=tasks(),
        types=tuple(type_ for type_ in types() if all(word in _text(type_) for word in words)),
    )


def _text(row: ModelTypeAnswer) -> str:
    """Return the text that a search looks in."""
    engine = row.engine or "refused"
    words = (row.model_type, *row.tasks, engine, row.grade or "", *row.kernel_packages, *row.catalogue)
    return " ".join(words).lower()


@cache
def types() -> tuple[ModelTypeAnswer, ...]:
    """Return every model type. The calculator's current families count, not those at the time of the census."""
    census = {row["model_type"]: row for row in (results.model_types() or {"types": ()})["types"]}
    modeled = {name for name, family in FAMILIES.items() if family.forward is not None and family.built_as is None}
    rows: dict[str, dict[str, Any]] = {**census}
    for name in modeled:
        tasks = census.get(name, {}).get("tasks", ())
        rows[name] = {"model_type": name, "tasks": tasks, "engine": "calculator", "grade": "modelled", "why": None}
    return tuple(_row(rows[name]) for name in sorted(rows))


def _row(row: dict[str, Any]) -> ModelTypeAnswer:
    model_ids = [entry.id for entry in catalogue.models() if entry.model_type == row["model_type"]]
    found_only_in_traces: dict[str, Any] = {"kernel_packages": {}, "unchecked_operations": ()}
    tasks = [name for task, name in TASKS.items() if row["model_type"] in _modeled(task)]
    if row["model_type"] in FAMILIES and FAMILIES[row["model_type"]].auto_class == "speech-seq2seq":
        tasks.append("speech to text")
    if row["model_type"] in image_families():
        tasks.append("image-text to text")
    # Any type has a model without a head, so transformers lists no types of this task.
    embeds = [TASKS["feature_extraction"]] if row["model_type"] in _modeled("feature_extraction") else []
    row = {**row, "tasks": (*row["tasks"], *embeds)}
    facts = {"catalogue": model_ids, "modelled_tasks": [name for name in row["tasks"] if name in tasks]}
    return ModelTypeAnswer.model_validate({**found_only_in_traces, **row, **facts})


@cache
def _modeled(task: TaskName) -> frozenset[str]:
    """Return the model types whose step for a task the calculator models."""
    return frozenset(families_of(FAMILIES, task))


@cache
def tasks() -> tuple[TaskAnswer, ...]:
    """Return the number of types of each task that an engine estimates."""
    names = dict.fromkeys(task for row in types() for task in row.tasks)
    counted = []
    for task in names:
        rows = [row for row in types() if task in row.tasks]
        modeled = sum(task in row.modelled_tasks for row in rows)
        answered = sum(row.engine is not None or task in row.modelled_tasks for row in rows)
        counted.append(TaskAnswer(task=task, types=len(rows), modelled=modeled, traced=answered - modeled))
    return tuple(sorted(counted, key=lambda row: -row.types))


def _example() -> ModelTypeList:
    answer = search()
    return answer.model_copy(update={"types": answer.types[:2], "tasks": answer.tasks[:2]})


EXAMPLES = (GetExample(path="/api/v1/models/types", summary="The first two types", answer=_example),)
