"""What a plan tries of each method: the settings that it prefers first, then those that need less memory.

The order follows the rules `all_linear`, `rank`, `not_prepared` and `states_8bit` (calculator/plan/reasons/rules.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError
from calculator.inputs.training import Training
from calculator.methods import Adapter, Full, LoRA, Method, Prefix, Prompt, QLoRA
from calculator.plan.evaluator import Choice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from calculator.architecture.model import Model
    from calculator.common.names import OptimizerName
    from calculator.plan.evaluator import Evaluator

#: Ranks that a plan begins with and goes down to; those below 4 only where the trained share or the tasks ask for them.
RANKS = (16, 8, 4)
SMALLER_RANKS = (2, 1)

#: Ranks that are offered beside, where they fit: the largest of them.
LARGER_RANKS = (64, 32)

#: alpha over r. Source: Biderman et al. 2024, appendix.
ALPHA = 2

BOTTLENECKS = (64, 32, 16)
SMALLER_BOTTLENECKS = (8, 4, 2, 1)

#: Virtual tokens: PEFT's default first.
TOKENS = (20,)
FEWER_TOKENS = (10, 5, 2, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A method with its settings, and an optimizer."""

    method: Method
    optimizer: OptimizerName = "adamw_torch"


def rungs(name: str, evaluator: Evaluator) -> tuple[Rung, ...]:
    """What is tried of a method, preferred first and thriftiest last; nothing where it would train too large a share.

    Raises:
        PlanError: where the method can't be put on the model.
    """
    return tuple(_RUNGS[name](evaluator))


def low_rank(cls: type[LoRA | QLoRA], r: int, targets: Any, **settings: Any) -> LoRA | QLoRA:
    """LoRA or QLoRA of a rank, with its alpha."""
    return cls(r=r, lora_alpha=ALPHA * r, target_modules=targets, **settings)


def targets(evaluator: Evaluator) -> tuple[Any, ...]:
    """What low-rank methods may adapt, best first: every linear layer where PEFT can, and attention's projections."""
    try:
        LoRA(target_modules="all-linear").check(evaluator.model, Training())
    except PlanError:
        return (attention_names(evaluator.model),)
    return ("all-linear", attention_names(evaluator.model))


def attention_names(model: Model) -> tuple[str, ...]:
    """The names of the linear layers of attention to text, as PEFT matches them."""
    paths = [path for path, module in model.running if module.kind in ("linear", "conv1d")]
    inside = [path for path in paths if "att" in path.lower()]
    return tuple(dict.fromkeys(_named(path, paths, inside) for path in inside))


def _named(path: str, paths: list[str], inside: list[str]) -> str:
    """The last part of a path, or as many as tell it from modules outside attention."""
    parts = path.split(".")
    for length in range(1, len(parts) + 1):
        name = ".".join(parts[-length:])
        if all(other in inside for other in paths if other == name or other.endswith(f".{name}")):
            return name
    return path


def usual(method: Method, evaluator: Evaluator) -> Method:
    """A method as a plan would have it first, whatever it trains and whatever its tasks take at once."""
    if isinstance(method, LoRA | QLoRA):
        return replace(method, r=RANKS[0], lora_alpha=ALPHA * RANKS[0], target_modules=targets(evaluator)[0])
    if isinstance(method, Adapter):
        return replace(method, bottleneck_size=BOTTLENECKS[0])
    return replace(method, num_virtual_tokens=TOKENS[0]) if isinstance(method, Prefix | Prompt) else method


def _full(evaluator: Evaluator) -> Iterator[Rung]:
    if _few_enough(evaluator, (Full(),)):
        yield Rung(method=Full())
        yield Rung(method=Full(), optimizer="adamw_8bit")
        yield Rung(method=Full(), optimizer="paged_adamw_8bit")


def _lora(evaluator: Evaluator) -> Iterator[Rung]:
    methods = _ranked(evaluator, LoRA)
    if methods:
        yield Rung(method=methods[0])
        yield from (Rung(method=method, optimizer="paged_adamw_8bit") for method in methods)


def _qlora(evaluator: Evaluator) -> Iterator[Rung]:
    methods = _ranked(evaluator, QLoRA)
    if methods:
        yield Rung(method=methods[0])
        bare = _ranked(evaluator, QLoRA, prepare_model_for_kbit_training=False)
        yield Rung(method=bare[0])
        yield from (Rung(method=method, optimizer="paged_adamw_8bit") for method in bare)


def _ranked(evaluator: Evaluator, cls: type[LoRA | QLoRA], **settings: Any) -> list[Method]:
    """Every admitted rank on the best targets; smaller targets only where no rank of those is admitted or held."""
    found: list[Method] = []
    for where in targets(evaluator):
        usual, smaller = ([low_rank(cls, r, where, **settings) for r in ranks] for ranks in (RANKS, SMALLER_RANKS))
        found = _admitted(evaluator, usual, smaller) or found
        if found and _held(evaluator, found[0]):
            break
    return found


def _adapter(evaluator: Evaluator) -> Iterator[Rung]:
    yield from _optimized(evaluator, lambda size: Adapter(bottleneck_size=size), BOTTLENECKS, SMALLER_BOTTLENECKS)


def _prefix(evaluator: Evaluator) -> Iterator[Rung]:
    yield from _optimized(evaluator, lambda count: Prefix(num_virtual_tokens=count), TOKENS, FEWER_TOKENS)


def _prompt(evaluator: Evaluator) -> Iterator[Rung]:
    yield from _optimized(evaluator, lambda count: Prompt(num_virtual_tokens=count), TOKENS, FEWER_TOKENS)


def _optimized(
    evaluator: Evaluator, method: Callable[[int], Method], sizes: tuple[int, ...], smaller: tuple[int, ...]
) -> Iterator[Rung]:
    methods = _admitted(evaluator, map(method, sizes), map(method, smaller))
    if methods:
        yield Rung(method=methods[0])
        yield from (Rung(method=each, optimizer="paged_adamw_8bit") for each in methods)


def _admitted(evaluator: Evaluator, usual: Iterable[Method], smaller: Iterable[Method]) -> list[Method]:
    """Of the usual sizes, or else the largest of the smaller ones, those that train and hold what the needs allow.

    Where every task is to be held at once and no size is, the least of all.
    """
    few, fewer = _few_enough(evaluator, usual), _few_enough(evaluator, smaller)
    least = [*few, *fewer][-1:]
    if not all(_held(evaluator, method) for method in least):
        return least
    return [method for method in few if _held(evaluator, method)] or [m for m in fewer if _held(evaluator, m)][:1]


def _held(evaluator: Evaluator, method: Method) -> bool:
    """Whether the card holds every task of a method at once, or need not."""
    if not evaluator.needs.switches:
        return True
    thrifty = Choice(method=method, optimizer="paged_adamw_8bit", gradient_checkpointing=method.name != "prefix")
    return evaluator.holds(thrifty)


def _few_enough(evaluator: Evaluator, methods: Iterable[Method]) -> list[Method]:
    """Those that train no larger a share than was asked for."""
    most = evaluator.needs.max_trainable_fraction
    return [method for method in methods if most is None or evaluator.trained_share(method) <= most]


_RUNGS: dict[str, Callable[[Evaluator], Iterator[Rung]]] = {
    "full": _full,
    "lora": _lora,
    "qlora": _qlora,
    "adapter": _adapter,
    "prefix": _prefix,
    "prompt": _prompt,
}
