"""Parts of a tool's configuration: keys with their values, and what they leave unsaid; and the file that they make."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from app.interop.exports.exported import Exported, NotExpressed
from app.interop.exports.header import header
from calculator.common.errors import refusal
from calculator.methods import QLoRA
from calculator.methods.targeted.matching import target_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.interop.exports.planned import Planned
    from calculator.architecture.model import Model
    from calculator.common.names import MethodName
    from calculator.methods.low_rank.method import LowRank

#: Where a tool looks for a model that has no hub id.
FOLDER = "./model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Keys under a heading, and the settings that they can't say."""

    heading: str
    keys: dict[str, Any]
    not_expressed: tuple[NotExpressed, ...] = field(default=())


def differs(loc: str, value: Any, why: str) -> NotExpressed:
    """A setting that a tool takes otherwise."""
    return NotExpressed(loc=loc, value=list(value) if isinstance(value, tuple) else value, why=why)


def assembled(planned: Planned, filename: str, run: Sequence[str], parts: Sequence[Part]) -> Exported:
    """The YAML file of some parts, the estimate at its head."""
    unsaid = tuple(each for part in parts for each in part.not_expressed)
    blocks = [f"# {part.heading}\n{dumped(part.keys)}" for part in parts]
    return Exported(
        filename=filename,
        media_type="application/yaml",
        content="\n".join((header(planned.request, planned.plan, run, unsaid) + "\n", *blocks)),
        not_expressed=unsaid,
    )


def dumped(keys: dict[str, Any]) -> str:
    """Keys as YAML text, in their order."""
    told: str = yaml.safe_dump(keys, sort_keys=False, allow_unicode=True, width=1000)
    return told


def named_model(planned: Planned, key: str) -> Part:
    """The model by its hub id; by a folder where it has none."""
    if planned.model.id is not None:
        return Part(heading="Model", keys={key: planned.model.id})
    why = f"a model without a hub id is read from a folder: put its config.json and weights into {FOLDER}"
    return Part(heading="Model", keys={key: FOLDER}, not_expressed=(differs("model.config", None, why),))


def targets(method: LowRank, model: Model) -> tuple[str, ...] | None:
    """The names of the modules to adapt; None where those are all that a tool finds by looking for linear layers.

    Both look for classes with Linear in their name, which Conv1D is not, and leave out the head by its usual name,
    which axolotl takes for embed_out in gpt_neox. Source: axolotl, loaders/adapter.py, find_all_linear_names, and
    loaders/utils.py; LLaMA-Factory, model/model_utils/misc.py, find_all_linear_modules.
    """
    if method.target_modules != "all-linear":
        return target_names(method, model)
    linear = [(path, module) for path, module in model.paths if module.kind in ("linear", "conv1d")]
    usual_head = model.head in (None, "lm_head") and model.model_type != "gpt_neox"
    if usual_head and all(module.kind == "linear" for _, module in linear):
        return None
    return tuple(dict.fromkeys(path.rpartition(".")[2] for path, _ in linear if path != model.head))


def whole_alpha(method: LowRank) -> tuple[int, tuple[NotExpressed, ...]]:
    """lora_alpha as the whole number that both tools take."""
    alpha = round(method.lora_alpha)
    if alpha == method.lora_alpha and alpha > 0:
        return alpha, ()
    why = "the tool takes whole numbers from 1; the scale changes, the memory does not"
    return max(alpha, 1), (differs("method.lora_alpha", method.lora_alpha, why),)


def untaken(method: LowRank) -> tuple[NotExpressed, ...]:
    """Settings of low-rank methods that neither tool has a key for."""
    told = []
    if method.bias != "none":
        told.append(differs("method.bias", method.bias, "the tool trains no biases beside the updates"))
    if isinstance(method, QLoRA) and method.blocksize != 64:
        told.append(differs("method.blocksize", method.blocksize, "bitsandbytes' usual 64 is all that the tool takes"))
    return tuple(told)


#: Dtypes of a run: of the weights, and of autocast.
Dtypes = tuple[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """One of a tool's ways to say dtypes: its keys, the dtypes that it then runs in, and what that rests on."""

    keys: dict[str, Any]
    runs: Dtypes
    why: str


def precision(planned: Planned, ways: Sequence[Precision]) -> tuple[dict[str, Any], tuple[NotExpressed, ...]]:
    """The way that runs in the plan's dtypes; where there is none, the first with the same dtype of weights, or all."""
    training = planned.request.training
    asked: Dtypes = (training.dtype, training.autocast)
    near = [way for way in ways if way.runs[0] == training.dtype] or list(ways)
    chosen = next((way for way in near if way.runs == asked), near[0])
    told = (("training.dtype", 0), ("training.autocast", 1))
    return chosen.keys, tuple(
        differs(loc, asked[part], chosen.why) for loc, part in told if asked[part] != chosen.runs[part]
    )


def cached(planned: Planned) -> tuple[NotExpressed, ...]:
    """The Trainer of transformers 5 switches the cache off. Source: transformers/trainer.py, args.use_cache."""
    if planned.request.training.gradient_checkpointing or not planned.model.config.get("use_cache"):
        return ()
    why = "the Trainer switches the cache of keys and values off: the tool needs less than the figures say"
    return (differs("model.config.use_cache", True, why),)


#: What writes each method's keys for a tool; None where the tool lacks the method.
MethodParts = dict["MethodName", "Callable[[Planned], Part] | None"]


def method_part(planned: Planned, tool: str, parts: MethodParts) -> Part:
    """The keys of the plan's method.

    Raises:
        PlanError: where the tool lacks the method.
    """
    name = planned.request.method.name
    part = parts[name]
    if part is None:
        *others, last = (known for known, each in parts.items() if each is not None)
        message = f"{tool} has no {name} method, only {', '.join(others)} and {last}: take the format peft"
        raise refusal("method.name", message, name)
    return part(planned)
