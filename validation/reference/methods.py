"""The fine-tuning methods, applied to transformers models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal
from unittest import mock

import bitsandbytes as bnb
import peft
import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.boft.layer import BOFTLayer
from peft.tuners.fourierft.layer import FourierFTLayer
from peft.tuners.ln_tuning.layer import LNTuningLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.oft.layer import OFTRotationModule
from peft.tuners.psoft.layer import OrthLayer, PsoftLayer
from peft.tuners.shira.layer import ShiraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.tuners.unilora.layer import UniLoraLayer
from peft.tuners.unilora.model import UniLoraModel
from peft.tuners.waveft.layer import WaveFTLayer
from transformers import BitsAndBytesConfig
from transformers.integrations import replace_with_bnb_linear
from transformers.quantizers.base import HfQuantizer, _assign_is_quantized
from transformers.utils.quantization_config import QuantizationMethod

from calculator.estimation.estimate import model_of
from calculator.methods import Adapter, BitFit, Full, LoRA, QLoRA, XLoRA
from calculator.methods.config_arguments import config_arguments
from calculator.resident.int8 import Int8
from calculator.resident.quantization import Quantization
from validation.reference import bases, bottleneck, mixed_adapters
from validation.reference.frozen_parameters import freeze_all_but

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from calculator.estimation.request import Request
    from calculator.inputs.sharding import QuantStorage
    from calculator.methods.base import Method
    from calculator.resident.stored_weight import StoredWeight


#: The values of `training.adapter_dtype`.
AdapterDType = Literal["float32", "model"]

#: Standard deviation of random weights; transformers' default `initializer_range`.
WEIGHT_STD = 0.02


def quantize(
    model: nn.Module,
    quantization: StoredWeight,
    dtype: torch.dtype,
    device: torch.device,
    quant_storage: QuantStorage = "uint8",
) -> None:
    """Store all linear layers except the output head in 4 or 8 bits, as `from_pretrained` with its config does.

    The model is on the meta device. On a real `device`, each of these layers gets random weights, which are quantized
    there.
    """
    if isinstance(quantization, Int8):
        _quantize_to_8_bits(model, dtype, device)
        return
    if not isinstance(quantization, Quantization):
        bases.quantize(model, quantization)
        return
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.quant_type,
        bnb_4bit_use_double_quant=quantization.double_quant,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=quant_storage,
    )
    with torch.device("meta"):
        replace_with_bnb_linear(model, _unquantized(model), config)
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            quantize_layer(module, quantization.blocksize, dtype, device)
    model.is_loaded_in_4bit = True
    _mark_as_quantized(model, config)


def _unquantized(model: Any) -> list[str]:
    """Return the modules that `from_pretrained` does not quantize: the head, tied modules, and those in float32."""
    return HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)


def _quantize_to_8_bits(model: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Store all linear layers except the output head in 8 bits."""
    config = BitsAndBytesConfig(load_in_8bit=True)
    replace_with_bnb_linear(model, _unquantized(model), config)
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear8bitLt):
            dense = torch.empty(module.weight.shape, dtype=dtype, device=device).normal_(std=WEIGHT_STD)
            values, scales, _ = bnb.functional.int8_vectorwise_quant(dense.to(torch.float16))
            module.weight = bnb.nn.Int8Params(values, requires_grad=False, CB=values, SCB=scales)
            _random_bias(module, dtype, device)
    model.is_loaded_in_8bit = True
    _mark_as_quantized(model, config)


def _mark_as_quantized(model: nn.Module, config: BitsAndBytesConfig) -> None:
    model.is_quantized = True
    model.quantization_method = QuantizationMethod.BITS_AND_BYTES
    model.config.quantization_config = config
    _assign_is_quantized(model)


def _random_bias(layer: nn.Linear, dtype: torch.dtype, device: torch.device) -> None:
    """Give a layer that has a bias a random one of a dtype on a device."""
    if layer.bias is not None:
        bias = torch.empty(layer.bias.shape, dtype=dtype, device=device).normal_(std=WEIGHT_STD)
        layer.bias = torch.nn.Parameter(bias, requires_grad=layer.bias.requires_grad)


def quantize_layer(layer: bnb.nn.Linear4bit, blocksize: int, dtype: torch.dtype, device: torch.device) -> None:
    """Give a layer a random weight of a dtype on a device and quantize it; a bias is random too."""
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
    _random_bias(layer, dtype, device)


def is_prepared(method: Method) -> bool:
    """Return whether the script prepares the model for k-bit training."""
    return isinstance(method, LoRA | QLoRA) and method.quantizes_base and method.prepare_model_for_kbit_training


def apply(model: nn.Module, request: Request) -> nn.Module:
    """Apply a request's method and its gradient checkpointing."""
    method, training = request.method, request.training
    if is_prepared(method):
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": training.use_reentrant})
        if not method.facts.trains_base:
            model.enable_input_require_grads()
    if isinstance(method, Adapter):
        bottleneck.insert(model, method, inserted_dtype(model, request), request.model.task.trained_heads)
    config = peft_config(request, has_type=has_task_type(request, model))
    if config is None:
        freeze(model, request)
        built = method.facts.trains_base or isinstance(method, Adapter)
        assert built, f"PEFT has no {method.name}, and its modules are not built here"
        return model
    wrapped = get_peft_model(model, config, autocast_adapter_dtype=training.adapter_dtype == "float32")
    cast(wrapped, training.adapter_dtype)
    cast_unfrozen(wrapped, method)
    if training.optimizer == "lorafa":
        freeze_a(wrapped)
    if training.trainer is None and request.device.sharding == "none":
        permutations_on_host(wrapped)
    return wrapped


def permutations_on_host(model: nn.Module) -> None:
    """Give BOFT's layers their permutations on the host, where PEFT makes them.

    A trainer moves them, and so do accelerate and DeepSpeed.
    """
    for layer in (module for module in model.modules() if isinstance(module, BOFTLayer)):
        layer.boft_P = torch.empty(layer.boft_P.shape, device="cpu")


def freeze_a(model: nn.Module) -> None:
    """Freeze A, as create_lorafa_optimizer does; the gradients of parameters are labeled before it is called."""
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)


def freeze(model: nn.Module, request: Request) -> None:
    """Freeze the parameters that a method without a config of PEFT does not train."""
    method = request.method
    if isinstance(method, BitFit):
        train_biases(model, request.model.task.head_names)
    if isinstance(method, Full) and method.unfrozen_parameters is not None:
        freeze_all_but(model, method.unfrozen_parameters)
    cast_unfrozen(model, method)


def cast_unfrozen(model: nn.Module, method: Method) -> None:
    """Cast what is trained to float32 if the method says so, as LLaMA-Factory's init_adapter does."""
    if getattr(method, "unfrozen_dtype", "model") == "float32":
        for parameter in (parameter for parameter in model.parameters() if parameter.requires_grad):
            parameter.data = parameter.data.to(torch.float32)


def train_biases(model: nn.Module, heads: tuple[str, ...]) -> None:
    """Freeze everything but a classifier's head and the biases that the model does not freeze itself."""
    for name, parameter in model.named_parameters():
        is_trained = name.endswith("bias") and parameter.requires_grad
        parameter.requires_grad_(is_trained or any(f"{head}." in name for head in heads))


def separate_indices(model: nn.Module) -> None:
    """Give buffers the storages that they have on a GPU.

    Indices of rotations have their own, which they get where PEFT moves them from the host to the device. PSOFT's A is
    a view of all right singular vectors, whose rows are contiguous there (_linalg_svd_meta in _meta_registrations.py).
    """
    for module in model.modules():
        if isinstance(module, OFTRotationModule) or (isinstance(module, OrthLayer) and module.orth):
            module.rows, module.cols = module.rows.clone(), module.cols.clone()
        if isinstance(module, PsoftLayer):
            for name in (name for name, kind in module.psoft_svd.items() if kind == "full"):
                r, columns = module._psoft_A_cache[name].shape
                every = torch.empty(min(columns, module.out_features), columns, device="meta")
                module._psoft_A_cache[name] = every[:r]


def after_step(model: nn.Module) -> None:
    """Run what PEFT's documentation calls after the optimizer's step; step 0 prunes no ranks, which needs values."""
    if isinstance(getattr(model, "base_model", None), peft.AdaLoraModel):
        model.base_model.update_and_allocate(0)


def statistics(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors that it keeps for parameters, each under the name of its parameter."""
    allocator = getattr(getattr(model, "base_model", None), "rankallocator", None)
    for kept in ("ipt", "exp_avg_ipt", "exp_avg_unc") if allocator else ():
        for name, tensor in getattr(allocator, kept).items():
            yield f"{name.removesuffix('.default')}.{kept}", tensor


def has_task_type(request: Request, model: Any) -> bool:
    """Return whether PEFT has a class for the task. It has none for images, and none that passes audio to the model."""
    return request.task != "image_cls" and model.main_input_name != "input_features"


def peft_config(request: Request, task_type: str | None = None, *, has_type: bool = True) -> peft.PeftConfig | None:
    """Return PEFT's config of a request's method, for its task unless another is given.

    None if PEFT lacks the method.
    """
    method = request.method
    config_class = method.facts.config_class
    if config_class is None:
        return None
    task = task_type or (request.task.upper() if has_type else None)
    config: peft.PeftConfig = getattr(peft, config_class)(task_type=task, **config_arguments(method))
    if isinstance(method, XLoRA):
        config.hidden_size = method.for_model(model_of(request.model)).hidden_size
        config.adapter_parameters = mixed_adapters.settings_of(method)
    return config


def get_peft_model(model: Any, config: peft.PeftConfig, **options: Any) -> nn.Module:
    """Return PEFT's `get_peft_model`; indices of virtual tokens and of frequencies are on the CPU.

    PEFT copies them from there in every step. SHiRA's indices are buffers here, to be listed with all others.
    """
    if isinstance(config, peft.ShiraConfig):
        config.mask_fn = None  # the indices of a random mask need its values
    if isinstance(config, peft.XLoraConfig):
        model.config.use_cache = model.config.get_text_config().use_cache = False  # PEFT refuses another value
    with (
        mixed_adapters.loaded(getattr(config, "adapter_parameters", {})),
        mock.patch.object(UniLoraModel, "_assign_unilora_indices_and_scales", _assign_shapes),
        mock.patch("peft.tuners.boft.layer.get_fbd_cuda", return_value=None),  # would compile a kernel
        mock.patch.object(BOFTLayer, "perm2mat", lambda _, indices: torch.eye(len(indices))),
        mock.patch("peft.tuners.adamss.layer.slice_pca", _singular_vectors),
        mock.patch("peft.tuners.adamss.layer.clustering_Z", _equal_clusters),
    ):
        wrapped = peft.get_peft_model(model, config, **options)
    for layer in wrapped.modules():
        if isinstance(layer, FourierFTLayer):
            layer.indices = _moved_to_host(layer.indices)
        if isinstance(layer, WaveFTLayer):
            layer.waveft_indices = _moved_to_host(layer.waveft_indices)
    for layer in (module for module in wrapped.modules() if isinstance(module, ShiraLayer)):
        layer.shira_indices = BufferDict(
            {
                name: torch.zeros((2, len(weight)), dtype=torch.int, device=weight.device)
                for name, weight in layer.shira_weight.items()
            }
        )
    for name, tokens in getattr(wrapped, "prompt_tokens", {}).items():
        wrapped.prompt_tokens[name] = torch.arange(len(tokens), device="cpu")
    separate_indices(wrapped)
    return wrapped


def _moved_to_host(indices: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(index.shape, dtype=index.dtype, device="cpu") for name, index in indices.items()}


def _singular_vectors(tensor: torch.Tensor, r: int, *_: object, **__: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tensors with the shapes that AdaMSS's `slice_pca` returns.

    It draws random numbers on the weight's device.
    """
    batch, channels, rows, columns = tensor.shape
    r = min(r, rows, columns)
    return tensor.new_zeros(batch, channels, r, columns), tensor.new_zeros(batch, channels, rows, r)


def _equal_clusters(vectors: torch.Tensor, count: int, _: int) -> tuple[torch.Tensor, int]:
    """Return clusters on the CPU, as equal in size as possible. AdaMSS's K-means needs the values of the vectors."""
    rows = vectors.shape[0]
    count = min(count, rows)
    return torch.arange(rows, device="cpu") % count, count


def _assign_shapes(model: Any, name: str) -> None:
    """Give UniLoRA's layers scales of their indices' shapes; PEFT counts the indices, which need values for that."""
    for layer in (module for module in model.modules() if isinstance(module, UniLoraLayer)):
        indices = (layer.unilora_indices_A[name], layer.unilora_indices_B[name])
        layer.update_scaling(name, *(torch.zeros_like(index, dtype=torch.float32) for index in indices))


def inserted_dtype(model: nn.Module, request: Request) -> torch.dtype:
    """Return the dtype of bottleneck adapters: float32, or the model's, which deepspeed.zero.Init builds in 16 bits."""
    return torch.float32 if request.training.adapter_dtype == "float32" else next(model.parameters()).dtype


def adapter_dtype(request: Request) -> torch.dtype:
    """Return the dtype of the parameters that a method adds."""
    training = request.training
    return getattr(torch, "float32" if training.adapter_dtype == "float32" else training.dtype)


def low_rank(
    model: nn.Module, method: LoRA | QLoRA, dtype: AdapterDType, task_type: str | None = "CAUSAL_LM"
) -> nn.Module:
    """Add PEFT's low-rank layers to a model, with parameters in float32 or in each base layer's compute dtype.

    PEFT does not cast them on the meta device (BaseTunerLayer._move_adapter_to_device_of_base_layer).
    """
    model = peft.get_peft_model(model, low_rank_config(method, task_type))
    cast(model, dtype)
    return model


def low_rank_config(method: LoRA | QLoRA, task_type: str | None = "CAUSAL_LM") -> peft.LoraConfig:
    """Return PEFT's config of a low-rank method."""
    return peft.LoraConfig(task_type=task_type, **config_arguments(method))


def added_buffers(model: nn.Module) -> set[int]:
    """Return the identities of the buffers that PEFT's layers add: frozen matrices and indices."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    owners = (
        getattr(layer, name, None)
        for layer in layers
        if not isinstance(layer, LNTuningLayer)
        for name in (*layer.adapter_layer_names, *layer.other_param_names)
    )
    buffers = {id(buffer) for owner in owners if isinstance(owner, torch.nn.Module) for buffer in owner.buffers()}
    return buffers | {id(layer.boft_P) for layer in layers if isinstance(layer, BOFTLayer)}


def cast(model: nn.Module, dtype: AdapterDType) -> None:
    """Cast the parameters of PEFT's layers to their dtype, because PEFT does not do so on the meta device.

    Over HQQLinear, in which PEFT finds no weight and so no device, it leaves them in float32. LN Tuning's copies keep
    theirs, as PEFT leaves them (LNTuningModel._cast_adapter_dtype).
    """
    if isinstance(getattr(model, "base_model", None), peft.XLoraModel):
        dtype = "float32"  # it loads adapters with PEFT's default
    layers = (module for module in model.modules() if isinstance(module, BaseTunerLayer))
    for layer in (layer for layer in layers if not isinstance(layer, LNTuningLayer)):
        device, base_dtype = layer._get_base_layer_device_and_dtype(layer.get_base_layer())
        base_dtype = torch.float32 if device is None else base_dtype
        base_dtype = layer.get_param().dtype if isinstance(layer, ParamWrapper) else base_dtype
        base_dtype = base_dtype if base_dtype.is_floating_point else torch.float32
        for name, parameter in layer.named_parameters():
            if name.startswith(layer.adapter_layer_names):
                parameter.data = parameter.data.to(torch.float32 if dtype == "float32" else base_dtype)
