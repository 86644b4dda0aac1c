"""A reader of pickles that contain nothing but lists, tuples, dictionaries, numbers and strings.

It interprets the operations itself. Operations that import, call or build an object are not supported. A pickle with
such an operation is refused, and nothing runs. Source of the operations: Lib/pickletools.py of Python.
"""

from __future__ import annotations

import pickletools
import struct
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

LOC = "snapshot"

#: The largest pickle that is read, in bytes.
LARGEST = 1 << 28

#: The longest integer, in bytes. Addresses and sizes have 8.
LONGEST_NUMBER = 16

_MARK = object()
_CONSTANTS = {0x4E: None, 0x88: True, 0x89: False}
_NEW: dict[int, Callable[[], Any]] = {0x7D: dict, 0x5D: list, 0x29: tuple}
_FIXED = {code: struct.Struct(form) for code, form in {0x4A: "<i", 0x4B: "<B", 0x4D: "<H", 0x47: ">d"}.items()}
_TEXTS = {code: struct.Struct(form) for code, form in {0x8C: "<B", 0x58: "<I", 0x8D: "<Q"}.items()}
_INDEX = {code: struct.Struct(form) for code, form in {0x71: "<B", 0x72: "<I", 0x68: "<B", 0x6A: "<I"}.items()}
_GETS = (0x68, 0x6A)
_LONGS = {0x8A: struct.Struct("<B"), 0x8B: struct.Struct("<i")}
_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}
_SKIPPED = {0x80: 1, 0x95: 8}
_STOP, _MARKS, _MEMOIZE, _TUPLE, _APPEND, _APPENDS, _SET, _SETS = 0x2E, 0x28, 0x94, 0x74, 0x61, 0x65, 0x73, 0x75


def plain(raw: bytes) -> Any:
    """Return the value of a pickle.

    Raises:
        PlanError: if it is too large or truncated, or has an operation that is not for plain values.
    """
    if len(raw) > LARGEST:
        raise refusal(LOC, f"the snapshot has {len(raw):,} bytes, more than {LARGEST:,}: record a shorter history")
    reader = _Reader(raw)
    try:
        return reader.value()
    except PlanError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, struct.error) as error:
        raise refusal(
            LOC, f"the snapshot is an incomplete pickle, cut off at byte {reader.place:,}: dump it again"
        ) from error


class _Reader:
    """The stack and the memo of a pickle while it is read."""

    __slots__ = ("memo", "place", "raw", "stack")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.place = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def value(self) -> Any:
        """Interpret the operations up to the last one. Return the value."""
        raw, stack = self.raw, self.stack
        while (code := raw[self.place]) != _STOP:
            self.place += 1
            if code in _INDEX:
                self._memo(code)
            elif code in _TEXTS:
                stack.append(self._take(self._number(_TEXTS[code])).decode("utf-8", "surrogatepass"))
            elif code in _FIXED:
                stack.append(self._number(_FIXED[code]))
            elif code == _MEMOIZE:
                self.memo[len(self.memo)] = stack[-1]
            elif code in _NEW:
                stack.append(_NEW[code]())
            elif code in _CONSTANTS:
                stack.append(_CONSTANTS[code])
            else:
                self._rarer(code)
        (value,) = stack
        return _item(value)

    def _rarer(self, code: int) -> None:
        stack = self.stack
        if code == _MARKS:
            stack.append(_MARK)
        elif code in (_APPENDS, _SETS, _TUPLE):
            self._close(code)
        elif code == _APPEND:
            item = _item(stack.pop())
            _list(stack[-1]).append(item)
        elif code == _SET:
            item, key = _item(stack.pop()), stack.pop()
            _dict(stack[-1])[_key(key)] = item
        elif code in _TUPLES:
            items = tuple(map(_item, stack[-_TUPLES[code] :]))
            del stack[-_TUPLES[code] :]
            stack.append(items)
        elif code in _LONGS:
            stack.append(self._long(code))
        elif code in _SKIPPED:
            self._take(_SKIPPED[code])
        else:
            raise self._refused(code)

    def _close(self, code: int) -> None:
        """Move the items above the last mark into the container below it, or into a tuple."""
        stack = self.stack
        above = next((n for n, item in enumerate(reversed(stack)) if item is _MARK), None)
        if above is None:
            raise ValueError("no mark")
        start = len(stack) - 1 - above
        items = stack[start + 1 :]
        del stack[start:]
        if code == _TUPLE:
            stack.append(tuple(items))
        elif code == _APPENDS:
            _list(stack[-1]).extend(items)
        else:
            _dict(stack[-1]).update(zip(map(_key, items[::2]), items[1::2], strict=True))

    def _memo(self, code: int) -> None:
        index = self._number(_INDEX[code])
        if code in _GETS:
            self.stack.append(self.memo[index])
        else:
            self.memo[index] = self.stack[-1]

    def _number(self, form: struct.Struct) -> Any:
        (number,) = form.unpack_from(self.raw, self.place)
        self.place += form.size
        return number

    def _long(self, code: int) -> int:
        size = self._number(_LONGS[code])
        if not 0 <= size <= LONGEST_NUMBER:
            raise refusal(LOC, f"the snapshot has a number of {size:,} bytes: it is none of torch.cuda.memory's")
        return int.from_bytes(self._take(size), "little", signed=True)

    def _take(self, size: int) -> bytes:
        part = self.raw[self.place : self.place + size]
        if len(part) < size:
            raise ValueError("truncated")
        self.place += size
        return part

    def _refused(self, code: int) -> PlanError:
        name = next((opcode.name for opcode in pickletools.opcodes if opcode.code == chr(code)), f"{code:#04x}")
        message = (
            f"the pickle has the operation {name} at byte {self.place - 1:,}: only lists, tuples, dictionaries, numbers"
            " and strings are read, and nothing is imported or run"
        )
        return refusal(LOC, message)


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise TypeError("no list")
    return value


def _dict(value: Any) -> dict[Any, Any]:
    if type(value) is not dict:
        raise TypeError("no dictionary")
    return value


def _item(value: Any) -> Any:
    """Return a value of a container. A mark is refused."""
    if value is _MARK:
        raise TypeError("a mark")
    return value


def _key(value: Any) -> Any:
    if type(value) not in (str, int):
        raise TypeError("no key")
    return value
