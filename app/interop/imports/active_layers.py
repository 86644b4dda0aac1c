"""BAdam in LLaMA-Factory's files and LISA in axolotl's, which train some layers at a time.

Sources: LLaMA-Factory, hparams/finetuning_args.py, BAdamArgument, and model/model_utils/checkpointing.py; axolotl,
utils/schemas/integrations.py, LISAConfig.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.interop.imports.keys import Keys
    from calculator.architecture.model import Model

#: What LLaMA-Factory does with checkpointing, of which one layer at most is left.
UNCHECKPOINTED = (
    "LLaMA-Factory checkpoints only layers with trained parameters, and BAdam trains one block at a time: the figures"
    " are without checkpointing"
)

#: The same with finetuning_type freeze, if frozen layers come after trained ones.
PARTLY_CHECKPOINTED = (
    "LLaMA-Factory checkpoints only layers with trained parameters, and the frozen layers after them keep their"
    " activations, which is not modeled: the figures are with every layer checkpointed"
)

_LAYERS = "model.layers"


def badam(keys: Keys, method: str) -> dict[str, Any]:
    """Return the settings of BAdam with a finetuning_type. Empty without BAdam, or with an adapter."""
    if not keys.flag("use_badam"):
        keys.forget(tuple(key for key in keys.left if key.startswith("badam_")))
        return {}
    if method not in ("full", "freeze"):
        keys.miss("use_badam", True, "is refused by LLaMA-Factory with an adapter: only the adapter is trained")
        keys.forget(tuple(key for key in keys.left if key.startswith("badam_")))
        return {}
    settings = {
        "use_badam": True,
        "badam_mode": keys.take("badam_mode", "layer"),
        "badam_switch_mode": keys.take("badam_switch_mode", "ascending"),
        "badam_switch_interval": _interval(keys),
        "badam_start_block": keys.take("badam_start_block"),
    }
    keys.forget(tuple(key for key in keys.left if key.startswith("badam_")))
    return settings


def _interval(keys: Keys) -> int:
    """Return the steps between changes of the block. `step % -1` is 0, so that -1 changes it in every step."""
    given = keys.integer("badam_switch_interval", 50)
    if given < 0:
        why = f"does not mean never: BlockOptimizer changes the block every {-given} steps, so {-given} is used"
        keys.miss("badam_switch_interval", given, why)
    return abs(given)


def lisa(keys: Keys, name: str, model: Model | None) -> dict[str, Any]:
    """Return the settings of LISA, which axolotl uses if both of its numbers are set; empty without LISA."""
    layers, interval = keys.take("lisa_n_layers"), keys.take("lisa_step_interval")
    attribute = keys.take("lisa_layers_attribute", _LAYERS)
    if not layers or not interval:
        return {}
    if name != "full":
        why = "is not modeled with an adapter: only the adapter is trained"
        keys.miss("lisa_n_layers", layers, why)
        return {}
    if model is not None and attribute != model.decoder.name:
        why = f"is not the path of this model's layers: {model.decoder.name} is used"
        keys.miss("lisa_layers_attribute", attribute, why)
    return {"lisa_n_layers": layers, "lisa_step_interval": interval}
