"""Requests mixed from traced cases: each has parts of several, which no single case combines."""

import json
from collections import defaultdict
from functools import cache
from typing import get_args
from urllib.parse import parse_qsl, urlencode

from app.forms.fields import DEVICE, value_at
from app.forms.plan_form import LONGEST_ADDRESS, filled
from app.pages.plan import form as needs_form
from calculator.inputs.sharding import ShardingName
from calculator.resident.optimizers import OPTIMIZERS
from calculator.trainers import TRAINERS
from tests.hostile.generated import Hostile
from tests.hostile.parsers import corpus
from tests.paths import CASE_FILES

GPUS = ("t4", "rtx-4090", "a100-sxm4-40gb", "h100-sxm5-80gb")
JSON = ((b"content-type", b"application/json"),)
FORM = ((b"content-type", b"application/x-www-form-urlencoded"),)

#: The share of pages and files: they take ten times as long as an estimate.
PAGES = 0.1
PATHS = (
    *("/", "/", "/plan", "/limits", "/run", "/difference", "/diagnose", "/inference", "/cards/rtx-4090"),
    *("/export/peft", "/estimate.json", "/compare.json", "/limits.json", "/plan.json", "/run.json", "/inference.json"),
    *("/estimate.csv", "/estimate.md"),
)


def mixed_request(chance):
    """Return an estimate's request, or one of a page or a file of the same run."""
    body = mixed_body(chance)
    if chance.random() < PAGES:
        return page_request(chance, body)
    return Hostile(method="POST", path="/api/v1/estimate", headers=JSON, body=json.dumps(body).encode())


def page_request(chance, body):
    """Return a request of a page or a file of a run, by its address or, where that is too long, by its form."""
    form = _form(body)
    query, path = form.address()[1:], chance.choice(PATHS)
    if path == "/difference":
        query = urlencode([("plan", f"/?{query}"), ("plan", f"/{_form(mixed_body(chance)).address()}")])
    if path == "/diagnose":
        query += "&" + urlencode({"message": chance.choice(corpus()["message"])})
    if path == "/plan":
        query = urlencode([pair for pair in parse_qsl(query) if pair[0] in needs_form.DEFAULTS])
    if len(query) > LONGEST_ADDRESS and path in ("/", "/export/peft"):
        return Hostile(method="POST", path=path, headers=FORM, body=query.encode())
    return Hostile(method="GET", path=path, query=query.encode())


def _form(body):
    model, device = body["model"], body.get("device") or {}
    form = filled(
        {**body, "model": str(model["parameters"])} if isinstance(model, dict) and "parameters" in model else body
    )
    return form.changed(
        **{shown.name: shown.text(value_at(device, shown.keys, shown.declared.default)) for shown in DEVICE}
    )


def mixed_body(chance):
    """Return the body of an estimate's request."""
    body = json.loads(json.dumps(_case(chance)))
    for _ in range(chance.choice((1, 1, 2, 3))):
        body.setdefault("training", {})
        chance.choice(CHANGES)(chance, body)
    body["reserved"] = chance.choice(("rule", "rule", "replay"))
    return body


@cache
def _by_family():
    """The requests of traced cases, by what names their model: families with few cases are as likely as others."""
    found = defaultdict(list)
    for path in sorted(CASE_FILES.rglob("*.jsonl")):
        for case in map(json.loads, path.read_text().splitlines()):
            request = case.get("request", {})
            if "method" in request:
                found[_family(request["model"])].append(request)
    return list(found.values())


def _family(model):
    config = model.get("config", {}) if isinstance(model, dict) else {}
    return config.get("model_type") or json.dumps(model)


def _case(chance):
    return chance.choice(chance.choice(_by_family()))


def _part(name):
    """Return a change that takes a part of another case."""

    def change(chance, body):
        other = _case(chance)
        if name in other:
            body[name] = json.loads(json.dumps(other[name]))

    return change


def _setting(chance, body):
    """Take one setting of another case's training."""
    other = _case(chance).get("training", {})
    if other:
        name = chance.choice(sorted(other))
        body["training"][name] = other[name]


def _sharding(chance, body):
    sharding = chance.choice(get_args(ShardingName))
    count = 1 if sharding == "none" else chance.choice((2, 4, 16))
    body["device"] = {**(body.get("device") or {}), "count": count, "sharding": sharding}
    if sharding.startswith("zero") and chance.random() < 0.8:
        body["training"]["autocast"] = "bfloat16"


def _card(chance, body):
    body["device"] = {**(body.get("device") or {}), "gpu": chance.choice(GPUS)}


def _trainer(chance, body):
    body["training"]["trainer"] = chance.choice((None, *TRAINERS))


def _optimizer(chance, body):
    body["training"]["optimizer"] = chance.choice(list(OPTIMIZERS))


def _images(chance, body):
    body["training"]["images"] = {
        "images_per_sequence": chance.choice((0, 1, 2)),
        "image_height": 112,
        "image_width": 112,
    }


def _steps(chance, body):
    body["training"]["gradient_checkpointing"] = chance.random() < 0.5
    body["training"]["gradient_accumulation_steps"] = chance.choice((1, 2, 3))


def _liger(chance, body):
    body["training"]["use_liger_kernel"] = chance.random() < 0.9


CHANGES = (
    *(_part(name) for name in ("method", "training", "task", "stack")),
    *(_setting, _sharding, _card, _trainer, _optimizer, _images, _steps, _liger),
)
