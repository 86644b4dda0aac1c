"""Every trainer and tool that the pages offer. Trainers come from `calculator.trainers`."""

from __future__ import annotations

from app.tools import axolotl, llama_factory
from app.tools.tool import Tool
from calculator.trainers import TRAINERS, Loop

#: The name of the reference step, for which a request has no name.
REFERENCE = "reference"


def _trainer(loop: Loop) -> Tool:
    facts = loop.facts
    return Tool(
        name=loop.name or REFERENCE,
        label=facts.label,
        trainer=loop.name,
        summary=facts.summary,
        source=facts.source,
        defaults=facts.defaults,
    )


#: Every tool by its name: the trainers in their order, and then the programs.
TOOLS: dict[str, Tool] = {
    tool.name: tool for tool in (*map(_trainer, TRAINERS.values()), axolotl.TOOL, llama_factory.TOOL)
}


def tool_of(name: str, trainer: str) -> Tool | None:
    """Return the tool of a name if it runs the trainer, else the trainer itself. None if there is no such trainer."""
    tool = TOOLS.get(name)
    return tool if tool is not None and (tool.trainer or "") == trainer else TOOLS.get(trainer or REFERENCE)
