"""LLaMA-Factory's LoRA of a model that reads images: by default its language model alone has adapters.

Source: LLaMA-Factory, model/model_utils/visual.py, patch_target_modules; misc.py, find_all_linear_modules.
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


def language_targets(keys: Keys, named: list[str] | None, model: Model | None) -> dict[str, Any]:
    """Return the settings of LoRA for the modules that `lora_target` names, `all` for every linear layer but the head.

    With `freeze_vision_tower`, which is the default, modules of towers and projectors have no adapters.
    """
    freezes = keys.flag("freeze_vision_tower", default=True)
    every = named in (None, ["all"])
    if model is not None and model.towers and model.model_type in KNOWN and freezes:
        names = {name for name, _ in linear_modules(model) if model.reads_text(name) and name != model.head}
        found = settings({name for name in names if every or name.rpartition(".")[2] in (named or ())}, model)
        if found is not None:
            return found
        keys.miss("freeze_vision_tower", True, "names cannot say its modules for this model: the tower has adapters")
    return {"target_modules": "all-linear" if every else named}
