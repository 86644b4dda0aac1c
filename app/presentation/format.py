"""Formatting of figures for people. The rest of the program uses whole bytes."""

from __future__ import annotations

from calculator.devices.gpus import GIB, MIB

KIB = 1 << 10


def size(count: int, *, digits: int = 2) -> str:
    """Format bytes in a suitable binary unit: 8.71 GiB, 41.9 MiB, 512 bytes."""
    sign = "−" if count < 0 else ""
    amount = abs(count)
    if amount >= GIB // 10:
        return f"{sign}{amount / GIB:,.{digits}f} GiB"
    if amount >= MIB // 10:
        return f"{sign}{amount / MIB:,.1f} MiB"
    if amount >= KIB:
        return f"{sign}{amount / KIB:,.1f} KiB"
    return f"{sign}{amount:,} bytes"


def signed(count: int) -> str:
    """Format bytes with their sign: +13.10 GiB, −21.50 GiB."""
    return size(count) if count < 0 else f"+{size(count)}"


def margin(count: int) -> str:
    """Format a margin in GiB without the unit, for a table cell: +13.1, −0.42."""
    amount, sign = abs(count) / GIB, "−" if count < 0 else "+"
    return f"{sign}{amount:,.1f}" if amount >= 1 else f"{sign}{amount:.2f}"


def about(count: int) -> str:
    """Format a margin in GiB that is not exact, as short as an exact one: ≈+13, ≈−0.4."""
    amount, sign = abs(count) / GIB, "−" if count < 0 else "+"
    return f"≈{sign}{amount:,.0f}" if amount >= 10 else f"≈{sign}{amount:.1f}"


def sentence(text: str) -> str:
    """Capitalize the first letter."""
    return text[:1].upper() + text[1:]


def exact(count: int) -> str:
    """Format bytes exactly: 9,356,288 bytes."""
    return f"{count:,} bytes".replace("-", "−")


def gib(count: int) -> float:
    """Convert bytes to GiB, for an axis."""
    return round(count / GIB, 4)


def percent(fraction: float) -> str:
    """Format a fraction in per cent: 34 %, 0.52 %, 0.0041 %."""
    share = fraction * 100
    if share >= 9.95 or share == 0:
        return f"{share:.0f} %"
    return f"{share:.2g} %" if share >= 0.0001 else "under 0.0001 %"


def deviation(error: float) -> str:
    """Format a relative error with its sign: +0.40 %, −4.38 %, −0.0005 %."""
    share = abs(error) * 100
    sign = "" if not error else "−" if error < 0 else "+"
    return f"{sign}{share:.2f} %" if share >= 0.005 or not error else f"{sign}{share:.4f} %"


def number(value: float) -> str:
    """Format a number with thousands separators: 8,030,261,248."""
    return f"{value:,}"


def parameters(count: int) -> str:
    """Format a number of parameters for a sentence: 8.03 billion, 41.9 million, 81,920."""
    for scale, word in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million")):
        if count >= scale:
            return f"{count / scale:.3g} {word}"
    return f"{count:,}"


def decimal(count: int) -> str:
    """Format bytes in decimal units, as data sheets and the lesson do: 36.01 GB, 16.8 MB, −76.2 MB, 512 bytes."""
    sign = "−" if count < 0 else ""
    amount = abs(count)
    for scale, digits, unit in ((10**9, 2, "GB"), (10**6, 1, "MB"), (10**3, 1, "kB")):
        if amount >= scale // 10:
            return f"{sign}{amount / scale:,.{digits}f} {unit}"
    return f"{sign}{amount:,} bytes"


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def plain(value: float, digits: int = 6) -> str:
    """Format a number to some significant digits, a whole number in full: 3.045, −0.31, 13,400,000, 1.2 × 10⁻⁸."""
    if isinstance(value, int) or value.is_integer():
        return f"{value:,.0f}".replace("-", "−")
    digits_text, _, exponent = f"{value:,.{digits}g}".partition("e")
    power = f" × 10{str(int(exponent)).translate(_RAISED)}" if exponent else ""
    return f"{digits_text}{power}".replace("-", "−")
