"""The settings of a server process, from the environment, so that every worker has those of the command line."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The bytes of answers that one process keeps, unless CACHE_BYTES states others.
CACHE_BYTES = 64 << 20

#: How many requests one process answers or has waiting at once: estimates wait a fraction of a second then.
MOST_AT_ONCE = 128

#: The same for long requests, each of which can take seconds.
MOST_LONG_AT_ONCE = 8

#: Within how many milliseconds an HTML page's answer must be there for the page to be sent whole, not in parts.
WHOLE_PAGE_MILLISECONDS = 500

#: The seconds of CPU time that one answer may take; sweeps are streamed, and have no such limit.
MOST_SECONDS = 20

#: The same for answers that could be streamed and are not, unless `headroom serve` limits them more.
MOST_PLAIN_SECONDS = MOST_SECONDS

#: The same for answers that are streamed to clients that accept NDJSON.
MOST_STREAMED_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """The settings of a server process, from its environment.

    Attributes:
        cache_bytes: The size of the answer cache in bytes. 0 switches it off.
        most_at_once: How many requests are answered or wait at once; others get 503.
        most_long_at_once: The same for long requests, of each process that answers them.
        most_seconds: The seconds of CPU time of one answer; a request that takes more is refused.
        most_plain_seconds: The same for an answer that could be streamed and is not.
        most_streamed_seconds: The same for answers that are streamed.
        whole_page_milliseconds: For how long an HTML page waits for its answer, to be sent whole, not in parts.
        access_log: Whether each request is a line of the access log.
        long_socket: The socket of the processes that answer long requests; empty if they are answered here.
    """

    cache_bytes: int = CACHE_BYTES
    most_at_once: int = MOST_AT_ONCE
    most_long_at_once: int = MOST_LONG_AT_ONCE
    most_seconds: int = MOST_SECONDS
    most_plain_seconds: int = MOST_PLAIN_SECONDS
    most_streamed_seconds: int = MOST_STREAMED_SECONDS
    whole_page_milliseconds: int = WHOLE_PAGE_MILLISECONDS
    access_log: bool = True
    long_socket: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> ServiceSettings:
        """Return the settings of an environment.

        Raises:
            ValueError: if a number is not a whole number of zero or more.
        """
        given = {field.name: environment.get(field.name.upper(), "").strip() for field in fields(cls)}
        declared_fields = {
            name: text if name == "long_socket" else _number(name.upper(), text) for name, text in given.items() if text
        }
        if "access_log" in declared_fields:
            declared_fields["access_log"] = bool(declared_fields["access_log"])
        return cls(**declared_fields)  # type: ignore[arg-type]  # each text was read as its field's type

    @property
    def environment(self) -> dict[str, str]:
        """The variables that give a process these settings."""
        return {
            name.upper(): value if isinstance(value, str) else str(int(value)) for name, value in asdict(self).items()
        }


def _number(name: str, text: str) -> int:
    if not text.isdecimal() or len(text) > 15:
        raise ValueError(f"{name} is {text!r}: give a whole number of 0 or more")
    return int(text)
