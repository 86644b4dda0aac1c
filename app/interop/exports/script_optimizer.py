"""How a training script makes its optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.interop.exports.literal import WIDTH
from calculator.resident.optim_args import options
from calculator.resident.optimizers import OPTIMIZERS as OPTIMIZER_FACTS

if TYPE_CHECKING:
    from calculator.common.names import OptimizerName
    from calculator.inputs.training import Training

#: An optimizer for each parameter of the groups whose gradients are projected.
_PER_PARAMETER = (
    "OptimizerPerParameter(\n        projected(model),\n        lambda group: {}(group, lr=LEARNING_RATE),\n    )"
)

#: How the Hugging Face Trainer constructs each optimizer. Source: transformers/trainer_optimizer.py.
OPTIMIZERS: dict[OptimizerName, str] = {
    "adamw_torch": "torch.optim.AdamW(trainable, lr=LEARNING_RATE, foreach=True)",
    "adamw_torch_fused": "torch.optim.AdamW(trainable, lr=LEARNING_RATE, fused=True)",
    "adamw_8bit": "bnb.optim.AdamW(trainable, lr=LEARNING_RATE, optim_bits=8)",
    "adamw_bnb_8bit": "bnb.optim.AdamW(trainable, lr=LEARNING_RATE, optim_bits=8)",
    "paged_adamw_8bit": "bnb.optim.AdamW(trainable, lr=LEARNING_RATE, optim_bits=8, is_paged=True)",
    "paged_adamw_32bit": "bnb.optim.AdamW(trainable, lr=LEARNING_RATE, optim_bits=32, is_paged=True)",
    "lion_8bit": "bnb.optim.Lion(trainable, lr=LEARNING_RATE, optim_bits=8)",
    "paged_lion_8bit": "bnb.optim.Lion(trainable, lr=LEARNING_RATE, optim_bits=8, is_paged=True)",
    "lion_32bit": "bnb.optim.Lion(trainable, lr=LEARNING_RATE, optim_bits=32)",
    "paged_lion_32bit": "bnb.optim.Lion(trainable, lr=LEARNING_RATE, optim_bits=32, is_paged=True)",
    "sgd": "torch.optim.SGD(trainable, lr=LEARNING_RATE, foreach=True)",
    "adafactor": "Adafactor(trainable, lr=LEARNING_RATE, scale_parameter=False, relative_step=False)",
    "adagrad": "torch.optim.Adagrad(trainable, lr=LEARNING_RATE, foreach=True)",
    "rmsprop": "torch.optim.RMSprop(trainable, lr=LEARNING_RATE, foreach=True)",
    "adamw_torch_8bit": "torchao.optim.AdamW8bit(trainable, lr=LEARNING_RATE, block_size=256)",
    "adamw_torch_4bit": "torchao.optim.AdamW4bit(trainable, lr=LEARNING_RATE, block_size=256)",
    "muon": "MuonWithAdamW(model, lr=LEARNING_RATE)",
    "galore_adamw": "galore_torch.GaLoreAdamW(projected(model), lr=LEARNING_RATE)",
    "galore_adafactor": "galore_torch.GaLoreAdafactor(\n"
    "        projected(model), lr=LEARNING_RATE, scale_parameter=False, relative_step=False\n    )",
    "apollo_adamw": "apollo_torch.APOLLOAdamW(projected(model), lr=LEARNING_RATE)",
    "schedule_free_adamw": "schedulefree.AdamWScheduleFree(trainable, lr=LEARNING_RATE)",
    "schedule_free_sgd": "schedulefree.SGDScheduleFree(trainable, lr=LEARNING_RATE)",
    "schedule_free_radam": "schedulefree.RAdamScheduleFree(trainable, lr=LEARNING_RATE)",
    "stable_adamw": "optimi.StableAdamW(trainable, lr=LEARNING_RATE)",
    "galore_adamw_layerwise": _PER_PARAMETER.format("galore_torch.GaLoreAdamW"),
    "galore_adamw_8bit_layerwise": _PER_PARAMETER.format("galore_torch.GaLoreAdamW8bit"),
    "apollo_adamw_layerwise": _PER_PARAMETER.format("apollo_torch.APOLLOAdamW"),
    "lomo": "lomo_optim.Lomo(model, lr=LEARNING_RATE)",
    "adalomo": "lomo_optim.AdaLomo(model, lr=LEARNING_RATE)",
    "grokadamw": "grokadamw.GrokAdamW(trainable, lr=LEARNING_RATE)",
    "lorafa": "create_lorafa_optimizer(\n"
    '        model, r=model.peft_config["default"].r, lora_alpha=model.peft_config["default"].lora_alpha,'
    " lr=LEARNING_RATE\n    )",
}

#: Further modules that these calls name, by package.
MODULES = {
    "galore-torch": "galore_torch",
    "apollo-torch": "apollo_torch",
    "torchao": "torchao.optim",
    "schedulefree": "schedulefree",
    "torch-optimi": "optimi",
    "lomo-optim": "lomo_optim",
    "grokadamw": "grokadamw",
}


def optimizer_call(training: Training) -> str:
    """Return the call that makes the optimizer."""
    call = OPTIMIZERS[training.optimizer]
    if training.optimizer_in_bwd:
        groups = '[{"params": trainable}]'
        return f"OptimizerPerParameter(\n        {groups},\n        lambda trainable: {call},\n    )"
    if training.loraplus_lr_ratio is None:
        return call
    cls, _, rest = call.partition("(trainable, ")
    arguments = f"model, {cls}, loraplus_lr_ratio={training.loraplus_lr_ratio:g}, {rest.removesuffix(')')}"
    line = f"create_loraplus_optimizer({arguments})"
    fits = len(f"    optimizer = {line}") <= WIDTH
    return line if fits else f"create_loraplus_optimizer(\n        {arguments}\n    )"


def projection_options(training: Training) -> dict[str, Any]:
    """Return the options of the group whose gradients are projected, the Trainer's defaults included.

    Source: transformers/trainer_optimizer.py, _get_galore_optimizer and _get_apollo_optimizer.
    """
    kind = OPTIMIZER_FACTS[training.optimizer].projects
    if not kind:
        return {}
    defaults = {"rank": "128", "update_proj_gap": "200", "scale": "0.25", "proj_type": "std"}
    if kind == "random":
        defaults |= {"scale": "1.0", "proj": "random", "scale_type": "channel"}
    values: dict[str, Any] = {**defaults, **options(training.optim_args)}
    return {
        name: int(value) if name in ("rank", "update_proj_gap") else float(value) if name == "scale" else value
        for name, value in values.items()
    }
