"""The dtype in which a script loads a model's weights: the one it states, or the default of the call.

Source: transformers 5.24, modeling_utils.py, `from_pretrained` (`dtype="auto"` by default) and `_get_dtype`; TRL 1.16,
trainer/utils.py, `create_model_from_path` (float32 by default).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.interop.imports.reference import model_or_none

if TYPE_CHECKING:
    from app.interop.imports.keys import Keys

_DTYPES = {name: name for name in ("bfloat16", "float16", "float32")}

#: Model types whose checkpoints on the Hub are in float32, and whose config.json states no dtype.
_IN_FLOAT32 = ("gpt2", "gpt_neo", "bert", "distilbert", "roberta", "xlm-roberta", "t5", "mt5", "vit")


def loaded_dtype(keys: Keys, method: dict[str, Any], model: Any, *, by_trl: bool, by_unsloth: bool) -> str:
    """Return the dtype of a script's weights. `by_trl`: whether TRL loads the model by its name."""
    init = keys.take("model_init_kwargs", {})
    if isinstance(init, dict):
        keys.left |= {key: value for key, value in init.items() if key not in keys.left}
    else:
        keys.miss("model_init_kwargs", init, "is not an object: it is not read")
    keys.rename("torch_dtype", "dtype")
    if keys.left.get("dtype") == "auto":
        keys.take("dtype")
        by_trl = False
    if by_trl or by_unsloth or keys.left.get("dtype") is not None:
        default = "float32" if by_trl else "bfloat16"
        return keys.choice("dtype", _DTYPES, default, default)
    keys.take("dtype")
    return _checkpoint_dtype(keys, method, model)


def _checkpoint_dtype(keys: Keys, method: dict[str, Any], model: Any) -> str:
    """Return the dtype of the model's checkpoint, with a remark if it is assumed."""
    dtype = checkpoint_dtype(model)
    assumed = dtype == "bfloat16" and "dtype" not in keys.script.unread
    if assumed and method["name"] != "qlora" and "quantization_config" not in method:
        keys.miss("dtype", None, "is that of the checkpoint, which is assumed to be bfloat16")
    return dtype


def checkpoint_dtype(model: Any) -> str:
    """Return the dtype of a model's checkpoint, which is assumed to be bfloat16 unless it is known."""
    known = model_or_none(model)
    return "float32" if known is not None and known.model_type in _IN_FLOAT32 else "bfloat16"
