"""A recipe of torchtune for one device, set up for a request on the meta device."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf
from torchtune import training

from validation.torchtune_recipes.models import builder, component

if TYPE_CHECKING:
    from calculator.estimation.request import Request

_STAND_INS = "validation.torchtune_recipes.stand_ins"

#: The steps of a run. The last one is traced.
STEPS = 2


def build(request: Request, folder: str) -> Any:
    """Return the request's recipe, ready to train. It may write to `folder`.

    Raises:
        PlanError: if torchtune has no such model.
    """
    is_full = request.method.name == "full"
    kind = _class("full" if is_full else "lora")
    path, arguments = builder(request, adapted=not is_full)

    class OnMeta(kind):  # type: ignore[misc,valid-type]  # the recipe's class
        """The recipe, with the weights of a new model, and without files of what it trains."""

        def load_checkpoint(self, *_: Any, **__: Any) -> dict[str, Any]:
            """Return the weights of a new model without adapters."""
            base, sizes = builder(request, adapted=False)
            with training.set_default_dtype(torch.bfloat16), torch.device("meta"):
                return {training.MODEL_KEY: component(base)(**sizes).state_dict()}

        def save_checkpoint(self, *_: Any, **__: Any) -> None:
            """Write nothing."""

    config = OmegaConf.create(_config(request, folder) | {"model": {"_component_": path, **arguments}})
    recipe = OnMeta(cfg=config)
    recipe.setup(cfg=config)
    return recipe


def _config(request: Request, folder: str) -> dict[str, Any]:
    settings = request.training
    rows = STEPS * settings.gradient_accumulation_steps * settings.micro_batch_size
    return {
        "device": "meta",
        "dtype": "bf16",
        "output_dir": folder,
        "seed": 0,
        "epochs": 1,
        "max_steps_per_epoch": None,
        "resume_from_checkpoint": False,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "clip_grad_norm": settings.max_grad_norm,
        "enable_activation_checkpointing": settings.gradient_checkpointing,
        "enable_activation_offloading": False,
        "optimizer_in_bwd": settings.optimizer_in_bwd,
        "compile": False,
        "checkpointer": {"model_type": "LLAMA3"},
        "metric_logger": {"_component_": f"{_STAND_INS}.Logger"},
        "tokenizer": {"_component_": f"{_STAND_INS}.Tokenizer"},
        "dataset": {"_component_": f"{_STAND_INS}.Rows", "rows": rows, "length": settings.sequence_length},
        "shuffle": False,
        "batch_size": settings.micro_batch_size,
        "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
        "optimizer": {"_component_": f"{_STAND_INS}.optimizer", "name": settings.optimizer},
        "lr_scheduler": {
            "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
            "num_warmup_steps": 1,
        },
    }


def _class(kind: str) -> Any:
    """Return the recipe's class, from the file in torchtune's package of recipes, which cannot be imported."""
    package = importlib.util.find_spec("recipes")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).with_name(f"{kind}_finetune_single_device.py")
    spec = importlib.util.spec_from_file_location(f"torchtune_{kind}_recipe", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LoRAFinetuneRecipeSingleDevice if kind == "lora" else module.FullFinetuneRecipeSingleDevice
