"""What the lesson says of each method's overhead at inference, held against measured ratios.

"None" is less than the lesson's smallest overhead. Bounds are wider by what the rounds leave uncertain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from validation.prove.claim import Check, Claim, Figure
from validation.prove.paired import uncertainty

#: The lesson's, in per cent.
ADAPTERS = (1, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How many times as long as its base a variant takes, and the base beside itself in the same minutes."""

    ratio: Figure
    control: Figure

    @property
    def none(self) -> Check:
        """Whether nothing is added, or so little that the lesson would not tell it."""
        return Check(figure=self.ratio, relation="at most", bounds=(1 + ADAPTERS[0] / 100 + self.uncertain,))

    @property
    def as_adapters(self) -> Check:
        """Whether as much is added as the lesson says of adapters."""
        low, high = ADAPTERS
        bounds = (low - 100 * self.uncertain, high + 100 * self.uncertain)
        return Check(figure=self.added, relation="between", bounds=bounds)

    @property
    def uncertain(self) -> float:
        """How far a median of these rounds may be from the true ratio, by the base beside itself."""
        return uncertainty(self.control)

    @property
    def added(self) -> Figure:
        """The same in per cent that are added."""
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
    """A variant against its base: latencies, and bytes of weights and of keys and values."""

    prompt: Latency
    token: Latency
    weights: int
    more_weights: int
    cache: int
    more_cache: int

    @property
    def ratios(self) -> tuple[Figure, Figure]:
        """The latencies over the base's."""
        return self.prompt.ratio, self.token.ratio

    @property
    def controls(self) -> tuple[Figure, Figure]:
        """The base's own."""
        return self.prompt.control, self.token.control

    def grown(self, key: str) -> tuple[Figure, Figure]:
        """The bytes beyond the base's."""
        return (
            Figure(key=f"{key}_weights", name="more weights than the base", value=self.more_weights, unit="bytes"),
            Figure(key=f"{key}_cache", name="more keys and values than the base", value=self.more_cache, unit="bytes"),
        )


def claims(costs: dict[str, Cost], told: str) -> tuple[Claim, ...]:
    """A claim for each line of the lesson's table."""
    return (
        _none(
            "lora_merged",
            "Merged LoRA has no overhead at inference.",
            "LoRA, r 16 on q, k, v and o.",
            costs,
            told,
            "lora",
        ),
        _quantized(costs, told),
        _adapters(costs, told),
        _none("prefix", "A prefix has no overhead at inference.", "Its keys and values lie in the cache.", costs, told),
        _none("prompt", "A prompt has no overhead at inference.", "Its tokens stand before the prompt's.", costs, told),
    )


def _none(key: str, lesson: str, how: str, costs: dict[str, Cost], told: str, beside: str | None = None) -> Claim:
    """A claim that there is no overhead in latency or memory. `beside` is a variant whose figures are told too."""
    cost = costs[key]
    grown = cost.grown(key)
    others = costs[beside].ratios if beside else ()
    return Claim(
        id=f"overhead-{key.replace('_', '-')}",
        lesson=lesson,
        done=f"{told} {how} No overhead is less than {ADAPTERS[0]} %, and what the rounds leave uncertain.",
        figures=(*cost.ratios, *cost.controls, *others, *grown),
        checks=(
            cost.prompt.none,
            cost.token.none,
            *(Check(figure=figure, relation="equal to", bounds=(0,)) for figure in grown),
        ),
    )


def _quantized(costs: dict[str, Cost], told: str) -> Claim:
    """Merged QLoRA beside its base in NF4; and that base beside the one that is not quantised."""
    prompt, token = costs["nf4"].ratios
    own = _none("qlora_merged", "Merged QLoRA has no overhead at inference.", "Merged into NF4.", costs, told, "qlora")
    return replace(
        own,
        figures=(*own.figures, prompt, token),
        remark=f"That is beside a base in NF4, which here takes {prompt.value:.2f} times as long for a prompt, and"
        f" {token.value:.2f} times for a token, as one that is not quantised.",
    )


def _adapters(costs: dict[str, Cost], told: str) -> Claim:
    cost = costs["adapter"]
    return Claim(
        id="overhead-adapter",
        lesson=f"Adapters add {ADAPTERS[0]} to {ADAPTERS[1]} % of latency at inference.",
        done=f"{told} Two adapters with a bottleneck of 64. The bounds are wider by what the rounds leave uncertain.",
        figures=(cost.prompt.added, cost.token.added, *cost.controls, *cost.grown("adapter")),
        checks=(cost.prompt.as_adapters, cost.token.as_adapters),
        remark="On a GPU at batch 1 the launches of small kernels count for more than their products: Hu et al. (2021,"
        " table 1) measured 20 to 30 % there, and that is not what was timed here.",
    )
