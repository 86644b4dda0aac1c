"""Serve the pages and the JSON API."""

from __future__ import annotations

import argparse
import os

import uvicorn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    host, port = os.environ.get("HOST", "127.0.0.1"), os.environ.get("PORT", "8000")
    parser.add_argument("--host", default=host, help="the address to listen on (default: HOST, or 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=port, help="the port to listen on (default: PORT, or 8000)")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    uvicorn.run("app.application:served", factory=True, host=args.host, port=args.port, server_header=False)
    return 0


def _port(text: str) -> int:
    if not text.isdecimal() or len(text) > 5 or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a whole number from 0 to 65,535")
    return int(text)
