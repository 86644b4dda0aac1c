r"""MathML from formulas in a TeX-like notation: `h = W_0 x + \frac{α}{r} B A x`.

A letter is a variable. `_` and `^` start subscripts and superscripts; braces group. `'kv_dim'` is a variable with a
long name, `\text{...}` is text, `\apply` separates a function from its argument, and `\frac`, `\sqrt`, `\hat` and
`\ceil` mean what they mean in TeX. Every other sign must be in `OPERATORS`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from app.presentation.format import plain

if TYPE_CHECKING:
    from collections.abc import Callable

#: Operators; a hyphen is typeset as a minus.
OPERATORS = "=+-−·×÷/()[],;:<>≤≥≈≠→∈|…√∞⌈⌉∝"

_SIGN = re.compile(r"\\text\{[^}]*\}|\\[a-z]+|'[^']+'|\d[\d,.]*\d|\d|[^\W\d_]|[_^{}]|\s+|.")

#: An invisible multiplication sign between two factors, which screen readers read as "times".
_TIMES = "<mo>&#x2062;</mo>"

_APPLY = r"\apply"
_CLOSES = ")]⌉"
_OPENS = "([⌈"

#: Signs that cannot start a value.
_MISPLACED = f"_^}}{_CLOSES}"


@cache
def math(text: str, *, block: bool = False) -> Markup:
    """Return a formula as a math element. A block has a line of its own, in a box that scrolls if it is too narrow.

    Raises:
        ValueError: if the formula cannot be parsed.
    """
    signs = [sign for sign in _SIGN.findall(text) if not sign.isspace()]
    reader = _Reader(text, signs)
    row = reader.row(until=None)
    if block:
        return _scrolling(f'<math display="block">{row}</math>')
    return Markup(f"<math>{row}</math>")  # noqa: S704  every part is escaped


def matrix(rows: tuple[tuple[float, ...], ...]) -> Markup:
    """Return a matrix in brackets, in a box that scrolls if it is too narrow."""
    cells = "".join(f"<mtr>{''.join(f'<mtd>{_number(value)}</mtd>' for value in row)}</mtr>" for row in rows)
    return _scrolling(f"<math><mrow><mo>[</mo><mtable>{cells}</mtable><mo>]</mo></mrow></math>")


def _scrolling(element: str) -> Markup:
    """Return a math element in a box that scrolls, because browsers do not break formulas into lines."""
    return Markup(f'<span class="formula-box">{element}</span>')  # noqa: S704  every part is escaped


def _number(value: float) -> str:
    sign = "<mo>−</mo>" if value < 0 else ""
    return f"<mrow>{sign}<mn>{plain(abs(value), 7)}</mn></mrow>"


class _Reader:
    """A recursive-descent parser of a formula's signs."""

    def __init__(self, text: str, signs: list[str]) -> None:
        self._text = text
        self._signs = signs
        self._next = 0
        self._commands: dict[str, Callable[[], str]] = {
            r"\frac": lambda: f"<mfrac>{self._part()}{self._part()}</mfrac>",
            r"\sqrt": lambda: f"<msqrt>{self._part()}</msqrt>",
            r"\hat": lambda: f'<mover accent="true">{self._part()}<mo stretchy="false">^</mo></mover>',
            r"\ceil": lambda: f"<mrow><mo>⌈</mo>{self._part()}<mo>⌉</mo></mrow>",
        }

    def row(self, until: str | None) -> str:
        """Parse everything before one of the closing signs `until`, or before the end."""
        parts: list[str] = []
        factor = False
        while (sign := self._peek()) is not None and (until is None or sign not in until):
            if factor and (sign in _OPENS or _is_value(sign)):
                parts.append(_TIMES)
            parts.append(self._scripted())
            factor = sign in _OPENS or _is_value(sign)
        if sign is None and until is not None:
            raise ValueError(f"{self._text!r} ends before {until!r}")
        return "".join(parts)

    def _scripted(self) -> str:
        base = self._atom()
        below = self._script("_")
        above = self._script("^")
        if below and above:
            return f"<msubsup>{base}{below}{above}</msubsup>"
        if below:
            return f"<msub>{base}{below}</msub>"
        return f"<msup>{base}{above}</msup>" if above else base

    def _script(self, kind: str) -> str | None:
        if self._peek() != kind:
            return None
        self._next += 1
        return self._part()

    def _part(self) -> str:
        """Parse the argument of a fraction, root or script: one atom, or a group in braces."""
        if self._peek() != "{":
            return self._atom()
        self._next += 1
        inside = self.row(until="}")
        self._next += 1
        return f"<mrow>{inside}</mrow>"

    def _atom(self) -> str:
        sign = self._peek()
        if sign == "{":
            return self._part()
        if sign is None or sign in _MISPLACED:
            raise ValueError(f"{self._text!r} has {sign!r} where a value should be")
        self._next += 1
        if sign in self._commands:
            return self._commands[sign]()
        return self._fenced(sign) if sign in _OPENS else _leaf(sign, self._text)

    def _fenced(self, opening: str) -> str:
        """Parse a pair of brackets and its content as a row, so that the brackets stretch with their content only."""
        inside = self.row(until=_CLOSES)
        self._next += 1
        closing = self._signs[self._next - 1]
        return f"<mrow><mo>{opening}</mo>{inside}<mo>{closing}</mo></mrow>"

    def _peek(self) -> str | None:
        return self._signs[self._next] if self._next < len(self._signs) else None


def _is_value(sign: str) -> bool:
    """Return whether the sign is a factor, so that it can be multiplied."""
    return sign not in OPERATORS and sign != _APPLY and not sign.startswith(r"\text")


def _leaf(sign: str, text: str) -> str:
    if sign.startswith(r"\text"):
        return f"<mtext>{escape(sign[6:-1])}</mtext>"
    if sign == _APPLY:
        return "<mo>&#x2061;</mo>"
    if sign.startswith("'"):
        return f'<mi mathvariant="normal">{escape(sign[1:-1])}</mi>'
    if sign[0].isdigit():
        return f"<mn>{sign}</mn>"
    if sign.isalpha():
        return f"<mi>{sign}</mi>"
    if sign == "…":
        return "<mi>…</mi>"
    if sign == "|":
        return '<mo lspace="0" rspace="0">|</mo>'
    if sign in OPERATORS:
        return f"<mo>{escape(sign.replace('-', '−'))}</mo>"
    raise ValueError(f"{text!r} has {sign!r}, which is not a sign of the notation")
