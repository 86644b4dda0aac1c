"""The OpenAPI document is complete, correct, and made from the calculator's declarations."""

import dataclasses
import json
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.api.answers import estimate, fit, memory
from app.api.answers import inference as served
from app.api.answers.estimate import EstimateAnswer
from app.api.answers.gpus import GPUAnswer
from app.api.answers.models import ModelDetail
from app.api.requests import METHOD_MODELS, DeviceModel, MethodModel, NeedsModel, ServingModel, TrainingModel
from calculator.catalogue import ModelEntry
from calculator.common.errors import PlanError
from calculator.devices import GPU, Fit
from calculator.estimation import answer
from calculator.estimation.request import parse_method
from calculator.inference import answer as serving
from calculator.inference.settings import Serving
from calculator.inputs.device import Device
from calculator.inputs.settings import declared, parse
from calculator.inputs.training import Training
from calculator.methods import METHODS, USUAL_METHODS
from calculator.planning.needs import Needs

PATHS = {
    "/api/v1/estimate": "post",
    "/api/v1/compare": "post",
    "/api/v1/limits": "post",
    "/api/v1/export": "post",
    "/api/v1/plan": "post",
    "/api/v1/run": "post",
    "/api/v1/inference": "post",
    "/api/v1/sweep": "post",
    "/api/v1/import": "post",
    "/api/v1/diagnose": "post",
    "/api/v1/models/types": "get",
    "/api/v1/models": "get",
    "/api/v1/models/{id}": "get",
    "/api/v1/gpus": "get",
    "/api/v1/cards": "get",
    "/api/v1/cards/{id}": "get",
    "/api/v1/methods": "get",
    "/api/v1/trainers": "get",
    "/api/v1/validation": "get",
    "/healthz": "get",
    "/readyz": "get",
}
POST_PATHS = [path for path, verb in PATHS.items() if verb == "post"]


@pytest.fixture(scope="module")
def document(client):
    return client.get("/api/v1/openapi.json").json()


def test_the_document_has_the_usual_address_too(client, document):
    response = client.get("/openapi.json")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert response.json() == document


def test_every_endpoint_is_described(document):
    assert {path: next(iter(verbs)) for path, verbs in document["paths"].items()} == PATHS


def test_every_field_of_every_body_has_a_description_and_an_example(document):
    schemas = document["components"]["schemas"]
    missing = [
        f"{name}.{field} lacks {need}"
        for name, schema in schemas.items()
        for field, description in schema.get("properties", {}).items()
        for need in ("description", "examples")
        if not description.get(need)
    ]
    assert missing == []
    assert len(schemas) > 20


def test_every_operation_states_what_it_does_and_shows_a_real_answer(document):
    for path, verb in PATHS.items():
        operation = document["paths"][path][verb]
        assert operation["summary"]
        assert operation["description"]
        assert next(iter(operation["responses"]["200"]["content"].values()))["examples"]


def test_every_reference_resolves(document):
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])
    assert "HTTPValidationError" not in text


@pytest.mark.parametrize("path", POST_PATHS)
def test_the_examples_equal_the_apis_answers(client, document, path):
    operation = document["paths"][path]["post"]
    requests = operation["requestBody"]["content"]["application/json"]["examples"]
    media_type, content = next(iter(operation["responses"]["200"]["content"].items()))
    answered = content["examples"]
    assert list(requests) == list(answered)
    for key, example in requests.items():
        response = client.post(path, json=example["value"])
        assert response.headers["content-type"] == media_type
        assert (response.json() if media_type == "application/json" else response.text) == answered[key]["value"]


def test_the_errors_of_an_operation_are_problem_documents(document):
    for path in POST_PATHS:
        responses = document["paths"][path]["post"]["responses"]
        busy = {"503"} if path == "/api/v1/estimate" else set()
        assert set(responses) == {"200", "400", "413", "415", "422"} | busy
        for status in {"400", "413", "415", "422"} | busy:
            assert list(responses[status]["content"]) == ["application/problem+json"]


def test_the_inputs_are_those_that_the_calculator_declares():
    models = {
        **METHOD_MODELS,
        "training": TrainingModel,
        "device": DeviceModel,
        "needs": NeedsModel,
        "serving": ServingModel,
    }
    for name, cls in {**METHODS, "training": Training, "device": Device, "needs": Needs, "serving": Serving}.items():
        fields = {field: declaration for field, declaration in models[name].model_fields.items() if field != "name"}
        assert list(fields) == [declaration.name for declaration in declared(cls)]
        for declaration in declared(cls):
            assert fields[declaration.name].default == declaration.default
            assert fields[declaration.name].title == declaration.setting.label
            assert fields[declaration.name].description.startswith(declaration.setting.help)


@pytest.mark.parametrize(
    ("model", "cls"),
    [
        (EstimateAnswer, answer.Estimate),
        (memory.Memory, answer.Memory),
        (memory.Component, answer.Component),
        (memory.Row, answer.Row),
        (memory.Moment, answer.Moment),
        (memory.Phase, answer.Phase),
        (estimate.ModelSummary, answer.ModelSummary),
        (fit.Fit, Fit),
        (GPUAnswer, GPU),
        (ModelDetail, ModelEntry),
        (served.InferenceAnswer, serving.Inference),
        (served.ServingMemoryAnswer, serving.ServingMemory),
        (served.ServingCostAnswer, serving.Cost),
        (served.MergeAnswer, serving.Merge),
        (served.ResidentAnswer, serving.Resident),
        (served.ServedPass, serving.PassPeak),
    ],
    ids=lambda cls: cls.__name__,
)
def test_the_api_answers_every_field_of_the_calculators(model, cls):
    kept_inside = {
        answer.Component: {"rule", "listed", "json"},
        answer.Estimate: {"stored", "remarks"},
        answer.Memory: {"colocated", "line", "listed", "listed_overheads", "replay", "unsharded"},
        answer.Row: {"build", "form", "shape", "digits", "json"},
        Fit: {"gpus", "outcome"},
    }.get(cls, set())
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    members = {field.name for field in fields} or {name for name in dir(cls) if not name.startswith("_")}
    assert members - kept_inside <= set(model.model_fields)


SCALARS = st.none() | st.booleans() | st.integers(-5, 2**21) | st.floats(allow_nan=False) | st.text(max_size=3)
VALUES = SCALARS | st.lists(SCALARS, max_size=2)


@cache
def adapter(kind):
    """A kind's validator, which takes longer to build than to use."""
    return TypeAdapter(kind)


def accepted_by_pydantic(kind, value):
    try:
        adapter(kind).validate_json(json.dumps(value))
    except ValidationError:
        return False
    return True


def accepted_by_the_calculator(read, value):
    try:
        read(value)
    except PlanError:
        return False
    return True


def drawn(cls):
    """Objects that are mostly of a declared shape: each field a choice, a limit, or anything."""
    fields = {}
    for declaration in declared(cls):
        likely = [
            declaration.default,
            *declaration.choices,
            declaration.setting.minimum,
            declaration.setting.maximum,
            declaration.setting.example,
        ]
        fields[declaration.name] = st.sampled_from([list(v) if isinstance(v, tuple) else v for v in likely]) | VALUES
    return st.fixed_dictionaries({}, optional=fields)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), extra=st.dictionaries(st.sampled_from(["r", "dtype", "nope"]), VALUES, max_size=1))
@pytest.mark.parametrize("name", ["training", "device", "needs", *USUAL_METHODS, "miss", "oft"])
def test_the_schema_accepts_exactly_what_the_calculator_accepts(name, data, extra):
    cls = {"training": Training, "device": Device, "needs": Needs, **METHODS}[name]
    value = {**data.draw(drawn(cls)), **extra}
    if name in METHODS:
        value["name"] = name
        kind, read = MethodModel, parse_method
    else:
        kind = {"training": TrainingModel, "device": DeviceModel, "needs": NeedsModel, "serving": ServingModel}[name]
        read = lambda body: parse(cls, body, name)  # noqa: E731
    assert accepted_by_pydantic(kind, value) == accepted_by_the_calculator(read, value)
