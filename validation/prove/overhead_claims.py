"""The lesson's claims about each method's overhead at inference, compared with measured ratios.

"None" means less than the lesson's smallest overhead. Bounds are wider by the uncertainty of the measurement.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from validation.prove.claim import Check, Claim, Figure
from validation.prove.paired import median_uncertainty

#: The lesson's overhead of adapters, in per cent.
ADAPTERS = (1, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """A variant's latency relative to its base, and the base's relative to itself in the same minutes."""

    ratio: Figure
    control: Figure

    @property
    def none(self) -> Check:
        """The check that no latency is added, or less than the lesson's smallest overhead."""
        return Check(figure=self.ratio, relation="at most", bounds=(1 + ADAPTERS[0] / 100 + self.uncertainty,))

    @property
    def as_adapters(self) -> Check:
        """The check that the lesson's overhead of adapters is added."""
        low, high = ADAPTERS
        bounds = (low - 100 * self.uncertainty, high + 100 * self.uncertainty)
        return Check(figure=self.added, relation="between", bounds=bounds)

    @property
    def uncertainty(self) -> float:
        """The uncertainty of the median ratio, from the base's ratios to itself."""
        return median_uncertainty(self.control)

    @property
    def added(self) -> Figure:
        """The added latency in per cent."""
        figure = self.ratio
        low, high = ((end or 0) - 1 for end in (figure.low, figure.high))
        return replace(
            figure,
            key=f"{figure.key}_added",
            name=f"added by {figure.name}",
            value=100 * (figure.value - 1),
            low=100 * low,
            high=100 * high,
            unit="%",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """A variant compared with its base: latencies, and bytes of weights, keys and values."""

    prompt: Latency
    token: Latency
    weights: int
    more_weights: int
    cache: int
    more_cache: int

    @property
    def ratios(self) -> tuple[Figure, Figure]:
        """The latencies relative to the base."""
        return self.prompt.ratio, self.token.ratio

    @property
    def controls(self) -> tuple[Figure, Figure]:
        """The base's latencies relative to itself."""
        return self.prompt.control, self.token.control

    def grown(self, key: str) -> tuple[Figure, Figure]:
        """Return the bytes in excess of the base's."""
        return (
            Figure(key=f"{key}_weights", name="more weights than the base", value=self.more_weights, unit="bytes"),
            Figure(key=f"{key}_cache", name="more keys and values than the base", value=self.more_cache, unit="bytes"),
        )


def claims(costs: dict[str, Cost], setup: str) -> tuple[Claim, ...]:
    """Return one claim per line of the lesson's table."""
    return (
        _none(
            "lora_merged",
            "Merged LoRA has no overhead at inference.",
            "LoRA with r 16 on q, k, v and o.",
            costs,
            setup,
            "lora",
        ),
        _quantized(costs, setup),
        _adapters(costs, setup),
        _none(
            "prefix", "A prefix has no overhead at inference.", "Its keys and values are in the cache.", costs, setup
        ),
        _none("prompt", "A prompt has no overhead at inference.", "Its tokens precede the prompt's.", costs, setup),
    )


def _none(key: str, lesson: str, how: str, costs: dict[str, Cost], setup: str, unmerged: str | None = None) -> Claim:
    """Return a claim of no overhead in latency or memory; the figures of the variant `unmerged` are listed too."""
    cost = costs[key]
    grown = cost.grown(key)
    others = costs[unmerged].ratios if unmerged else ()
    return Claim(
        id=f"overhead-{key.replace('_', '-')}",
        lesson=lesson,
        done=f"{setup} {how} No overhead means less than {ADAPTERS[0]} %, plus the uncertainty of the measurement.",
        figures=(*cost.ratios, *cost.controls, *others, *grown),
        checks=(
            cost.prompt.none,
            cost.token.none,
            *(Check(figure=figure, relation="equal to", bounds=(0,)) for figure in grown),
        ),
    )


def _quantized(costs: dict[str, Cost], setup: str) -> Claim:
    """Merged QLoRA compared with its base in NF4, and that base compared with an unquantized one."""
    prompt, token = costs["nf4"].ratios
    in_nf4 = _none(
        "qlora_merged", "Merged QLoRA has no overhead at inference.", "Merged into NF4.", costs, setup, "qlora"
    )
    return replace(
        in_nf4,
        figures=(*in_nf4.figures, prompt, token),
        remark=f"This is compared with a base in NF4, whose latency here is {prompt.value:.2f} times that of an"
        f" unquantized base for a prompt and {token.value:.2f} times for a token.",
    )


def _adapters(costs: dict[str, Cost], setup: str) -> Claim:
    cost = costs["adapter"]
    return Claim(
        id="overhead-adapter",
        lesson=f"Adapters add {ADAPTERS[0]} to {ADAPTERS[1]} % of latency at inference.",
        done=f"{setup} Two adapters with a bottleneck of 64. The bounds include the uncertainty of the measurement.",
        figures=(cost.prompt.added, cost.token.added, *cost.controls, *cost.grown("adapter")),
        checks=(cost.prompt.as_adapters, cost.token.as_adapters),
        remark="On a GPU at batch 1, launching small kernels costs more than their products: Hu et al. (2021, table 1)"
        " measured 20 to 30 % there, which is not measured here.",
    )
