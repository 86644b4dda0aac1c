"""LLaMA-Factory's runs of a model that reads images: by default they train, or adapt, its language model alone.

Source: LLaMA-Factory at ff6d4d1, model/model_utils/visual.py, patch_target_modules and get_forbidden_modules;
misc.py, find_all_linear_modules; model/adapter.py, _setup_full_tuning; hparams/finetuning_args.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.interop.imports.target_patterns import linear_modules, settings

if TYPE_CHECKING:
    from app.interop.imports.keys import Keys
    from calculator.architecture.model import Model

#: Model types whose towers LLaMA-Factory knows (COMPOSITE_MODELS); those of others have adapters in any case.
KNOWN = {
    *("gemma3", "internvl", "llama4", "llava", "llava_next", "mistral3", "paligemma"),
    *("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"),
}


def language_targets(
    keys: Keys, named: list[str] | None, model: Model | None, *, in_layers: bool = True
) -> dict[str, Any]:
    """Return the settings for the modules that `lora_target` names, `all` for every linear layer but the head.

    With `freeze_vision_tower`, which is the default, modules of towers and projectors have no adapters. `in_layers`:
    whether the method has settings for single layers, as LoRA has.
    """
    freezes = keys.flag("freeze_vision_tower", default=True)
    if keys.left.get("freeze_multi_modal_projector") is True:
        keys.forget(("freeze_multi_modal_projector",))
    every = named in (None, ["all"])
    if model is not None and model.towers and model.model_type in KNOWN and freezes:
        names = {name for name, _ in linear_modules(model) if model.reads_text(name) and name != model.head}
        matched = settings({name for name in names if every or name.rpartition(".")[2] in (named or ())}, model)
        if matched is not None and (in_layers or len(matched) == 1):
            return matched
        keys.miss(
            "freeze_vision_tower",
            True,
            "the tower's modules cannot be excluded by name for this model: the tower has adapters",
        )
    return {"target_modules": "all-linear" if every else named}


#: The parts of a model that a key freezes, and whether it does so by default.
_FREEZES = {"freeze_vision_tower": True, "freeze_multi_modal_projector": True, "freeze_language_model": False}


def trained_in_full(keys: Keys, model: Model | None) -> dict[str, Any]:
    """Return the settings of full fine-tuning, in which towers and projectors are frozen by default."""
    frozen = {key: keys.flag(key, default=default) for key, default in _FREEZES.items()}
    if model is None or not model.towers or model.model_type not in KNOWN or not any(frozen.values()):
        return {"name": "full"}
    if frozen != _FREEZES:
        changed = {key: value for key, value in frozen.items() if value != _FREEZES[key]}
        keys.miss(", ".join(changed), changed, "other parts than the language model: every weight is trained here")
        return {"name": "full"}
    language = model.decoder.name.rpartition(".")[0]
    head = [] if model.tied or model.output.name.startswith(language) else [model.output.name]
    return {"name": "full", "unfrozen_parameters": [language, *head]}
