"""The fine-tuning methods, applied to transformers models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import bitsandbytes as bnb
import peft
import torch
from peft.tuners.ln_tuning.layer import LNTuningLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import BitsAndBytesConfig
from transformers.integrations import replace_with_bnb_linear
from transformers.quantizers.base import _assign_is_quantized, get_keys_to_not_convert
from transformers.utils.quantization_config import QuantizationMethod

from calculator.methods import IA3, Adapter, LNTuning, Prefix, Prompt, QLoRA
from calculator.methods.low_rank.method import LowRank
from validation.reference import bottleneck

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from calculator.common.names import MethodName
    from calculator.estimate.request import Request
    from calculator.inputs.sharding import QuantStorage
    from calculator.resident.quantization import Quantization


#: The values of `training.adapter_dtype`.
AdapterDType = Literal["float32", "model"]

#: Standard deviation of random weights; transformers' default `initializer_range`.
WEIGHT_STD = 0.02


def quantize(
    model: nn.Module,
    quantization: Quantization,
    dtype: torch.dtype,
    device: torch.device,
    quant_storage: QuantStorage = "uint8",
) -> None:
    """Store all linear layers except the output head in 4 bits, as `from_pretrained` with a BitsAndBytesConfig does.

    The model is on the meta device. On a real `device`, each 4-bit layer gets random weights, which are quantised
    there.
    """
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.quant_type,
        bnb_4bit_use_double_quant=quantization.double_quant,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=quant_storage,
    )
    with torch.device("meta"):
        replace_with_bnb_linear(model, get_keys_to_not_convert(model), config)
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            quantize_layer(module, quantization.blocksize, dtype, device)
    model.is_loaded_in_4bit = True
    model.is_quantized = True
    model.quantization_method = QuantizationMethod.BITS_AND_BYTES
    model.config.quantization_config = config
    _assign_is_quantized(model)


def quantize_layer(layer: bnb.nn.Linear4bit, blocksize: int, dtype: torch.dtype, device: torch.device) -> None:
    """Give a layer a random weight of a dtype on a device and quantise it; a bias is random too."""
    old = layer.weight
    layer.weight = bnb.nn.Params4bit(
        torch.empty(old.shape, dtype=dtype, device=device).normal_(std=WEIGHT_STD),
        requires_grad=False,
        blocksize=blocksize,
        compress_statistics=old.compress_statistics,
        quant_type=old.quant_type,
        quant_storage=old.quant_storage,
        module=layer,
    )
    layer.weight._quantize(device)
    if layer.bias is not None:
        bias = torch.empty(layer.bias.shape, dtype=dtype, device=device).normal_(std=WEIGHT_STD)
        layer.bias = torch.nn.Parameter(bias, requires_grad=layer.bias.requires_grad)


def apply(model: nn.Module, request: Request) -> nn.Module:
    """Apply a request's method and its gradient checkpointing."""
    method, training = request.method, request.training
    if isinstance(method, QLoRA) and method.prepare_model_for_kbit_training:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if not method.facts.trains_base:
            model.enable_input_require_grads()
    if isinstance(method, Adapter):
        bottleneck.insert(model, method, adapter_dtype(request))
    config = peft_config(request)
    if config is None:
        return model
    wrapped = get_peft_model(model, config)
    cast(wrapped, training.adapter_dtype)
    return wrapped


def peft_config(request: Request, task_type: str | None = None) -> peft.PeftConfig | None:
    """PEFT's config of a request's method, for its task unless another is given; None if PEFT does not apply it."""
    build = CONFIGS[request.method.name]
    if build is None:
        return None
    config = build(request)
    config.task_type = task_type or request.task.upper()
    return config


def _low_rank_config(request: Request) -> peft.PeftConfig:
    assert isinstance(request.method, LowRank)
    return low_rank_config(request.method)


def _prefix_config(request: Request) -> peft.PeftConfig:
    assert isinstance(request.method, Prefix)
    return peft.PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=request.method.num_virtual_tokens,
        prefix_projection=request.method.prefix_projection,
    )


def _prompt_config(request: Request) -> peft.PeftConfig:
    assert isinstance(request.method, Prompt)
    return peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=request.method.num_virtual_tokens)


def _ia3_config(request: Request) -> peft.PeftConfig:
    method = request.method
    assert isinstance(method, IA3)
    lists = {
        name: list(value) if isinstance(value, tuple) else value
        for name in ("target_modules", "feedforward_modules", "modules_to_save")
        for value in (getattr(method, name),)
    }
    return peft.IA3Config(task_type="CAUSAL_LM", init_ia3_weights=method.init_ia3_weights, **lists)


def _ln_tuning_config(request: Request) -> peft.PeftConfig:
    method = request.method
    assert isinstance(method, LNTuning)
    modules = method.target_modules
    return peft.LNTuningConfig(
        task_type="CAUSAL_LM",
        target_modules=list(modules) if isinstance(modules, tuple) else modules,
        modules_to_save=list(method.modules_to_save) if method.modules_to_save else None,
    )


#: The function that builds each method's config; None for methods that PEFT does not have.
CONFIGS: dict[MethodName, Callable[[Request], peft.PeftConfig] | None] = {
    "full": None,
    "lora": _low_rank_config,
    "qlora": _low_rank_config,
    "adapter": None,
    "prefix": _prefix_config,
    "prompt": _prompt_config,
    "ia3": _ia3_config,
    "ln_tuning": _ln_tuning_config,
}


def get_peft_model(model: nn.Module, config: peft.PeftConfig, **options: Any) -> nn.Module:
    """PEFT's `get_peft_model`; virtual tokens' indices are on the CPU, from where PEFT copies them in every step."""
    wrapped = peft.get_peft_model(model, config, **options)
    for name, tokens in getattr(wrapped, "prompt_tokens", {}).items():
        wrapped.prompt_tokens[name] = torch.arange(len(tokens), device="cpu")
    return wrapped


def adapter_dtype(request: Request) -> torch.dtype:
    """The dtype of the parameters that a method adds."""
    training = request.training
    return getattr(torch, "float32" if training.adapter_dtype == "float32" else training.dtype)


def low_rank(model: nn.Module, method: LowRank, dtype: AdapterDType, task_type: str | None = "CAUSAL_LM") -> nn.Module:
    """Add PEFT's low-rank layers to a model, with parameters in float32 or in each base layer's compute dtype.

    PEFT does not cast them on the meta device (BaseTunerLayer._move_adapter_to_device_of_base_layer).
    """
    model = peft.get_peft_model(model, low_rank_config(method, task_type))
    cast(model, dtype)
    return model


def low_rank_config(method: LowRank, task_type: str | None = "CAUSAL_LM") -> peft.LoraConfig:
    """PEFT's config of a low-rank method."""
    modules = method.target_modules
    return peft.LoraConfig(
        task_type=task_type,
        r=method.r,
        lora_alpha=method.lora_alpha,
        lora_dropout=method.lora_dropout,
        target_modules=list(modules) if isinstance(modules, tuple) else modules,
        use_rslora=method.use_rslora,
        use_dora=method.use_dora,
        bias=method.bias,
        modules_to_save=list(method.modules_to_save) if method.modules_to_save else None,
    )


def cast(model: nn.Module, dtype: AdapterDType) -> None:
    """Cast the parameters of PEFT's layers to their dtype, because PEFT does not do so on the meta device.

    LN Tuning's copies keep theirs, as PEFT leaves them (LNTuningModel._cast_adapter_dtype).
    """
    layers = (module for module in model.modules() if isinstance(module, BaseTunerLayer))
    for layer in (each for each in layers if not isinstance(each, LNTuningLayer)):
        _, own = layer._get_base_layer_device_and_dtype(layer.get_base_layer())
        for name, parameter in layer.named_parameters():
            if name.startswith(layer.adapter_layer_names):
                parameter.data = parameter.data.to(torch.float32 if dtype == "float32" else own)
