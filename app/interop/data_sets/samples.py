"""The text of each sample of a data set: JSON Lines, or a Parquet file with the extra `parquet`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: The fields that are read if none is named: all fields of the first of these groups that the sample has.
USUAL = (("text",), ("messages",), ("conversations",), ("prompt", "completion"), ("instruction", "input", "output"))

#: The keys of a message's text.
CONTENT = ("content", "value")

#: The longest line of a JSON Lines file, in bytes.
LONGEST_LINE = 1 << 26

PARQUET = (
    "reading Parquet files needs the package pyarrow: pip install 'headroom-gpu[parquet]', or write the data set as"
    " JSON Lines"
)


class Texts:
    """The text of each sample, its fields joined.

    Attributes:
        has_messages: Whether a sample had messages, whose contents are joined without a chat template.
    """

    def __init__(self, path: str, fields: Sequence[str], seen: Callable[[int], None]) -> None:
        """`seen` is called with the number of bytes that were read."""
        self._path, self._fields, self._seen = path, fields, seen
        self.has_messages = False

    def __iter__(self) -> Iterator[str]:
        """Yield the texts.

        Raises:
            PlanError: if the file cannot be read, or a sample lacks the fields.
        """
        read = _parquet if self._path.endswith(".parquet") else _lines
        for number, sample in enumerate(read(self._path, self._seen), 1):
            values = _values(sample, self._fields, number)
            self.has_messages |= any(isinstance(value, list) for value in values.values())
            yield "".join(_joined(value, name, number) for name, value in values.items())


def size_of(path: str) -> int:
    """Return the size of the file, in bytes.

    Raises:
        PlanError: if there is none.
    """
    if not Path(path).is_file():
        raise refusal("DATA", f"there is no file {path!r}: give the path of a JSON Lines or Parquet file", path)
    return Path(path).stat().st_size


def _lines(path: str, seen: Callable[[int], None]) -> Iterator[Any]:
    with Path(path).open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
            seen(len(line))
            if len(line) > LONGEST_LINE:
                raise refusal(
                    "DATA", f"line {number:,} is longer than {LONGEST_LINE >> 20} MiB: write one sample per line"
                )
            if line.strip():
                yield _decoded(line, number)


def _decoded(line: bytes, number: int) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        byte = f"byte {error.start + 1:,} is 0x{line[error.start]:02x}"
        message = f"line {number:,} is not UTF-8 ({byte}): save the file as UTF-8"
        raise refusal("DATA", message, line[:80].decode("utf-8", "replace")) from error
    except (ValueError, RecursionError) as error:
        message = f"line {number:,} is not JSON ({error}): write one object per line, as datasets' to_json does"
        raise refusal("DATA", message, line[:80].decode("utf-8", "replace")) from error


def _parquet(path: str, seen: Callable[[int], None]) -> Iterator[Any]:
    try:
        from pyarrow import parquet  # noqa: PLC0415  an extra
        from pyarrow.lib import ArrowException  # noqa: PLC0415
    except ImportError as error:
        raise refusal("DATA", PARQUET, path) from error
    try:
        file = parquet.ParquetFile(path)
        groups = file.num_row_groups
        for group in range(groups):
            yield from file.read_row_group(group).to_pylist()
            seen(size_of(path) // groups)
    except (ArrowException, OSError) as error:
        raise refusal("DATA", f"{path!r} is not a Parquet file: {error}", path) from error


def _values(sample: Any, fields: Sequence[str], number: int) -> dict[str, Any]:
    """Return the fields of a sample's text."""
    if not isinstance(sample, dict):
        raise refusal("DATA", f"sample {number:,} is not an object: write one object per line", sample)
    usual = next((group for group in USUAL if group[0] in sample), None)
    wanted = fields or (tuple(name for name in usual if name in sample) if usual else ())
    missing = [name for name in wanted if name not in sample]
    if missing or not wanted:
        has = ", ".join(map(str, sample)) or "nothing"
        message = (
            f"sample {number:,} has {has}, and no {missing[0] if missing else 'text'}: name its fields with --field"
        )
        raise refusal("--field", message, missing[0] if missing else None)
    return {name: sample[name] for name in wanted}


def _joined(value: Any, name: str, number: int) -> str:
    """Return the text of a field: a string, or the messages of a conversation one after the other."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(message, dict) for message in value):
        contents = [next((message[key] for key in CONTENT if key in message), None) for message in value]
        if all(isinstance(content, str | None) for content in contents):
            return "".join(content or "" for content in contents)
    raise _no_text(name, number)


def _no_text(name: str, number: int) -> PlanError:
    message = f"{name} of sample {number:,} is neither a text nor a list of messages: name another field with --field"
    return refusal("--field", message, name)
