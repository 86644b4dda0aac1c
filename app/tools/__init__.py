"""Training tools: the trainers that requests name, and the tools that run one with their own defaults."""

from app.tools.registry import TOOLS, tool_of
from app.tools.tool import Tool

__all__ = ["TOOLS", "Tool", "tool_of"]
