"""The processes that answer long requests: started by `serve`, started again if they end, and stopped after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from threading import Event, Thread
from typing import TYPE_CHECKING, Self

import uvicorn

if TYPE_CHECKING:
    from types import TracebackType

#: The wait before the processes are started again, in seconds.
_PAUSE = 1.0

#: How long they may take to answer their last requests when the server stops, in seconds.
_STOP = 10.0


class LongProcesses:
    """A context in which processes answer long requests on a socket."""

    def __init__(self, socket: str, count: int, root_path: str) -> None:
        self._command = [sys.executable, "-m", __name__, socket, str(count), root_path]
        self._stopping = Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._watch = Thread(target=self._keep_running, daemon=True)

    def __enter__(self) -> Self:
        self._start()
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        process = self._process
        assert process is not None
        process.terminate()
        try:
            process.wait(_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
        self._watch.join()

    def _start(self) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE)  # noqa: S603  our own interpreter

    def _keep_running(self) -> None:
        while not self._stopping.is_set():
            assert self._process is not None
            self._process.wait()
            if not self._stopping.wait(_PAUSE):
                self._start()


def main(socket: str, count: str, root_path: str = "") -> None:
    """Answer long requests until the process that started this one stops or ends."""
    Thread(target=_stop_with_parent, daemon=True).start()
    uvicorn.run(
        "app.service.served:long_served",
        factory=True,
        uds=socket,
        workers=int(count),
        root_path=root_path,
        access_log=False,
        log_level="warning",
        server_header=False,
        forwarded_allow_ips="*",
        timeout_worker_healthcheck=60,
    )


def _stop_with_parent() -> None:
    """Wait for the end of the input, which only the parent's end closes."""
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(*sys.argv[1:])
