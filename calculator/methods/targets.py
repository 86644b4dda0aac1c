"""Which modules a low-rank method adapts, by PEFT's rules."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from calculator.common.errors import PlanError, Problem, refusal
from calculator.methods import saved

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.methods.settings import LowRank

#: What `target_modules=None` stands for, by model_type.
#: Source: peft 0.21, peft/utils/constants.py, TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.
DEFAULT_TARGETS: dict[str, tuple[str, ...]] = {
    "bart": ("q_proj", "v_proj"),
    "bert": ("query", "value"),
    "bloom": ("query_key_value",),
    "deberta-v2": ("query_proj", "value_proj"),
    "falcon": ("query_key_value",),
    "gemma": ("q_proj", "v_proj"),
    "gemma2": ("q_proj", "v_proj"),
    "gemma3_text": ("q_proj", "v_proj"),
    "gpt2": ("c_attn",),
    "gpt_bigcode": ("c_attn",),
    "gpt_neo": ("q_proj", "v_proj"),
    "gpt_neox": ("query_key_value",),
    "gptj": ("q_proj", "v_proj"),
    "llama": ("q_proj", "v_proj"),
    "mistral": ("q_proj", "v_proj"),
    "mixtral": ("q_proj", "v_proj"),
    "mpt": ("Wqkv",),
    "opt": ("q_proj", "v_proj"),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "qwen2": ("q_proj", "v_proj"),
    "qwen3": ("q_proj", "v_proj"),
    "roberta": ("query", "value"),
    "stablelm": ("q_proj", "v_proj"),
    "t5": ("q", "v"),
    "xlm-roberta": ("query", "value"),
}


_EXPERTS = ("gate", "gate_proj", "up_proj", "down_proj")

#: Names that PEFT turns into whole parameters, experts and routers being no linear layers in transformers 5.
#: Source: peft 0.21, peft/utils/transformers_weight_conversion.py, _MOE_TARGET_MODULE_MAPPING.
FUSED_EXPERTS: dict[str, tuple[str, ...]] = {
    "deepseek_v2": _EXPERTS,
    "deepseek_v3": _EXPERTS,
    "mixtral": ("gate", "w1", "w2", "w3"),
    "olmoe": _EXPERTS,
    "qwen3_moe": _EXPERTS,
}


#: Linear layers of a class that returns more than a tensor, which PEFT's layer can't take.
#: Source: transformers/models/phimoe/modeling_phimoe.py, PhimoeTopKRouter.
ROUTERS: dict[str, str] = {"phimoe": "router"}

#: What the families' modules of attention are called: self_attn, attention, SelfAttention, attn, ...
_ATTENTION = re.compile("attn|attention", re.IGNORECASE)


def target_names(method: LowRank, model: Model) -> tuple[str, ...]:
    """The names that a module's path is matched with; empty for `all-linear`.

    Raises:
        PlanError: where the family has no default.
    """
    if method.target_modules == "all-linear":
        return ()
    if method.target_modules is not None:
        return method.target_modules
    if model.model_type not in DEFAULT_TARGETS:
        message = f"PEFT has no default for {model.model_type}: {_way_out(model)}"
        raise refusal("method.target_modules", message, None)
    return DEFAULT_TARGETS[model.model_type]


def attention_projections(model: Model) -> tuple[str, ...]:
    """The names of the linear layers of a model's attention to text, in order."""
    paths = [path.split(".") for path, module in model.running if module.kind in ("linear", "conv1d")]
    named = (parts[-1] for parts in paths if any(_ATTENTION.search(part) for part in parts[:-1]))
    return tuple(dict.fromkeys(named))


def nearest(method: LowRank, model: Model) -> Literal["all-linear"] | tuple[str, ...] | None:
    """The targets nearest to those asked for that are not refused, if there are any.

    Those of them that can be adapted; else every linear layer; else the attention's projections.
    """

    def accepted(asked: Literal["all-linear"] | tuple[str, ...]) -> bool:
        try:
            check(replace(method, target_modules=asked), model)
        except PlanError:
            return False
        return True

    asked = method.target_modules if isinstance(method.target_modules, tuple) else ()
    kept = tuple(name for name in asked if accepted((name,)))
    ways: tuple[Literal["all-linear"] | tuple[str, ...], ...] = (kept, "all-linear", attention_projections(model))
    return next((way for way in ways if way and accepted(way)), None)


def _way_out(model: Model) -> str:
    """What may be named of this very model, and whether all of its linear layers may be asked for."""
    named = f"name the attention's projections ({', '.join(attention_projections(model))})"
    return named if _not_adapted(model) else f'{named}, or use "all-linear"'


def _not_adapted(model: Model) -> tuple[str, ...]:
    """Names that are refused though PEFT or the model has modules of that name."""
    router = ROUTERS.get(model.model_type)
    return (*FUSED_EXPERTS.get(model.model_type, ()), *((router,) if router else ()))


def is_named(path: str, names: tuple[str, ...]) -> bool:
    """Whether a module's path is one of the names or ends in one (peft.tuners.tuners_utils)."""
    return any(path == name or path.endswith(f".{name}") for name in names)


def is_target(path: str, module: Module, method: LowRank, model: Model) -> bool:
    """Whether a low-rank update goes beside this module."""
    return not saved.is_saved(path, method) and _is_asked(path, module, method, model)


def _is_asked(path: str, module: Module, method: LowRank, model: Model) -> bool:
    if method.target_modules == "all-linear":
        return module.kind in ("linear", "conv1d") and path != model.head
    return is_named(path, target_names(method, model))


def check(method: LowRank, model: Model) -> None:
    """Refuse targets that PEFT refuses, and those that are not modelled.

    Raises:
        PlanError: with every reason found.
    """
    names = target_names(method, model)
    paths = dict(model.paths)
    asked = {path: module for path, module in paths.items() if _is_asked(path, module, method, model)}
    problems = [*_numbered(method), *_idle(method, model, asked)]
    problems += [*saved.problems(method, model, [*asked]), *_experts(method, model)]
    found = {path: module for path, module in asked.items() if not saved.is_saved(path, method)}
    if not found and not problems:
        known = {path.rpartition(".")[2] for path, module in paths.items() if _adaptable(module)}
        able = ", ".join(sorted(known.difference(_not_adapted(model))))
        message = f"no module is named {' or '.join(names)}; those that can be adapted are {able}"
        problems.append(Problem(loc="method.target_modules", msg=message, input=_listed(method.target_modules)))
    problems += (
        Problem(loc="method.target_modules", msg=f"{path} is no linear layer: PEFT can't adapt it", input=path)
        for path, module in found.items()
        if not _adaptable(module)
    )
    problems += _routers(method, model, found)
    if method.use_dora and any(module.kind == "embedding" for module in found.values()):
        message = "DoRA on an embedding is not modelled: leave the embedding out, or use_dora false"
        problems.append(Problem(loc="method.use_dora", msg=message, input=True))
    if problems:
        raise PlanError(*problems)


def _idle(method: LowRank, model: Model, asked: Iterable[str]) -> Iterator[Problem]:
    """Targets that a batch of text passes by, where nothing else is trained: PyTorch finds nothing to go back to."""
    saves = any(method.copies(path) for path, _ in model.running)
    if model.idle and not saves and all(map(model.is_idle, asked)):
        yield Problem(
            loc="method.target_modules",
            msg=f"nothing is trained that a batch of text comes to: {_way_out(model)}",
            input=method.target_modules,
        )


def _experts(method: LowRank, model: Model) -> Iterator[Problem]:
    """Fused experts, which PEFT adapts as whole parameters: not modelled; without names it finds nothing at all."""
    fused = FUSED_EXPERTS.get(model.model_type, ())
    asked = method.target_modules
    if not fused or (isinstance(asked, tuple) and not any(is_named(name, fused) for name in asked)):
        return
    message = (
        f"PEFT finds no default in {model.model_type}, whose experts are fused"
        if asked is None
        else f"adapting the fused experts or the router of {model.model_type} is not modelled"
    )
    message = f"{message}: {_way_out(model)}"
    yield Problem(loc="method.target_modules", msg=message, input=_listed(asked))


def _routers(method: LowRank, model: Model, found: Iterable[str]) -> Iterator[Problem]:
    """A router that is a linear layer to PEFT, though what it returns is none of a linear layer."""
    router = ROUTERS.get(model.model_type)
    if router and any(is_named(path, (router,)) for path in found):
        message = f"the router of {model.model_type} returns a tuple, which PEFT can't adapt: {_way_out(model)}"
        yield Problem(loc="method.target_modules", msg=message, input=_listed(method.target_modules))


def _adaptable(module: Module) -> bool:
    return module.kind in ("linear", "conv1d", "embedding")


def _numbered(method: LowRank) -> Iterator[Problem]:
    """Names that pick single layers: every layer of a kind is planned alike."""
    named = method.target_modules if isinstance(method.target_modules, tuple) else ()
    for field, names in (("target_modules", named), ("modules_to_save", method.modules_to_save or ())):
        for name in names:
            if any(part.isdigit() for part in name.split(".")):
                message = f"{name} picks one layer; plans that treat layers differently are not modelled"
                yield Problem(loc=f"method.{field}", msg=message, input=list(names))


def _listed(names: str | tuple[str, ...] | None) -> str | list[str] | None:
    return list(names) if isinstance(names, tuple) else names
