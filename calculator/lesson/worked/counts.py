"""Parameter counts by the lesson's formulas, for numbers that the reader chooses."""

from __future__ import annotations

from dataclasses import dataclass

from calculator.estimation.textbook import (
    WEIGHT_BYTES,
    adapter_parameters,
    compression,
    lora_parameters,
    prefix_parameters,
    prompt_parameters,
)
from calculator.inputs.settings import setting
from calculator.lesson.worked.line import Line, WorkedExample


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraCount:
    """The shape and number of the adapted matrices, and the rank."""

    d: int = setting(4096, label="Rows", help="d, out_features of the matrix.", minimum=1, maximum=10**6)
    k: int = setting(4096, label="Columns", help="k, in_features.", minimum=1, maximum=10**6)
    r: int = setting(8, label="Rank", help="r of the update.", minimum=1, maximum=65_536)
    matrices: int = setting(4, label="Matrices a layer", help="4 for Q, K, V and O.", minimum=1, maximum=1000)
    layers: int = setting(32, label="Layers", help="L.", minimum=1, maximum=1000)
    base: int = setting(7 * 10**9, label="Base model", help="Its parameters.", minimum=1, maximum=10**15)


def lora(typed: LoraCount) -> tuple[Line, ...]:
    """Return the parameters per matrix and in total, their share, and the compression."""
    d, k, r = typed.d, typed.k, typed.r
    one = lora_parameters(d, k, r)
    every = typed.layers * typed.matrices * one
    return (
        Line(name="B", formula="d × r", substituted=f"{d:,} × {r:,}", value=d * r, unit="parameters"),
        Line(name="A", formula="r × k", substituted=f"{r:,} × {k:,}", value=r * k, unit="parameters"),
        Line(
            name="one matrix",
            formula="r × (d + k)",
            substituted=f"{r:,} × ({d:,} + {k:,})",
            value=one,
            unit="parameters",
        ),
        Line(
            name="compression of the matrix",
            formula="d × k ÷ (r × (d + k))",
            substituted=f"{d * k:,} ÷ {one:,}",
            value=compression(d, k, r),
            unit="×",
        ),
        _total_line("L × matrices × r × (d + k)", f"{typed.layers:,} × {typed.matrices:,} × {one:,}", every),
        *_share(every, typed.base),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCount:
    """The model's width and depth, and the adapter's."""

    d: int = setting(4096, label="Width", help="d, the hidden size.", minimum=1, maximum=10**6)
    r: int = setting(64, label="Bottleneck", help="r, the adapter's inner width.", minimum=1, maximum=65_536)
    layers: int = setting(32, label="Layers", help="L.", minimum=1, maximum=1000)
    pieces: int = setting(2, label="Adapters a layer", help="2 after Houlsby, 1 after Pfeiffer.", minimum=1, maximum=10)
    base: int = setting(7 * 10**9, label="Base model", help="Its parameters.", minimum=1, maximum=10**15)


def adapter(typed: AdapterCount) -> tuple[Line, ...]:
    """Return the parameters per adapter and in total, with and without biases."""
    d, r, n = typed.d, typed.r, typed.layers * typed.pieces
    one = adapter_parameters(d, r)
    return (
        Line(
            name="one adapter",
            formula="2 × d × r + r + d",
            substituted=f"2 × {d:,} × {r:,} + {r:,} + {d:,}",
            value=one,
            unit="parameters",
        ),
        _total_line("L × adapters × (2 × d × r + r + d)", f"{typed.layers:,} × {typed.pieces:,} × {one:,}", n * one),
        Line(
            name="without the biases",
            formula="L × adapters × 2 × d × r",
            substituted=f"{typed.layers:,} × {typed.pieces:,} × 2 × {d:,} × {r:,}",
            value=2 * n * d * r,
            unit="parameters",
        ),
        *_share(n * one, typed.base),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixCount:
    """The length of the prefix, and the heads that determine the width of the keys."""

    p: int = setting(20, label="Virtual tokens", help="p.", minimum=1, maximum=1_000_000)
    d: int = setting(4096, label="Width", help="d, the hidden size.", minimum=1, maximum=10**6)
    layers: int = setting(40, label="Layers", help="L.", minimum=1, maximum=1000)
    heads: int = setting(32, label="Heads", help="Query heads.", minimum=1, maximum=1000)
    kv_heads: int = setting(
        32, label="Key and value heads", help="Fewer with grouped-query attention.", minimum=1, maximum=1000
    )
    base: int = setting(13 * 10**9, label="Base model", help="Its parameters.", minimum=1, maximum=10**15)


def prefix(typed: PrefixCount) -> tuple[Line, ...]:
    """Return the parameters of the prefix by the lesson's formula, and with the actual width of the keys."""
    p, d, L = typed.p, typed.d, typed.layers
    width = d // typed.heads * typed.kv_heads
    count = prefix_parameters(p, width, L)
    return (
        Line(
            name="by the lesson's formula",
            formula="2 × p × d × L",
            substituted=f"2 × {p:,} × {d:,} × {L:,}",
            value=prefix_parameters(p, d, L),
            unit="parameters",
        ),
        Line(
            name="width of keys and values",
            formula="d ÷ heads × kv heads",
            substituted=f"{d:,} ÷ {typed.heads:,} × {typed.kv_heads:,}",
            value=width,
        ),
        _total_line("2 × p × width × L", f"2 × {p:,} × {width:,} × {L:,}", count),
        *_share(count, typed.base),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCount:
    """The length of the prompt and the width of the model."""

    p: int = setting(20, label="Virtual tokens", help="p.", minimum=1, maximum=1_000_000)
    d: int = setting(4096, label="Width", help="d, the hidden size.", minimum=1, maximum=10**6)
    base: int = setting(13 * 10**9, label="Base model", help="Its parameters.", minimum=1, maximum=10**15)


def prompt(typed: PromptCount) -> tuple[Line, ...]:
    """Return the parameters of the prompt, their share and the size of the file."""
    count = prompt_parameters(typed.p, typed.d)
    return (_total_line("p × d", f"{typed.p:,} × {typed.d:,}", count), *_share(count, typed.base))


def _total_line(formula: str, substituted: str, count: int) -> Line:
    return Line(name="total", formula=formula, substituted=substituted, value=count, unit="parameters", main=True)


def _share(count: int, base: int) -> tuple[Line, ...]:
    return (
        Line(
            name="share of the base model",
            formula="trained ÷ base",
            substituted=f"{count:,} ÷ {base:,}",
            value=100 * count / base,
            unit="%",
        ),
        Line(
            name="a task's file in 16 bits",
            formula=f"{WEIGHT_BYTES} × trained",
            substituted=f"{WEIGHT_BYTES} × {count:,}",
            value=WEIGHT_BYTES * count,
            unit="bytes",
        ),
    )


LORA = WorkedExample(
    name="count",
    title="Parameters of the update",
    introduction="The lesson's first example. Its first problem has one matrix of 1024 × 4096 with r 16.",
    settings=LoraCount,
    lines=lora,
)
ADAPTER = WorkedExample(
    name="count",
    title="Parameters of the adapters",
    introduction="The lesson's figures: two adapters in each of 32 layers.",
    settings=AdapterCount,
    lines=adapter,
)
PREFIX = WorkedExample(
    name="count",
    title="Parameters of the prefix",
    introduction="The lesson's fifth problem. With fewer key heads the prefix is narrower.",
    settings=PrefixCount,
    lines=prefix,
)
PROMPT = WorkedExample(
    name="count",
    title="Parameters of the prompt",
    introduction="Embeddings in front of the input; nothing in the layers.",
    settings=PromptCount,
    lines=prompt,
)
