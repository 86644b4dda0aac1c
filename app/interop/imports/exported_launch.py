"""The launcher's options that a script of Headroom states at its head, with which it runs on several GPUs.

See app/interop/exports/peft_script.py.
"""

from __future__ import annotations

import re
from typing import Any

from app.interop.imports.command import options_of

#: The command up to the script. The comment can go on in another line.
_COMMAND = re.compile(r"(?m)^# Run it with: (?:torchrun|accelerate launch)\s((?:[^\n]|\n# ){0,400}?)train\.py(?=\s)")


def launch_in(code: str) -> dict[str, Any]:
    """Return the options by their names. Return none if the code has no such comment."""
    found = _COMMAND.search(code)
    return dict(options_of(found[1].replace("\n#", " ").split())) if found else {}
