"""The cost of serving a method's layer: its latency compared with the base's in pairs, its weights and its cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from validation.prove import overhead_claims
from validation.prove.drawing import Axis, Curve, Series, Table
from validation.prove.experiment import Experiment, Findings, Setting
from validation.prove.overhead_claims import Cost, Latency
from validation.prove.paired import Paired, paired, quartiles
from validation.prove.served import Served

if TYPE_CHECKING:
    from collections.abc import Sequence

FULL = {"name": "full"}
_ATTENTION = {"r": 16, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
LORA = {"name": "lora", **_ATTENTION}
QLORA = {"name": "qlora", "prepare_model_for_kbit_training": False, **_ATTENTION}
VIRTUAL_TOKENS = 20

DENSE, FOUR_BIT = "the base", "the base in NF4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A served method, and the base with which it is compared."""

    key: str
    name: str
    method: dict[str, Any]
    merged: bool = False
    against: str = DENSE


VARIANTS = (
    Variant(key="full", name="full: a copy of the base", method=FULL),
    Variant(key="lora", name="LoRA", method=LORA),
    Variant(key="lora_merged", name="LoRA, merged", method=LORA, merged=True),
    Variant(key="nf4", name=FOUR_BIT, method=QLORA, merged=True),
    Variant(key="qlora", name="QLoRA", method=QLORA, against=FOUR_BIT),
    Variant(key="qlora_merged", name="QLoRA, merged", method=QLORA, merged=True, against=FOUR_BIT),
    Variant(key="adapter", name="adapters", method={"name": "adapter", "bottleneck_size": 64}),
    Variant(key="prefix", name="prefix", method={"name": "prefix", "num_virtual_tokens": VIRTUAL_TOKENS}),
    Variant(key="prompt", name="prompt", method={"name": "prompt", "num_virtual_tokens": VIRTUAL_TOKENS}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The layer's width, the prompt's tokens, and the number of timed rounds of a prompt and of a token."""

    width: int = 2048
    tokens: int = 128
    prompts: int = 60
    single: int = 300


QUICK = Size(width=256, tokens=32, prompts=4, single=4)


def run(setting: Setting) -> Findings:
    """Compare every variant with its base."""
    size = QUICK if setting.quick else Size()
    bases = {
        DENSE: _served(FULL, size, setting),
        FOUR_BIT: _served(QLORA, size, setting, merged=True),
    }
    costs = {variant.key: _cost(variant, bases[variant.against], size, setting) for variant in VARIANTS}
    setup = (
        f"A Llama layer of width {size.width:,} in bfloat16, with a prompt of {size.tokens} tokens and with one token,"
        " timed alternately with its base."
    )
    return Findings(
        claims=overhead_claims.claims(costs, setup),
        curves=(
            _curve("overhead-prefill", f"a prompt of {size.tokens} tokens", [cost.prompt for cost in costs.values()]),
            _curve("overhead-decode", "one token", [cost.token for cost in costs.values()]),
        ),
        tables=(_table(costs, size),),
    )


def _served(method: dict[str, Any], size: Size, setting: Setting, *, merged: bool = False) -> Served:
    return Served(method, size.width, size.tokens, setting.device, merged=merged)


def _cost(variant: Variant, base: Served, size: Size, setting: Setting) -> Cost:
    """Time a variant alternately with its base, and count its bytes."""
    served = _served(variant.method, size, setting, merged=variant.merged)
    prompts = paired(base.prompt, served.prompt, rounds=size.prompts, device=setting.device)
    setting.step()
    tokens = paired(base.token, served.token, rounds=size.single, device=setting.device)
    setting.step()
    return Cost(
        prompt=_latency(variant, "prompt", prompts),
        token=_latency(variant, "token", tokens),
        weights=served.weight_bytes,
        more_weights=served.weight_bytes - base.weight_bytes,
        cache=served.cache_bytes(),
        more_cache=served.cache_bytes() - base.cache_bytes(),
    )


def _latency(variant: Variant, work: str, times: Paired) -> Latency:
    return Latency(
        ratio=quartiles(f"{variant.key}_{work}", f"{variant.name} over {variant.against}, a {work}", times.ratios),
        control=quartiles(f"{variant.key}_{work}_control", f"{variant.against} over itself, a {work}", times.control),
    )


def _curve(id: str, title: str, latencies: Sequence[Latency]) -> Curve:  # noqa: A002  (the name of Curve's field)
    """Bars with quartiles, one per variant."""
    return Curve(
        id=id,
        title=f"Latency of {title}, relative to the base",
        x=Axis(label="method"),
        y=Axis(label="ratio", unit="×"),
        series=(
            Series(
                name="median and quartiles",
                x=[
                    f"{variant.name}, over NF4" if variant.against == FOUR_BIT else variant.name for variant in VARIANTS
                ],
                y=[latency.ratio.value for latency in latencies],
                low=[latency.ratio.low or 0 for latency in latencies],
                high=[latency.ratio.high or 0 for latency in latencies],
            ),
        ),
        timing=True,
    )


def _table(costs: dict[str, Cost], size: Size) -> Table:
    columns = {
        "method": Axis(label="method"),
        "against": Axis(label="compared with"),
        "weights": Axis(label="weights", unit="bytes"),
        "more_weights": Axis(label="more weights than the base", unit="bytes"),
        "cache": Axis(label="keys and values", unit="bytes"),
        "more_cache": Axis(label="more keys and values than the base", unit="bytes"),
    }
    rows = tuple(
        (variant.name, variant.against, cost.weights, cost.more_weights, cost.cache, cost.more_cache)
        for variant, cost in zip(VARIANTS, costs.values(), strict=True)
    )
    title = f"Memory of a served layer after {size.tokens} tokens"
    return Table(id="overhead-memory", title=title, columns=columns, rows=rows)


def steps(quick: bool) -> int:
    """Return the number of steps: two per variant."""
    return 2 * len(VARIANTS)


EXPERIMENT = Experiment(
    name="overhead", title="Inference overhead", section="4. Adapters; 6. Comparison", steps=steps, run=run
)
