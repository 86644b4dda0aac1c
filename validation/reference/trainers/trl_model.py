"""The arguments of every trainer of TRL: a model, PEFT's config, and a tokenizer of a few tokens."""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any
from unittest import mock

import peft
from datasets import disable_progress_bars
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from calculator.methods import Adapter
from validation.reference import methods
from validation.reference.bottleneck import insert
from validation.reference.build import build_base, refusing
from validation.reference.trainers.run import with_quantizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from validation.reference.build import ReferenceModel
    from validation.reference.trainers.recipe import Recipe

disable_progress_bars()

#: The tokens; a trainer reads the numbers of the special ones.
TOKENS = ("<pad>", "<s>", "</s>", "a", "b")


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of five words."""
    words = Tokenizer(models.WordLevel({token: number for number, token in enumerate(TOKENS)}, unk_token="a"))  # noqa: S106
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>")  # noqa: S106


def model_and_config(
    recipe: Recipe, device: torch.device, auto_model: Any = None, task_type: str = "CAUSAL_LM"
) -> tuple[ReferenceModel, peft.PeftConfig | None]:
    """Return the model that a script passes to a trainer of TRL, and the config with which the trainer wraps it.

    TRL has no option for adapters in the model's dtype, so a script wraps such a model itself.
    """
    request = recipe.request
    method, training = request.method, request.training
    reference = build_base(request, device, quant_storage=recipe.quant_storage, auto_model=auto_model)
    model = with_quantizer(reference.model)
    with refusing("method"):
        if methods.is_prepared(method) and not recipe.prepares:
            peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        if isinstance(method, Adapter):
            with device:
                insert(model, method, methods.inserted_dtype(model, request))
        methods.freeze(model, request)
        config = methods.peft_config(request, task_type)
        in_float32 = training.adapter_dtype == "float32" or method.virtual_tokens
        if config is None or method.quantizes_base or in_float32:
            return reference, config
        with device:
            wrapped = methods.get_peft_model(model, config, autocast_adapter_dtype=False)
        methods.cast(wrapped, training.adapter_dtype)
    return reference.wrapped_as(wrapped), None


def loaded(recipe: Recipe, device: torch.device) -> ReferenceModel:
    """Return a model to compare with. TRL leaves it as `from_pretrained` returns it: in eval mode, and not frozen."""
    reference = build_base(recipe.request, device)
    reference.model.eval()
    return reference


@contextmanager
def adapters_on(device: torch.device, module: str) -> Iterator[None]:
    """Make a trainer's module create adapters on a device, which PEFT does not do on meta."""

    def on_device(model: Any, config: peft.PeftConfig, **options: Any) -> Any:
        with device:
            return methods.get_peft_model(model, config, **options)

    add_adapter = peft.PeftModel.add_adapter

    def added_on_device(model: Any, *args: Any, **options: Any) -> Any:
        with device:
            return add_adapter(model, *args, **options)

    # TRL 0.24 wraps the model in another module.
    wraps = module if hasattr(import_module(module), "get_peft_model") else "trl.models.utils"
    with (
        mock.patch(f"{wraps}.get_peft_model", on_device),
        mock.patch.object(peft.PeftModel, "add_adapter", added_on_device),
    ):
        yield
