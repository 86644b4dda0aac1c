"""Serve the tools estimate, plan, limits and diagnose to an agent, by the Model Context Protocol on standard streams.

An agent's configuration names the command:

{"mcpServers": {"headroom": {"command": "headroom", "args": ["mcp"]}}}

Needs the package mcp, which the extra `mcp` installs. Arguments and answers of the tools are those of the JSON API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import refusal

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""


def run(_: argparse.Namespace) -> int:
    """Serve until the agent closes standard input."""
    try:
        from app.mcp import server  # noqa: PLC0415  the package mcp is optional
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mcp":
            raise
        raise refusal("", "the package mcp is not installed: pip install 'mcp>=2.3,<3'") from error
    server.serve()
    return 0
