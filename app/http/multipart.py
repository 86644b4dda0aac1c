"""Forms with files: the bodies of multipart/form-data.

Source of the format: RFC 7578, and RFC 2046, section 5.1.1.
"""

from __future__ import annotations

import re
from base64 import b64encode

from app.http.problems import HTTPProblem

MEDIA_TYPE = "multipart/form-data"

_BOUNDARY = re.compile(r'boundary="?([^";]{1,70})"?', re.IGNORECASE)
_NAME = re.compile(rb'form-data;.*?\bname="([^"]*)"', re.IGNORECASE)
_FILE = re.compile(rb'\bfilename="', re.IGNORECASE)


def decode_multipart(content_type: str, body: bytes) -> list[tuple[str, str]]:
    """Return the names and values of a form. The value of a file is its content in Base64.

    Raises:
        HTTPProblem: 400 for a body that is no such form.
    """
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        raise HTTPProblem(400, "the body is multipart/form-data without a boundary")
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode("latin-1"))
    if len(parts) < 2 or not parts[-1].startswith(b"--"):
        raise HTTPProblem(400, "the body is not multipart/form-data: its last boundary is missing")
    return [_field(part) for part in parts[1:-1]]


def _field(part: bytes) -> tuple[str, str]:
    head, separator, value = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    name = _NAME.search(head)
    if name is None or not separator:
        raise HTTPProblem(400, "the body is not multipart/form-data: a part has no name")
    text = b64encode(value).decode("ascii") if _FILE.search(head) else value.decode("utf-8", "replace")
    return name[1].decode("utf-8", "replace"), text
