"""Forms with files: names, values, files in Base64, and bodies that are no such forms."""

from base64 import b64encode

import pytest

from app.http.multipart import decode_multipart
from app.http.problems import HTTPProblem

KIND = "multipart/form-data; boundary=----x"


def part(head, value):
    return b"------x\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + value + b"\r\n"


def test_fields_keep_their_order_and_text_and_a_file_is_in_base64():
    raw = bytes(range(256)) + b"\r\n--\r\n"
    body = part(b'name="a"', "é\r\nb".encode()) + part(b'name="f"; filename="x.pickle"\r\nContent-Type: a/b', raw)
    body += part(b'name="a"', b"") + b"------x--\r\n"
    assert decode_multipart(KIND, body) == [("a", "é\r\nb"), ("f", b64encode(raw).decode()), ("a", "")]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b""),
        (KIND, b""),
        (KIND, b"a=b"),
        (KIND, part(b'name="a"', b"cut")),
        (KIND, part(b'nam="a"', b"") + b"------x--"),
        (KIND, b'------x\r\nform-data; name="a"------x--'),
    ],
)
def test_another_body_is_a_400(kind, body):
    with pytest.raises(HTTPProblem) as error:
        decode_multipart(kind, body)
    assert error.value.status == 400
