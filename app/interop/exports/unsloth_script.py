"""A script that trains with Unsloth's FastLanguageModel and TRL's SFTTrainer.

Source: unsloth 2026.10.9, models/llama.py, from_pretrained and get_peft_model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.interop.exports.exported import Exported, NotExpressed
from app.interop.exports.header import header, title
from app.interop.exports.script_templates import script_template
from calculator.common.errors import refusal
from calculator.inputs.settings import declared
from calculator.methods import LoRA, QLoRA
from calculator.methods.targeted.matching import target_names
from calculator.trainers.unsloth.families import has_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.interop.exports.planned import Planned
    from calculator.architecture.model import Model
    from calculator.methods.low_rank.method import LowRank

#: The settings that get_peft_model passes on to PEFT, where they are not its defaults.
PASSED_ON = (
    "modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "init_lora_weights",
)  # fmt: skip

#: The patch release that was read of each known release.
READ = {"2026.8": "2026.8.13", "2026.10": "2026.10.9"}


def exported(planned: Planned) -> Exported:
    """Return the script.

    Raises:
        PlanError: if the model has no id on the Hub.
    """
    request, method = planned.request, planned.request.method
    if planned.model.id is None:
        raise refusal("model.config", "Unsloth loads a model by its id on the Hub: give a hub id", None)
    assert isinstance(method, LoRA | QLoRA)
    training, not_expressed = request.training, (*_not_expressed(method),)
    offloads = training.activation_offloading is not False
    content = script_template("unsloth.py.jinja").render(
        header=header(request, planned.plan, _run(request.stack.unsloth), not_expressed),
        title=title(request, planned.plan),
        model=planned.model.id,
        method=method,
        training=training,
        in_4_bits=method.quantizes_base,
        targets=_targets(method, planned.model),
        checkpointing=("unsloth" if offloads else True) if training.gradient_checkpointing else False,
        patterns=_passed_on(method),
        padding_free=has_rows(request.stack, planned.model.model_type),
    )
    return Exported(filename="train.py", media_type="text/x-python", content=content, not_expressed=not_expressed)


def _run(release: str) -> tuple[str, str]:
    """Return how the script is run, and the release of Unsloth that it needs."""
    installed = f"unsloth {READ.get(release, release)} with the trl and transformers that it requires"
    return (
        "Run it with: python train.py --text corpus.txt --steps 1000 --output trained",
        f"Install {installed}: other releases can need other memory.",
    )


def _targets(method: LowRank, model: Model) -> tuple[str, ...]:
    """Return the names of the modules, which Unsloth takes as a list."""
    if method.target_modules != "all-linear":
        return target_names(method, model)
    linear = (path for path, module in model.paths if module.kind == "linear" and path != model.head)
    return tuple(dict.fromkeys(path.rpartition(".")[2] for path in linear))


def _passed_on(method: LowRank) -> dict[str, Any]:
    given = {field.name: (getattr(method, field.name), field.default) for field in declared(type(method))}
    changed = {name: given[name][0] for name in PASSED_ON if given[name][0] != given[name][1]}
    plain = {name: dict(value) if hasattr(value, "items") else value for name, value in changed.items()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


def _not_expressed(method: LowRank) -> Iterator[NotExpressed]:
    if isinstance(method, QLoRA) and method.blocksize != 64:
        why = "Unsloth uses bitsandbytes' default of 64"
        yield NotExpressed(loc="method.blocksize", value=method.blocksize, why=why)
    if method.layer_replication:
        why = "get_peft_model does not pass it on: the model keeps its layers"
        yield NotExpressed(loc="method.layer_replication", value=[*map(list, method.layer_replication)], why=why)
    if method.exclude_modules:
        why = "get_peft_model does not pass it on: the modules are listed in target_modules"
        yield NotExpressed(loc="method.exclude_modules", value=list(method.exclude_modules), why=why)
