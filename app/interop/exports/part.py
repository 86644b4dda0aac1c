"""Parts of a tool's YAML file: keys with values, and the settings that they cannot express."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from app.interop.exports.checkpoint import base_without_key, unquantized_base
from app.interop.exports.exported import AdditionalFile, Exported, NotExpressed
from app.interop.exports.header import header
from calculator.common.errors import refusal
from calculator.inputs.settings import declared
from calculator.methods import LoRA, QLoRA
from calculator.methods.config_arguments import config_arguments
from calculator.methods.targeted.matching import target_names
from calculator.trainers import trainer_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from app.interop.exports.planned import Planned
    from calculator.architecture.model import Model
    from calculator.common.names import MethodName
    from calculator.inputs.training import Training
    from calculator.methods.low_rank.method import LowRank

#: The folder of a model that has no hub id.
FOLDER = "./model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Keys under a heading, and the settings that they cannot express."""

    heading: str
    keys: dict[str, Any]
    not_expressed: tuple[NotExpressed, ...] = field(default=())


def differs(loc: str, value: Any, why: str) -> NotExpressed:
    """Return a setting that a tool handles differently."""
    return NotExpressed(loc=loc, value=list(value) if isinstance(value, tuple) else value, why=why)


def loraplus(training: Training) -> dict[str, float]:
    """Return the key of LoRA+, which has the same name in all tools."""
    ratio = training.loraplus_lr_ratio
    return {} if ratio is None else {"loraplus_lr_ratio": ratio}


def projection(training: Training, every: str = "all-linear") -> dict[str, Any]:
    """Return the keys of an optimizer that projects gradients, which are those of TrainingArguments.

    `every` is what the tool calls all linear layers.
    """
    named, given = training.optim_target_modules, training.optim_args
    keys: dict[str, Any] = {"optim_target_modules": every if named == "all-linear" else list(named or ())}
    return ({} if named is None else keys) | ({} if given is None else {"optim_args": given})


def muon_difference(training: Training, tool: str) -> Iterator[NotExpressed]:
    """Yield the optimizer muon if the tool has its own implementation.

    Source: axolotl/contribs/mit/muon; LLaMA-Factory's third_party/muon.
    """
    if training.optimizer == "muon":
        yield differs("training.optimizer", "muon", f"{tool} has a Muon of its own, which updates groups of matrices")


def assembled(
    planned: Planned, filename: str, run: Sequence[str], parts: Sequence[Part], files: tuple[AdditionalFile, ...] = ()
) -> Exported:
    """Return the YAML file of some parts, with the estimate in a comment at its head.

    Raises:
        PlanError: if the optimizer is one that only a script can make.
    """
    if planned.request.training.optimizer == "lorafa":
        message = "only a script makes PEFT's optimizer of LoRA-FA: export the peft script, or use adamw_torch_fused"
        raise refusal("training.optimizer", message, "lorafa")
    not_expressed = tuple(setting for part in parts for setting in part.not_expressed)
    blocks = [f"# {part.heading}\n{dumped(part.keys)}" for part in parts if part.keys]
    return Exported(
        filename=filename,
        media_type="application/yaml",
        content="\n".join((header(planned.request, planned.plan, run, not_expressed) + "\n", *blocks)),
        not_expressed=not_expressed,
        additional_files=files,
    )


def dumped(keys: dict[str, Any]) -> str:
    """Return keys as YAML, in their order."""
    text: str = yaml.safe_dump(keys, sort_keys=False, allow_unicode=True, width=1000)
    return text


def named_model(planned: Planned, key: str, bases: tuple[str, ...] = ()) -> Part:
    """Return the key of the model: its hub id, or a folder if it has none. `bases`: those that the tool quantizes."""
    if planned.model.id is not None:
        not_expressed = (*unquantized_base(planned.request), *base_without_key(planned.request, bases))
        return Part(heading="Model", keys={key: planned.model.id}, not_expressed=not_expressed)
    why = f"a model without a hub id is read from a folder: copy its config.json and weights to {FOLDER}"
    return Part(heading="Model", keys={key: FOLDER}, not_expressed=(differs("model.config", None, why),))


def targets(method: LowRank, model: Model) -> tuple[str, ...] | None:
    """Return the names of the modules to adapt. None if the tool's search for linear layers finds the same ones.

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
    """Return lora_alpha as a whole number, because both tools accept only those."""
    alpha = round(method.lora_alpha)
    if alpha == method.lora_alpha and alpha > 0:
        return alpha, ()
    why = "the tool accepts only whole numbers from 1; the scale changes, the memory does not"
    return max(alpha, 1), (differs("method.lora_alpha", method.lora_alpha, why),)


def settings_without_key(
    method: LowRank, without_keys: Sequence[str] = ("lora_bias", "use_bdlora")
) -> tuple[NotExpressed, ...]:
    """Return the settings of low-rank methods for which the tool has no key."""
    defaults = {setting.name: setting.default for setting in declared(LoRA)}
    arguments = config_arguments(method)
    not_expressed = [
        differs(f"method.{name}", arguments[name], "the tool has no key for it: PEFT's default is used")
        for name in without_keys
        if getattr(method, name) != defaults[name]
    ]
    if method.bias != "none":
        not_expressed.append(differs("method.bias", method.bias, "the tool does not train biases"))
    if isinstance(method, QLoRA) and method.blocksize != 64:
        not_expressed.append(differs("method.blocksize", method.blocksize, "the tool uses bitsandbytes' default of 64"))
    return tuple(not_expressed)


#: The dtypes of the weights and of autocast.
Dtypes = tuple[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """A combination of dtypes that a tool supports: its keys, the dtypes, and an explanation."""

    keys: dict[str, Any]
    runs: Dtypes
    why: str


def precision(planned: Planned, supported: Sequence[Precision]) -> tuple[dict[str, Any], tuple[NotExpressed, ...]]:
    """Return the keys of the plan's dtypes, or of the closest combination: one with the same dtype of the weights."""
    training = planned.request.training
    requested: Dtypes = (training.dtype, training.autocast)
    near = [name for name in supported if name.runs[0] == training.dtype] or list(supported)
    chosen = next((name for name in near if name.runs == requested), near[0])
    fields = (("training.dtype", 0), ("training.autocast", 1))
    return chosen.keys, tuple(
        differs(loc, requested[i], chosen.why) for loc, i in fields if requested[i] != chosen.runs[i]
    )


def kv_cache_difference(planned: Planned) -> tuple[NotExpressed, ...]:
    """Return that the Trainer of transformers 5 disables the KV cache.

    Source: transformers/trainer.py, args.use_cache.
    """
    training = planned.request.training
    keeps_cache = trainer_of(training).facts.uses_cache and not training.gradient_checkpointing
    if not keeps_cache or not planned.model.config.get("use_cache"):
        return ()
    why = "the Trainer disables the cache of keys and values: the tool needs less memory than the figures"
    return (differs("model.config.use_cache", True, why),)


#: Features of transformers' Trainer that these trainers lack.
_DIFFERS = {"trl-sft": "computes the loss from all logits", "unsloth": "runs the model without Unsloth's patches"}


def trainer_differences(planned: Planned, subject: str) -> tuple[NotExpressed, ...]:
    """Return the features that a tool which runs transformers' Trainer lacks; `subject` is that of the sentence."""
    training = planned.request.training
    others = [name for name in ("loss_type", "packing") if getattr(training, name)]
    differences = [
        differs(f"training.{name}", getattr(training, name), "belongs to a trainer of TRL") for name in others
    ]
    if training.padding_free:
        differences.append(
            differs("training.padding_free", True, "needs DataCollatorWithFlattening, or a trainer of TRL")
        )
    if training.trainer not in (None, "transformers"):
        what = _DIFFERS.get(training.trainer, "trains on texts: the figures are for another run")
        differences.append(differs("training.trainer", training.trainer, f"{subject}, which {what}"))
    if training.completion_tokens is not None:
        why = "the labeled tokens are those of the dataset that the file names"
        differences.append(differs("training.completion_tokens", training.completion_tokens, why))
    return tuple(differences)


def cut_cross_entropy_difference(training: Training, why: str) -> tuple[NotExpressed, ...]:
    """Return Cut Cross-Entropy, if the plan has it, as a setting that the tool leaves out, and the reason."""
    return (differs("training.cut_cross_entropy", True, why),) if training.cut_cross_entropy else ()


def offloading_difference(training: Training, why: str) -> tuple[NotExpressed, ...]:
    """Return offloading of activations, if the plan has it, as a setting that the tool lacks, and the reason."""
    return (differs("training.activation_offloading", True, why),) if training.activation_offloading else ()


def lengths_difference(planned: Planned) -> tuple[NotExpressed, ...]:
    """Return the histogram of lengths as not expressed: a tool takes lengths from the dataset."""
    lengths = planned.request.training.sequence_lengths
    if lengths is None:
        return ()
    shown = f"of {len(lengths):,} kinds"
    return (differs("training.sequence_lengths", shown, "the lengths are those of the dataset that the file names"),)


def empty_cache_keys(planned: Planned) -> tuple[dict[str, Any], tuple[NotExpressed, ...]]:
    """Return the Trainer's key for emptying the cache, which it does only after the forward pass."""
    training = planned.request.training
    if training.torch_empty_cache_steps is None:
        return {}, ()
    keys = {"torch_empty_cache_steps": training.torch_empty_cache_steps}
    if training.empty_cache_at == "after_forward":
        return keys, ()
    why = "the Trainer empties the cache after the forward pass"
    return keys, (differs("training.empty_cache_at", training.empty_cache_at, why),)


#: The function that writes the keys of each method that a tool has.
MethodParts = dict["MethodName", "Callable[[Planned], Part]"]


def method_part(planned: Planned, tool: str, parts: MethodParts) -> Part:
    """Return the keys of the plan's method.

    Raises:
        PlanError: if the tool lacks the method.
    """
    name = planned.request.method.name
    part = parts.get(name)
    if part is None:
        *others, last = parts
        message = f"{tool} has no {name} method, only {', '.join(others)} and {last}: use the format peft"
        raise refusal("method.name", message, name)
    return part(planned)
