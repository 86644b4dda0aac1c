"""Memory by the lesson's accounting: full fine-tuning and QLoRA from bare counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.estimation.textbook import accounting, fewest_gpus, lora_parameters
from calculator.inputs.settings import setting
from calculator.lesson.runs import GB, qlora
from calculator.lesson.worked.line import Line, WorkedExample

if TYPE_CHECKING:
    from calculator.estimation.textbook import Accounting

_NAMES = {
    "base_weights": "base weights",
    "adapter_weights": "added weights",
    "gradients": "gradients",
    "optimizer_states": "Adam's m and v",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FullAccount:
    """A parameter count, and the nominal memory of a GPU."""

    base: int = setting(70 * 10**9, label="Parameters", help="N, all of them trained.", minimum=1, maximum=10**15)
    card: int = setting(80, label="Card", help="GB on its data sheet.", minimum=1, maximum=10_000, unit="GB")


def full(typed: FullAccount) -> tuple[Line, ...]:
    """Return the memory at twelve bytes per parameter, and the number of GPUs with that much memory."""
    account = accounting(base=typed.base, added=0, trainable=typed.base)
    return (
        *_lines(account),
        Line(
            name="GPUs, counting memory only",
            formula="⌈total ÷ GPU⌉",
            substituted=f"⌈{account.bytes / GB:,.4g} GB ÷ {typed.card:,} GB⌉",
            value=fewest_gpus(account.bytes, typed.card * GB),
            unit="GPUs",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class QloraAccount:
    """A parameter count in 4 bits, and the low-rank update."""

    base: int = setting(70 * 10**9, label="Parameters", help="N, all of them in 4 bits.", minimum=1, maximum=10**15)
    d: int = setting(8192, label="Rows", help="d of an adapted matrix.", minimum=1, maximum=10**6)
    k: int = setting(8192, label="Columns", help="k of an adapted matrix.", minimum=1, maximum=10**6)
    r: int = setting(64, label="Rank", help="r of the update.", minimum=1, maximum=65_536)
    matrices: int = setting(1, label="Matrices a layer", help="The lesson counts one.", minimum=1, maximum=1000)
    layers: int = setting(80, label="Layers", help="L.", minimum=1, maximum=1000)


def quantized(typed: QloraAccount) -> tuple[Line, ...]:
    """Return the memory at half a byte per base parameter and twelve bytes per added one, and the saving."""
    added = typed.layers * typed.matrices * lora_parameters(typed.d, typed.k, typed.r)
    account = qlora(typed.base, added)
    whole = accounting(base=typed.base, added=0, trainable=typed.base)
    return (
        Line(
            name="trained parameters",
            formula="L × matrices × r × (d + k)",
            substituted=f"{typed.layers:,} × {typed.matrices:,} × {typed.r:,} × ({typed.d:,} + {typed.k:,})",
            value=added,
            unit="parameters",
        ),
        *_lines(account),
        Line(
            name="reduction against full fine-tuning",
            formula="12 × N ÷ total",
            substituted=f"{whole.bytes:,} ÷ {account.bytes:,}",
            value=whole.bytes / account.bytes,
            unit="×",
        ),
    )


def _lines(account: Accounting) -> tuple[Line, ...]:
    parts = tuple(
        Line(
            name=_NAMES[part.name],
            formula=part.formula,
            substituted=part.substituted,
            value=part.bytes,
            unit="bytes",
        )
        for part in account.components
    )
    return (*parts, Line(name="total", formula="the sum", substituted="", value=account.bytes, unit="bytes", main=True))


FULL = WorkedExample(
    name="account",
    title="By the lesson's rules",
    introduction="The lesson's 70B model. Its rules count only weights, gradients and Adam's two states.",
    settings=FullAccount,
    lines=full,
)
QLORA = WorkedExample(
    name="account",
    title="By the lesson's rules",
    introduction="The lesson's table for a 70B model at r 64, with gradients.",
    settings=QloraAccount,
    lines=quantized,
)
