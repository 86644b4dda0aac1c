"""The MCP server, used by the client of the package mcp over standard input and output."""

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from mcp import Client, StdioServerParameters

from app.__main__ import main
from app.api import diagnose, estimate, limits, plan
from app.api.requests import DiagnoseRequest, EstimateRequest, LimitsRequest, PlanRequest
from app.mcp.tools import TOOLS
from tests.paths import ROOT

SMALL = {"model": "HuggingFaceTB/SmolLM2-135M", "reserved": "rule"}
DEVICE = {"device": {"gpu": "rtx-4090"}}
CALLS = {
    "estimate": {**SMALL, **DEVICE, "method": {"name": "lora", "r": 8}},
    "plan": {**SMALL, **DEVICE, "needs": {"must_merge": True}},
    "limits": {**SMALL, **DEVICE, "method": {"name": "lora"}, "solve_for": "r"},
    "diagnose": {
        "message": diagnose.EXAMPLES.requests["request"][1]["message"],
        "request": {**DEVICE, "model": SMALL["model"], "method": {"name": "lora"}, "training": {"sequence_length": 64}},
    },
}
WRONG = {
    "estimate": {**SMALL, "method": {"name": "lora", "r": 0}, "trainig": {}},
    "limits": {**SMALL, "method": {"name": "lora"}, "solve_for": "r"},
    "diagnos": {},
}


async def session():
    server = StdioServerParameters(command=sys.executable, args=["-m", "app", "mcp"], cwd=ROOT)
    async with Client(server) as client:
        tools = await client.list_tools()
        answers = {name: await client.call_tool(name, body) for name, body in CALLS.items()}
        together = await asyncio.gather(*(client.call_tool("estimate", CALLS["estimate"]) for _ in range(3)))
        errors = {name: await client.call_tool(name, body) for name, body in WRONG.items()}
        return client.server_info, tools.tools, answers, together, errors


@pytest.fixture(scope="module")
def answered():
    """The client's result, in a thread of its own: other tests may have left an event loop in this one."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, session()).result(timeout=120)


def test_the_tools_have_the_schemas_of_the_api(answered):
    info, tools, *_ = answered
    assert info.name == "headroom"
    assert {tool.name: tool.input_schema for tool in tools} == {
        "estimate": EstimateRequest.model_json_schema(),
        "plan": PlanRequest.model_json_schema(),
        "limits": LimitsRequest.model_json_schema(),
        "diagnose": DiagnoseRequest.model_json_schema(),
    }
    for tool in tools:
        assert tool.output_schema == TOOLS[tool.name].answer_model.model_json_schema(mode="serialization")
        assert tool.description
        assert tool.annotations.read_only_hint


@pytest.mark.parametrize(
    ("name", "endpoint"), [("estimate", estimate), ("plan", plan), ("limits", limits), ("diagnose", diagnose)]
)
def test_a_tool_answers_as_the_endpoint_does(answered, name, endpoint):
    answer = answered[2][name]
    assert not answer.is_error
    assert answer.structured_content == endpoint.answer(CALLS[name]).model_dump(mode="json")


def test_the_text_of_an_answer_is_what_the_command_prints(answered, capsys):
    for name in ("estimate", "plan", "limits"):
        options = ["--model", SMALL["model"], "--gpu", "rtx-4090", "--reserved", "rule"]
        options_of = {"estimate": ["--method", "lora", "--r", "8"], "plan": ["--must_merge"]}
        options_of["limits"] = ["--method", "lora", "--solve_for", "r"]
        assert main([name, *options, *options_of[name]]) == 0
        assert answered[2][name].content[0].text == capsys.readouterr().out.rstrip("\n")


def test_calls_at_the_same_time_have_the_same_answer(answered):
    figures = {answer.structured_content["memory"]["peak_allocated_bytes"] for answer in answered[3]}
    assert figures == {answered[2]["estimate"].structured_content["memory"]["peak_allocated_bytes"]}


def test_an_error_is_a_problem_document_that_names_the_fields(answered):
    errors = answered[4]
    assert all(error.is_error for error in errors.values())
    problems = {name: json.loads(error.content[0].text) for name, error in errors.items()}
    assert {error["loc"] for error in problems["estimate"]["errors"]} == {"method.r", "trainig"}
    assert problems["limits"]["detail"].startswith("device: a limit needs a GPU")
    assert problems["diagnos"]["detail"] == "there is no tool 'diagnos'; there are estimate, plan, limits, diagnose"


def test_without_the_package_the_command_states_what_to_install(monkeypatch, capsys):
    monkeypatch.delattr("app.mcp.server", raising=False)
    for name in [name for name in sys.modules if name.startswith("mcp.") or name == "app.mcp.server"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mcp", None)
    assert main(["mcp"]) == 2
    assert "pip install 'mcp" in capsys.readouterr().err
