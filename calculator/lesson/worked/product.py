"""LoRA's forward pass and merging by hand, with a frozen matrix and two small ones, in exact arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from calculator.common.errors import refusal
from calculator.inputs.settings import setting
from calculator.lesson.worked.line import Line, WorkedExample
from calculator.lesson.worked.matrices import add, column, floats, matrix, product, scale, shape
from calculator.lesson.worked.rounding import STORED

if TYPE_CHECKING:
    from calculator.lesson.worked.matrices import Matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """W₀, A, B and x as text. The update is scaled by lora_alpha / r."""

    W: str = setting("1, 2; 3, 4", label="W₀", help="Frozen, d × k. Semicolons separate rows.")
    B: str = setting("0.3; 0.4", label="B", help="d × r. Enter zeros to see the start of training.")
    A: str = setting("0.1, 0.2", label="A", help="r × k.")
    x: str = setting("1, 1", label="x", help="The input, k numbers.")
    lora_alpha: float = setting(1, label="Alpha", help="α, which scales the update.", minimum=0, maximum=1e6)
    r: int = setting(2, label="Rank", help="The r of α / r.", minimum=1, maximum=65_536)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge(Product):
    """The same inputs as the forward pass, and the storage format of the merged weights."""

    stored: Literal["float32", "bfloat16", "nf4"] = setting(
        "bfloat16", label="Stored in", help="The format of W₀ and of the merged matrix."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """The parsed matrices, whose shapes match."""

    W: Matrix
    B: Matrix
    A: Matrix
    x: Matrix
    scale: Fraction

    @property
    def update(self) -> Matrix:
        """The update (α / r) · B A."""
        return scale(self.scale, product(self.B, self.A))


def read(typed: Product) -> Read:
    """Parse the inputs.

    Raises:
        PlanError: if an input is not a matrix, or its shape does not match the others.
    """
    W, B, A, x = (matrix(typed.W, "W"), matrix(typed.B, "B"), matrix(typed.A, "A"), column(typed.x, "x"))
    (d, k), r = shape(W), len(A)
    wanted = {"A": (typed.A, shape(A), (r, k)), "B": (typed.B, shape(B), (d, r)), "x": (typed.x, shape(x), (k, 1))}
    for name, (text, seen, due) in wanted.items():
        if seen != due:
            message = f"is {seen[0]} × {seen[1]}; with a W₀ of {d} × {k} and an A of {r} rows it must be"
            raise refusal(name, f"{message} {due[0]} × {due[1]}", text)
    return Read(W=W, B=B, A=A, x=x, scale=Fraction(str(typed.lora_alpha)) / typed.r)


def forward(typed: Product) -> tuple[Line, ...]:
    """Return the lines of h = W₀x + (α / r)·BAx, one per product."""
    parsed = read(typed)
    frozen, thin = product(parsed.W, parsed.x), product(parsed.A, parsed.x)
    wide = product(parsed.B, thin)
    path = scale(parsed.scale, wide)
    return (
        Line(name="W₀x", formula="W₀ · x", substituted="the frozen path", value=floats(frozen)),
        Line(name="Ax", formula="A · x", substituted="down to r numbers", value=floats(thin)),
        Line(name="BAx", formula="B · Ax", substituted="up to d numbers", value=floats(wide)),
        Line(
            name="scaled",
            formula="(α / r) · BAx",
            substituted=f"{typed.lora_alpha:g} / {typed.r} = {float(parsed.scale):g}",
            value=floats(path),
        ),
        Line(name="h", formula="W₀x + (α / r) · BAx", substituted="", value=floats(add(frozen, path)), main=True),
        Line(
            name="change of h, at most",
            formula="max |h − W₀x| ÷ |W₀x|",
            substituted="none: the model is unchanged" if not any(v for (v,) in path) else "",
            value=_change(frozen, path),
            unit="%",
        ),
    )


def vectors(typed: Product) -> dict[str, tuple[float, ...]]:
    """Return every vector of the forward pass, by name."""
    return {line.name: tuple(row[0] for row in line.value) for line in forward(typed) if isinstance(line.value, tuple)}


def _change(frozen: Matrix, path: Matrix) -> float:
    """Return the largest relative change of a non-zero output, in percent."""
    shares = [abs(change / base) for (base,), (change,) in zip(frozen, path, strict=True) if base]
    return 100 * float(max(shares, default=Fraction(0)))


def merged(typed: Merge) -> tuple[Line, ...]:
    """Return the lines of W₀ + (α / r)·BA as stored, and of the rounding error of its output."""
    parsed = read(typed)
    stored = STORED[typed.stored]
    base = stored(parsed.W)
    unmerged = add(product(base, parsed.x), product(parsed.update, parsed.x))
    whole = stored(add(base, parsed.update))
    together = product(whole, parsed.x)
    lost = max(abs(a - b) for (a,), (b,) in zip(unmerged, together, strict=True))
    return (
        Line(name="ΔW", formula="(α / r) · B A", substituted="", value=floats(parsed.update)),
        Line(name="W₀ as stored", formula=f"{typed.stored}(W₀)", substituted="", value=floats(base)),
        Line(name="merged", formula=f"{typed.stored}(W₀ + ΔW)", substituted="", value=floats(whole), main=True),
        Line(name="output, unmerged", formula="W₀x + ΔWx", substituted="", value=floats(unmerged)),
        Line(name="output, merged", formula="(W₀ + ΔW)x", substituted="", value=floats(together), main=True),
        Line(
            name="largest difference",
            formula="max |unmerged − merged|",
            substituted="" if lost else "exactly zero",
            value=float(lost),
        ),
    )


FORWARD = WorkedExample(
    name="forward",
    title="A forward pass by hand",
    introduction="The lesson's third example. With B = 0 the output is W₀x, whatever A is.",
    settings=Product,
    lines=forward,
)
MERGE = WorkedExample(
    name="merge",
    title="Merging by hand",
    introduction="The same matrices. The storage format rounds twice: W₀ first, then the sum.",
    settings=Merge,
    lines=merged,
)
