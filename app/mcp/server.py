"""The MCP server, over standard input and output."""

from __future__ import annotations

import json
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    ToolAnnotations,
)
from mcp.types import Tool as ListedTool

from app.engines.engine import Client
from app.http.problems import HTTPProblem, invalid_response, problem_response
from app.mcp.tools import TOOLS, Tool
from app.resources import VERSION
from calculator.common.errors import PlanError

if TYPE_CHECKING:
    from starlette.responses import Response

INSTRUCTIONS = (
    "Headroom predicts the GPU memory of fine-tuning runs. Sizes are whole bytes. Unknown fields are refused; an error"
    " lists each field and what is allowed. Ask for a plan to find a configuration, for an estimate to check one."
)


def serve() -> None:
    """Answer the client on the other side of standard input and output, until it closes them."""
    anyio.run(_serve)


async def _serve() -> None:
    server = Server(
        "headroom", version=VERSION, instructions=INSTRUCTIONS, on_list_tools=_list_tools, on_call_tool=_call_tool
    )
    async with stdio_server() as (requests, answers):
        await server.run(requests, answers, server.create_initialization_options())


async def _list_tools(_: ServerRequestContext[Any], __: PaginatedRequestParams | None) -> ListToolsResult:
    return ListToolsResult(tools=[_listed(name, tool) for name, tool in TOOLS.items()])


def _listed(name: str, tool: Tool) -> ListedTool:
    return ListedTool(
        name=name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.request_model.model_json_schema(),
        output_schema=tool.answer_model.model_json_schema(mode="serialization"),
        annotations=ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False),
    )


async def _call_tool(_: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
    """Answer a call in a thread. A trace ends if the client cancels the call."""
    if params.name not in TOOLS:
        return _error(problem_response(404, f"there is no tool {params.name!r}; there are {', '.join(TOOLS)}"))
    gone = Event()
    call = partial(_answered, TOOLS[params.name], params.arguments or {}, Client(gone=gone.is_set))
    try:
        return await to_thread.run_sync(call, abandon_on_cancel=True)
    finally:
        gone.set()


def _answered(tool: Tool, body: dict[str, Any], client: Client) -> CallToolResult:
    try:
        result = tool.answer(body, client)
    except PlanError as error:
        return _error(invalid_response(error.problems))
    except HTTPProblem as error:
        return _error(problem_response(error.status, error.detail))
    text = TextContent(type="text", text=result.text)
    return CallToolResult(content=[text], structured_content=result.answer.model_dump(mode="json"))


def _error(response: Response) -> CallToolResult:
    """Return a problem document as the text of a failed call, whose agent may correct it."""
    problem = json.loads(bytes(response.body))
    return CallToolResult(content=[TextContent(type="text", text=json.dumps(problem, indent=1))], is_error=True)
