"""Requests mixed from traced cases: each has parts of several, which no single case combines."""

import json
from collections import defaultdict
from functools import cache
from typing import get_args

from calculator.inputs.sharding import ShardingName
from calculator.resident.optimizers import OPTIMIZERS
from calculator.trainers import TRAINERS
from tests.hostile.generated import Hostile
from tests.paths import CASE_FILES

GPUS = ("t4", "rtx-4090", "a100-sxm4-40gb", "h100-sxm5-80gb")
JSON = ((b"content-type", b"application/json"),)


def mixed_request(chance):
    """Return an estimate's request."""
    body = json.loads(json.dumps(_case(chance)))
    for _ in range(chance.choice((1, 1, 2, 3))):
        body.setdefault("training", {})
        chance.choice(CHANGES)(chance, body)
    body["reserved"] = chance.choice(("rule", "rule", "replay"))
    return Hostile(method="POST", path="/api/v1/estimate", headers=JSON, body=json.dumps(body).encode())


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
