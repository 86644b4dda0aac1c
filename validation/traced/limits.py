"""The limits of a process that traces an untrusted `config.json`: memory, CPU time, imports, processes and network.

The config chooses among transformers' own classes. Whatever else it names, the process cannot import a package that it
has not imported before, open a connection or start a program. Python has no way to remove the hook that refuses these.
"""

from __future__ import annotations

import resource
import sys
from typing import Any

#: The most memory of a trace, in bytes. A trace of the largest published models needs less than 1 GiB.
MEMORY = 4 << 30

#: The most address space, in bytes: the libraries' files are mapped too, some 10 GiB in builds of PyTorch for CUDA.
ADDRESS_SPACE = 32 << 30

#: Packages whose modules may still be imported: those that a trace runs, and Headroom's own.
PACKAGES = frozenset({"accelerate", "bitsandbytes", "calculator", "peft", "torch", "transformers", "validation"})

#: Events of the interpreter that no trace causes; see "Audit events table" in Python's library reference.
REFUSED_EVENTS = frozenset(
    {
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.system",
        "pty.spawn",
        "socket.bind",
        "socket.connect",
        "socket.getaddrinfo",
        "subprocess.Popen",
    }
)


def limit(cpu_seconds: int) -> None:
    """Limit this process for the rest of its life. What a trace needs must be imported before."""
    for kind, value in (
        (resource.RLIMIT_DATA, MEMORY),
        (resource.RLIMIT_AS, ADDRESS_SPACE),
        (resource.RLIMIT_CORE, 0),
    ):
        _set(kind, value, value)
    # Above the soft limit the process gets SIGXCPU, which tells its parent why it ended.
    _set(resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 10)
    loaded = {name.partition(".")[0] for name in sys.modules}
    sys.addaudithook(auditor(frozenset(loaded | PACKAGES | sys.stdlib_module_names)))


def _set(kind: int, soft: int, hard: int) -> None:
    """Set a limit, or leave the lower one that the process has."""
    given = resource.getrlimit(kind)[1]
    most = hard if given == resource.RLIM_INFINITY else min(hard, given)
    resource.setrlimit(kind, (min(soft, most), most))


def auditor(allowed: frozenset[str]) -> Any:
    """Return the hook that refuses imports of other packages than the allowed ones, connections and programs."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "import" and arguments[0].partition(".")[0] not in allowed:
            raise ImportError(f"a trace does not import {arguments[0]}", name=arguments[0])
        if event in REFUSED_EVENTS:
            raise PermissionError(f"a trace does not use {event}")

    return hook
