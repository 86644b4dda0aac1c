"""The launcher's options that a file of Headroom states at its head, with which it runs on several GPUs.

See app/interop/exports/peft_script.py and app/interop/exports/distribution.py.
"""

from __future__ import annotations

import re
from typing import Any

from app.interop.imports.command import options_of

_HEAD = r"(?m)^# Run it with: "
_UP_TO = r"(?:[^\n]|\n# ){0,400}?"

#: The command up to the script. The comment can go on in another line.
_COMMAND = re.compile(rf"{_HEAD}(?:torchrun|accelerate launch)\s({_UP_TO})(?:src/)?train\.py(?=\s)")

#: The number of processes in the command of axolotl or LLaMA-Factory.
_PROCESSES = re.compile(rf"{_HEAD}{_UP_TO}(?:--nproc_per_node=|NPROC_PER_NODE=)(\d{{1,5}})(?=\s)")


def launch_in(code: str) -> dict[str, Any]:
    """Return the options by their names. Return none if the text has no such comment."""
    match = _COMMAND.search(code)
    if match:
        return dict(options_of(match[1].replace("\n#", " ").split()))
    count = _PROCESSES.search(code)
    return {"nproc_per_node": int(count[1])} if count else {}
