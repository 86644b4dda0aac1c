"""Large requests, to be answered or refused with a reason: not mutated, but of every model, method and sharding.

Mutated requests seldom reach the calculator. These meet what only unusual combinations and long answers do.
"""

import json

from calculator.estimation.traced.check import modeled_models
from calculator.inputs.sharding import MODELED
from calculator.methods import METHODS
from calculator.trainers import TRAINERS
from tests.hostile.generated import Hostile
from tests.hostile.mixed import page_request

MODELS = [entry.id for entry in modeled_models()]
GPUS = ("h200", "b200", "rtx-4090", "rtx-4060")
PAGES = 0.4
SHARDINGS = sorted(MODELED - {"none"})
SOLVED_FOR = ("r", "sequence_length", "micro_batch_size", "count", "num_virtual_tokens")
JSON = ((b"content-type", b"application/json"),)


def large_request(chance):
    """Return a request of an endpoint that computes, or of a page or a file."""
    if chance.random() < PAGES:
        return page_request(chance, _run(chance))
    name = chance.choice(list(BODIES))
    return Hostile(method="POST", path=f"/api/v1/{name}", headers=JSON, body=json.dumps(BODIES[name](chance)).encode())


def _run(chance):
    training = {
        "gradient_checkpointing": chance.random() < 0.5,
        "gradient_accumulation_steps": chance.choice((1, 2, 4, 16)),
        "micro_batch_size": chance.choice((1, 2, 3, 7, 16, 64)),
        **_lengths(chance),
        **({"trainer": chance.choice(list(TRAINERS))} if chance.random() < 0.4 else {}),
    }
    device = {"gpu": chance.choice(GPUS)}
    if chance.random() < 0.5:
        device |= {"count": chance.choice((2, 3, 8, 64)), "sharding": chance.choice(SHARDINGS)}
        training |= {"autocast": "bfloat16"}
    return {
        "model": chance.choice(MODELS),
        "method": {"name": chance.choice(list(METHODS))},
        "training": training,
        "device": device,
        "reserved": chance.choice(("rule", "replay")),
    }


def _lengths(chance):
    if chance.random() < 0.2:
        return {"sequence_lengths": [[length, chance.randint(1, 3)] for length in range(64, 2048, 64)]}
    return {"sequence_length": chance.choice((64, 511, 2048, 4097, 32_768, 131_072))}


def _without_method(chance):
    return {name: value for name, value in _run(chance).items() if name != "method"}


def _compare(chance):
    return {**_without_method(chance), "methods": [{"name": name} for name in chance.sample(list(METHODS), 6)]}


def _plan(chance):
    body = {name: value for name, value in _without_method(chance).items() if name != "training"}
    needs = {"sequence_length": chance.choice((512, 4096, 131_072)), "tasks": chance.choice((1, 100))}
    return {**body, "needs": {**needs, "effective_batch_size": chance.choice((1, 16, 64))}}


BODIES = {
    "estimate": _run,
    "run": _run,
    "compare": _compare,
    "plan": _plan,
    "limits": lambda chance: {**_run(chance), "solve_for": chance.choice(SOLVED_FOR)},
    "export": lambda chance: {**_run(chance), "format": chance.choice(("peft", "axolotl", "llama-factory"))},
    "inference": lambda chance: {
        **{name: value for name, value in _run(chance).items() if name != "training"},
        "serving": {"batch_size": chance.choice((1, 64)), "max_new_tokens": chance.choice((1, 64, 32_768))},
    },
}
