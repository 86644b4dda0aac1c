"""Lists of numbers, and numbers by name, as a person types them in a form or on the command line."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Characters between names and numbers, which a typed name can't have.
_SEPARATORS = re.compile(r"[,:=\s]")

#: A range of whole numbers, such as 8-15; a longer one than this is no list of layers or tokens.
_RANGE = re.compile(r"(\d{1,9})-(\d{1,9})")
_LONGEST_RANGE = 10_000


def text_of_numbers(numbers: Mapping[str, Any]) -> str:
    """Return numbers by name as text: `q_proj: 16, v_proj: 4`, or JSON if a name has a separator."""
    if any(_SEPARATORS.search(name) for name in numbers):
        return json.dumps(numbers)
    return ", ".join(f"{name}: {number}" for name, number in numbers.items())


def read_numbers_by_name(text: str) -> Any:
    """Return numbers by name from text: `q_proj: 16, v_proj=4`. Other text is unchanged."""
    numbers = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, number = part.replace("=", ":").rpartition(":")
        name = name.strip()
        if not name or name in numbers:
            return text
        numbers[name] = _number(number.strip())
    return numbers


def whole_numbers(words: Any) -> Any:
    """Return a list of whole numbers from typed words; a word may be a range such as `8-15`. Other words stay."""
    if not isinstance(words, list):
        return words
    numbers: list[Any] = []
    for word in words:
        ends = _RANGE.fullmatch(word) if isinstance(word, str) else None
        if ends and 0 <= int(ends[2]) - int(ends[1]) < _LONGEST_RANGE:
            numbers += range(int(ends[1]), int(ends[2]) + 1)
        else:
            numbers.append(_number(word) if isinstance(word, str) else word)
    return numbers


def _number(text: str) -> Any:
    """Return a whole number or a decimal; other text is unchanged."""
    if re.fullmatch(r"-?\d{1,12}", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?\d{1,12}\.\d{1,12}", text) else text
