"""The candidates that a plan tries for each method: preferred settings first, then those that need less memory.

The order follows the rules `all_linear`, `rank`, `not_prepared` and `states_8bit` (`planning/reasons/rules.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError
from calculator.inputs.training import Training
from calculator.methods import METHODS, Full, LoRA, QLoRA
from calculator.methods.low_rank.method import LowRank
from calculator.planning.evaluator import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from calculator.architecture.model import Model
    from calculator.common.names import MethodName, OptimizerName
    from calculator.methods import Method
    from calculator.planning.evaluator import Evaluator

#: The ratio of alpha to r. Source: Biderman et al. 2024, appendix.
ALPHA = 2


def candidates(name: MethodName, evaluator: Evaluator) -> tuple[Candidate, ...]:
    """Return a method's candidates, the preferred one first and the one that needs least memory last.

    There are none if each would train too large a share of the parameters.

    Raises:
        PlanError: if the method can't be applied to the model.
    """
    methods = CANDIDATES[name](evaluator) if name in CANDIDATES else _candidates_by_size(evaluator, METHODS[name]())
    return tuple(methods)


def low_rank(cls: type[LoRA | QLoRA], r: int, targets: Any, **settings: Any) -> LoRA | QLoRA:
    """Return LoRA or QLoRA of a rank, with its alpha."""
    return cls(r=r, lora_alpha=ALPHA * r, target_modules=targets, **settings)


def targets(evaluator: Evaluator) -> tuple[Any, ...]:
    """Return the targets of low-rank methods, the best first.

    The best is every linear layer, if PEFT can adapt them. Attention's projections follow. The layers of a base that
    PEFT's all-linear does not find are listed by name.
    """
    base, model = evaluator.lora.base, evaluator.model
    if base is not None and not base.is_linear:
        return (base.names(model), attention_names(model))
    try:
        LoRA(target_modules="all-linear").check(model, Training())
    except PlanError:
        return (attention_names(model),)
    return ("all-linear", attention_names(model))


def attention_names(model: Model) -> tuple[str, ...]:
    """Return the names of the linear layers in attention to text, as PEFT matches them."""
    paths = [path for path, module in model.running if module.kind in ("linear", "conv1d")]
    inside = [path for path in paths if "att" in path.lower()]
    return tuple(dict.fromkeys(_unambiguous(path, paths, inside) for path in inside))


def _unambiguous(path: str, paths: list[str], inside: list[str]) -> str:
    """Return the shortest end of a path that matches no module outside attention."""
    parts = path.split(".")
    for length in range(1, len(parts) + 1):
        name = ".".join(parts[-length:])
        if all(other in inside for other in paths if other == name or other.endswith(f".{name}")):
            return name
    return path


def preferred(method: Method, evaluator: Evaluator) -> Method:
    """Return the method with the settings that a plan tries first, as far as the needs leave them open."""
    sizes = method.facts.candidate_sizes
    if isinstance(method, LowRank):
        return low_rank_of(method, sizes.usual[0] if sizes else method.r, targets(evaluator)[0])
    return _sized(method, sizes.setting, sizes.usual[0]) if sizes else method


def low_rank_of(method: LoRA | QLoRA, r: int, where: Any) -> LoRA | QLoRA:
    """Return the method with another rank, its alpha, and other targets."""
    return replace(method, r=r, lora_alpha=ALPHA * r, target_modules=where)


def _sized(method: Any, setting: str, size: int) -> Any:
    return replace(method, **{setting: size})


def _full(evaluator: Evaluator) -> Iterator[Candidate]:
    if _few_enough(evaluator, (Full(),)):
        yield Candidate(method=Full())
        if smallest_states(evaluator) == PAGED:
            yield Candidate(method=Full(), optimizer="adamw_8bit")
        yield Candidate(method=Full(), optimizer=smallest_states(evaluator))


def _lora(evaluator: Evaluator) -> Iterator[Candidate]:
    methods = _ranked(evaluator, LoRA)
    if methods:
        yield Candidate(method=methods[0])
        yield from _with_smallest_states(evaluator, methods)


def _qlora(evaluator: Evaluator) -> Iterator[Candidate]:
    storage = {"quant_storage": "bfloat16"} if evaluator.device.sharding == "fsdp" else {}
    methods = _ranked(evaluator, QLoRA, **storage)
    if methods:
        yield Candidate(method=methods[0])
        unprepared = _ranked(evaluator, QLoRA, prepare_model_for_kbit_training=False, **storage)
        yield Candidate(method=unprepared[0])
        yield from _with_smallest_states(evaluator, unprepared)


def _ranked(evaluator: Evaluator, cls: type[LoRA | QLoRA], **settings: Any) -> list[Method]:
    """Return every admitted rank on the best targets.

    Other targets follow only if none of those is admitted and fits.
    """
    sizes = cls.facts.candidate_sizes
    assert sizes is not None
    methods: list[Method] = []
    for where in targets(evaluator):
        usual, smaller = (
            [low_rank(cls, r, where, **settings) for r in ranks] for ranks in (sizes.usual, sizes.smaller)
        )
        methods = _admitted(evaluator, usual, smaller) or methods
        if methods and _fits_every_task(evaluator, methods[0]):
            break
    return methods


def _candidates_by_size(evaluator: Evaluator, method: Method) -> Iterator[Candidate]:
    """Yield a method in each of its candidate sizes, or once with its defaults if it has no sizes."""
    sizes = method.facts.candidate_sizes
    usual = [_sized(method, sizes.setting, size) for size in sizes.usual] if sizes else [method]
    smaller = [_sized(method, sizes.setting, size) for size in sizes.smaller] if sizes else []
    methods = _admitted(evaluator, usual, smaller)
    if methods:
        yield Candidate(method=methods[0])
        yield from _with_smallest_states(evaluator, methods)


#: The optimizer that keeps the least memory on the GPU.
PAGED: OptimizerName = "paged_adamw_8bit"


def smallest_states(evaluator: Evaluator) -> OptimizerName:
    """Return the optimizer that needs the least memory on the device. Those of bitsandbytes fail on FSDP's shards."""
    return "adamw_torch_fused" if evaluator.device.sharding == "fsdp" else PAGED


def _with_smallest_states(evaluator: Evaluator, methods: Iterable[Method]) -> Iterator[Candidate]:
    return (Candidate(method=method, optimizer=smallest_states(evaluator)) for method in methods)


def _admitted(evaluator: Evaluator, usual: Iterable[Method], smaller: Iterable[Method]) -> list[Method]:
    """Return the sizes that the needs admit: the usual sizes, or else the largest of the smaller ones.

    If every task must fit at once and no size does, return the smallest of all.
    """
    few, fewer = _few_enough(evaluator, usual), _few_enough(evaluator, smaller)
    smallest = [*few, *fewer][-1:]
    if not all(_fits_every_task(evaluator, method) for method in smallest):
        return smallest
    return [method for method in few if _fits_every_task(evaluator, method)] or [
        method for method in fewer if _fits_every_task(evaluator, method)
    ][:1]


def _fits_every_task(evaluator: Evaluator, method: Method) -> bool:
    """Return whether the GPU has room for every task at once, or need not have."""
    if not evaluator.needs.switches:
        return True
    checkpointing = not method.facts.refuses_checkpointing
    least = Candidate(method=method, optimizer=smallest_states(evaluator), gradient_checkpointing=checkpointing)
    return evaluator.fits_every_task(least)


def _few_enough(evaluator: Evaluator, methods: Iterable[Method]) -> list[Method]:
    """Return the methods that train no larger a share of all parameters than the needs allow."""
    most = evaluator.needs.max_trainable_fraction
    return [method for method in methods if most is None or evaluator.trained_share(method) <= most]


#: The functions that list candidates, for methods whose candidates differ in more than size.
CANDIDATES: dict[MethodName, Callable[[Evaluator], Iterator[Candidate]]] = {
    "full": _full,
    "lora": _lora,
    "qlora": _qlora,
}
