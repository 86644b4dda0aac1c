"""Serve the pages and the JSON API."""

from __future__ import annotations

import argparse
import os

import uvicorn

#: More processes than any machine has cores are a mistake.
_MOST_WORKERS = 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    host, port = os.environ.get("HOST", "127.0.0.1"), os.environ.get("PORT", "8000")
    parser.add_argument("--host", default=host, help="the address to listen on (default: HOST, or 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=port, help="the port to listen on (default: PORT, or 8000)")
    workers = os.environ.get("WORKERS") or "1"
    help_text = "processes that share the port (default: WORKERS, or 1)"
    parser.add_argument("--workers", type=_workers, default=workers, help=help_text)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    uvicorn.run(
        "app.application:served",
        factory=True,
        host=args.host,
        port=args.port,
        workers=args.workers,
        server_header=False,
    )
    return 0


def _workers(text: str) -> int:
    if not text.isdecimal() or not 1 <= len(text) <= 3 or not 1 <= int(text) <= _MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes: give 1 to {_MOST_WORKERS}")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or len(text) > 5 or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a whole number from 0 to 65,535")
    return int(text)
