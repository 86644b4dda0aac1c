"""The adapters that X-LoRA mixes: LoRA configurations without files, and parameters without values."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import peft
from peft.tuners.xlora import model as xlora

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from calculator.methods import XLoRA

#: PEFT's own function, which the replacement calls.
_LOAD = xlora._load_adapter_into_lora_model


def settings_of(method: XLoRA) -> dict[str, Any]:
    """Return the arguments of the adapters' LoraConfig."""
    targets = list(method.target_modules) if isinstance(method.target_modules, tuple) else method.target_modules
    return {"r": method.r, "lora_dropout": method.lora_dropout, "target_modules": targets}


@contextmanager
def loaded(settings: Mapping[str, Any]) -> Iterator[None]:
    """Load adapters as if their folders had LoRA of these settings."""

    def load(lora_model: Any, adapter_name: str, model_id: str, **options: Any) -> None:
        config = peft.LoraConfig(task_type="CAUSAL_LM", base_model_name_or_path="base", **settings)

        def weights(*_: object, **__: object) -> dict[str, torch.Tensor]:
            """Return the parameters of an adapter under their names in its file."""
            ending = f".{adapter_name}.weight"
            return {
                f"base_model.{name.removesuffix(ending)}.weight": tensor
                for name, tensor in lora_model.state_dict().items()
                if ".lora_" in name and name.endswith(ending)
            }

        with (
            mock.patch.object(peft.LoraConfig, "from_pretrained", return_value=config),
            mock.patch("peft.utils.save_and_load.load_peft_weights", weights),
        ):
            _LOAD(lora_model=lora_model, adapter_name=adapter_name, model_id=model_id, **options)

    with mock.patch.object(xlora, "_load_adapter_into_lora_model", load):
        yield
