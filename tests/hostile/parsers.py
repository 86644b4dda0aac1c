"""Every parser of text that users send, with texts that it accepts."""

import json
import pickle
from functools import cache
from urllib.parse import parse_qsl

from app.api import diagnose, estimate, export, import_
from app.forms import plan_form
from app.http.bodies import decode_form, decode_json
from app.interop import imports
from app.pages.inference import form as inference_form
from app.pages.plan import form as needs_form
from calculator import catalogue
from calculator.diagnosis.message import parse_message
from calculator.diagnosis.snapshot import read_snapshot
from calculator.estimation.request import parse_request
from calculator.families import model_from_config

#: One catalogue model of each type.
CONFIGS = {entry.model_type: entry.config for entry in catalogue.models()}

ADDRESSES = (
    "model=gpt2&method=lora&r=8&target_modules=c_attn%2C+c_proj&gpu=rtx-4090&gradient_checkpointing=on&reserved=rule",
    "config=%7B%22model_type%22%3A+%22gpt2%22%7D&method=prefix&num_virtual_tokens=20&sequence_length=128&reserved=rule",
    "model=gpt2&tasks=20&switch_per_request=on&priorities=memory%2Cspeed&effective_batch_size=16&reserved=rule",
)

#: The keys of a snapshot with a failed request.
SNAPSHOT = {
    "segments": [
        {
            "device": 0,
            "total_size": 2 << 20,
            "blocks": [{"size": 512, "requested_size": 500, "state": "active_allocated"}],
        }
    ],
    "device_traces": [[{"action": "alloc", "size": 512}, {"action": "oom", "size": 1 << 30, "device_free": 0}]],
}


@cache
def exported():
    """A file of every format that is exported."""
    names = ("peft", "axolotl", "llama-factory", "torchtune", "fsdp")
    answers = [export.answer(export.EXAMPLES.requests[name][1]) for name in names]
    return [
        text for answer in answers for text in (answer.content, *(file.content for file in answer.additional_files))
    ]


@cache
def corpus():
    """Texts by parser."""
    imported = [request["content"] for _, request in import_.EXAMPLES.requests.values()]
    messages = [request["message"] for _, request in diagnose.EXAMPLES.requests.values()]
    bodies = [json.dumps(request) for _, request in estimate.EXAMPLES.requests.values()]
    return {
        "config": [json.dumps(config) for config in CONFIGS.values()],
        "import": [text if isinstance(text, str) else json.dumps(text) for text in (*imported, *exported())],
        "message": messages,
        "body": bodies,
        "address": ADDRESSES,
        "snapshot": [pickle.dumps(SNAPSHOT, protocol).decode("latin-1") for protocol in (2, 4, 5)],
    }


def _config(text):
    config = decode_json(text.encode("utf-8", "surrogatepass"))
    if isinstance(config, dict):
        model_from_config(config)


def _body(text):
    parse_request(decode_json(text.encode("utf-8", "surrogatepass")))


def _import(text):
    imports.read(text)


def _address(text):
    fields = parse_qsl(text, keep_blank_values=True)
    for form in (plan_form, needs_form, inference_form):
        form.read(fields)
    plan_form.read(decode_form(text.encode("utf-8", "surrogatepass"))).estimate()


def _snapshot(text):
    read_snapshot(text.encode("latin-1", "replace"))


PARSERS = {
    "config": _config,
    "import": _import,
    "message": parse_message,
    "body": _body,
    "address": _address,
    "snapshot": _snapshot,
}
