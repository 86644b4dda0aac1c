"""Serve the pages and the JSON API.

Long requests (plans, limits, comparisons, sweeps and pages) are answered by processes of their own, so that estimates
do not wait for them. docs/serving.md describes metrics, the access log, limits, and how to serve behind a proxy.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import uvicorn

from app.service.long_processes import LongProcesses
from app.service.settings import ServiceSettings
from calculator.common.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The maximum number of processes. More than any machine has cores are a mistake.
_MOST_WORKERS = 512

#: The seconds of CPU time of an answer that could be streamed and is not, unless MOST_PLAIN_SECONDS states others.
_PLAIN_SECONDS = 2

#: How long requests may still run after the server is stopped, in seconds.
_GRACE = 30

#: A path as a proxy strips it: segments of letters, digits and -._~, without a slash at the end.
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    host, port = os.environ.get("HOST", "127.0.0.1"), os.environ.get("PORT", "8000")
    parser.add_argument("--host", default=host, help="the address to listen on (default: HOST, or 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=port, help="the port to listen on (default: PORT, or 8000)")
    workers = os.environ.get("WORKERS") or "1"
    help_text = "processes that share the port (default: WORKERS, or 1)"
    parser.add_argument("--workers", type=_number(1, _MOST_WORKERS, "processes"), default=workers, help=help_text)
    parser.add_argument(
        "--long-workers",
        type=_number(0, _MOST_WORKERS, "processes"),
        metavar="N",
        help="processes that answer long requests (default: as many as --workers; 0 answers them with the others)",
    )
    parser.add_argument(
        "--root-path",
        type=_root_path,
        default=os.environ.get("ROOT_PATH", ""),
        metavar="/PATH",
        help="the path that a proxy strips from every request (default: ROOT_PATH, or none)",
    )
    parser.add_argument(
        "--cache-bytes",
        type=_number(0, 1 << 40, "bytes"),
        metavar="N",
        help="the bytes of answers that each process keeps (default: CACHE_BYTES, or 64 MiB; 0 keeps none)",
    )
    parser.add_argument(
        "--most-at-once",
        type=_number(1, 1 << 20, "requests"),
        metavar="N",
        help="requests that one process answers or has waiting; more get 503 (default: MOST_AT_ONCE, or 128)",
    )
    parser.add_argument("--no-access-log", action="store_true", help="do not write a line for each request")
    parser.add_argument(
        "--grace",
        type=_number(0, 86_400, "seconds"),
        default=str(_GRACE),
        metavar="SECONDS",
        help=f"how long requests may still run after SIGTERM or SIGINT (default: {_GRACE})",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT, and then answer the remaining requests."""
    settings = _settings(args)
    count = args.workers if args.long_workers is None else args.long_workers
    with TemporaryDirectory(prefix="headroom-") as folder, _stopped_by_sigterm():
        metrics = Path(folder) / "metrics"
        metrics.mkdir()
        settings = replace(settings, long_socket=str(Path(folder) / "long") if count else "")
        with _environment({**settings.environment, "PROMETHEUS_MULTIPROC_DIR": str(metrics)}):
            long = LongProcesses(settings.long_socket, count, args.root_path) if count else nullcontext()
            with long:
                _serve(args)
    return 0


def _serve(args: argparse.Namespace) -> None:
    uvicorn.run(
        "app.service.served:served",
        factory=True,
        host=args.host,
        port=args.port,
        workers=args.workers,
        root_path=args.root_path,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=args.grace,
        timeout_worker_healthcheck=60,
    )


def _settings(args: argparse.Namespace) -> ServiceSettings:
    """Return the settings from the environment, overridden by the options.

    Raises:
        PlanError: if a variable of the environment is not a number.
    """
    try:
        settings = ServiceSettings.from_environment()
    except ValueError as error:
        name, _, message = str(error).partition(" ")
        raise refusal(name, message) from error
    if not os.environ.get("MOST_PLAIN_SECONDS", "").strip():
        settings = replace(settings, most_plain_seconds=_PLAIN_SECONDS)
    limits = {name: getattr(args, name) for name in ("cache_bytes", "most_at_once") if getattr(args, name) is not None}
    if args.no_access_log:
        limits["access_log"] = False
    return replace(settings, **limits)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables, which the processes of the server inherit."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Leave the context at SIGTERM, which uvicorn raises again once it has stopped."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _number(least: int, most: int, noun: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or len(text) > 15 or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of {noun}: give {least} to {most}")
        return int(text)

    return read


def _root_path(text: str) -> str:
    if not _ROOT_PATH.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a path: give one such as /headroom, without a slash at the end"
        )
    return text


def _port(text: str) -> int:
    if not text.isdecimal() or len(text) > 5 or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a whole number from 0 to 65,535")
    return int(text)
