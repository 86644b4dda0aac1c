"""The model of a request, built from the real modules and ready to train, on the meta device or a real one."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora.layer import ParamWrapper
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification
from transformers.models.auto.auto_factory import _get_model_class

from calculator import catalogue
from calculator.common.errors import PlanError, refusal
from validation.reference import methods
from validation.reference.heads import language_model
from validation.reference.module_paths import unwrapped
from validation.reference.refusals import check
from validation.reference.uninitialized import without_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from calculator.estimation.request import Request
    from calculator.inputs.sharding import QuantStorage
    from calculator.inputs.training import Training
    from calculator.resident.quantization import Quantization


META = torch.device("meta")

#: Model types whose class ties the output head whatever the file says, though their checkpoints may have one.
_TIED_BY_CLASS = ("t5", "mt5")


#: The name that TRL gives the copy of an adapter (trl/trainer/dpo_trainer.py).
COPIED_ADAPTER = "ref"


@dataclass(frozen=True, slots=True)
class ReferenceModel:
    """A model ready to train, with the names that a trace needs.

    `base` is the set of parameter names before the method was applied. `head` is the path of the output head in the
    base model, and `root` is the path of the base model inside the method's wrapper.
    """

    model: nn.Module
    base: frozenset[str]
    base_parameters: int
    head: str | None
    root: str

    def wrapped_as(self, wrapper: nn.Module) -> ReferenceModel:
        """Return the model in a method's wrapper, which can be the one that it already has."""
        outer = _path(wrapper, self.model) or ""
        return replace(self, model=wrapper, root=".".join(filter(None, (outer, self.root))))

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield every parameter, under the name that it had before the method was applied."""
        wrapped = {
            f"{path}.lora_": f"{unwrapped(path, self.root)}.{module.parameter_name}.lora_"
            for path, module in self.model.named_modules()
            if isinstance(module, ParamWrapper)
        }
        for name, parameter in self.model.named_parameters():
            owner, update, rest = name.partition(".lora_")
            wrapped_parameter = wrapped.get(owner + update)
            yield (unwrapped(name, self.root) if wrapped_parameter is None else wrapped_parameter + rest), parameter

    def named_buffers(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Return every buffer, under the name that it had before the method was applied."""
        return ((unwrapped(name, self.root), buffer) for name, buffer in self.model.named_buffers())

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of parameters in the base model, added by the method, trainable, and in total.

        Copies of an adapter that a trainer compares the model with are not counted, as a second model is not.
        """
        added = sum(
            size_of(parameter)
            for name, parameter in self.named_parameters()
            if name not in self.base and COPIED_ADAPTER not in name.split(".")
        )
        return {
            "base": self.base_parameters,
            "added": added,
            "trainable": sum(size_of(parameter) for parameter in self.trainable().values()),
            "total": self.base_parameters + added,
        }


def size_of(parameter: nn.Parameter) -> int:
    """Return the elements of a parameter, which may be partitioned."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def config_of(request: Request) -> dict[str, Any]:
    """Return the `config.json` that a request contains, or that the catalogue has for its model.

    Raises:
        PlanError: if the request has a parameter count only.
    """
    if request.model.config is not None:
        return deepcopy(request.model.config)
    if request.model.id is not None:
        return deepcopy(catalogue.model(request.model.id).config_for(images=request.model.task.has_images))
    raise refusal("model", "a bare parameter count cannot be traced; give a config", request.model.parameters)


def build_model(
    request: Request,
    device: torch.device = META,
    quantization: Quantization | None = None,
    quant_storage: QuantStorage = "uint8",
) -> ReferenceModel:
    """Build a request's model with random weights on a device, and apply its method.

    `quantization` stores the base in 4 bits for methods other than QLoRA, which has its own quantization settings.
    `quant_storage` is the dtype that holds packed 4-bit weights.

    Raises:
        PlanError: if transformers or PEFT refuses the request, or a GPU would.
    """
    return adapted(build_base(request, device, quantization, quant_storage), request, device)


def adapted(base: ReferenceModel, request: Request, device: torch.device) -> ReferenceModel:
    """Apply the request's method to its model.

    Raises:
        PlanError: if PEFT refuses the request.
    """
    before = {id(parameter): parameter for parameter in base.model.parameters()}
    with refusing("method"), META if device == META else nullcontext():
        wrapped = methods.apply(base.model, request)
    wrapped.train()
    reference = base.wrapped_as(wrapped)
    return (
        _with_replicated_layers(reference, before) if getattr(request.method, "layer_replication", None) else reference
    )


def _with_replicated_layers(reference: ReferenceModel, before: Mapping[int, nn.Parameter]) -> ReferenceModel:
    """Return the model whose base is without its own parameters that replication dropped."""
    kept = {id(parameter) for parameter in reference.model.parameters()} & before.keys()
    names = {name for name, parameter in reference.named_parameters() if id(parameter) in kept}
    dropped = sum(size_of(parameter) for key, parameter in before.items() if key not in kept)
    return replace(reference, base=frozenset(names), base_parameters=reference.base_parameters - dropped)


def build_base(
    request: Request,
    device: torch.device = META,
    quantization: Quantization | None = None,
    quant_storage: QuantStorage = "uint8",
    auto_model: Any = None,
) -> ReferenceModel:
    """Build a request's model with random weights on a device, before its method is applied.

    `auto_model` is the class of transformers that chooses the model's class: that of the family by default.

    Raises:
        PlanError: if transformers refuses the request, or a GPU would.
    """
    dtype = getattr(torch, request.training.dtype)
    packed = request.method.base_quantization(request.training) or quantization
    place = META if packed else device
    with refusing("model"), place, without_values() if place == META else nullcontext():
        model = _model(request, dtype, auto_model or language_model_of(request))
    check(model, request)
    base_parameters = sum(size_of(parameter) for parameter in model.parameters())
    head = _path(model, model.get_output_embeddings())
    if packed:
        methods.quantize(model, packed, dtype, device, quant_storage)
        _materialize(model, device)
    base = frozenset(name for name, _ in model.named_parameters())
    return ReferenceModel(model=model, base=base, base_parameters=base_parameters, head=head, root="")


def _materialize(model: PreTrainedModel, device: torch.device) -> None:
    """Move what is still on the meta device to a real one, with random values; 4-bit layers have theirs already."""
    if device == META:
        return
    for module in model.modules():
        tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if any(tensor.device == META for tensor in tensors):
            module.to_empty(device=device, recurse=False)
        else:
            module._is_hf_initialized = True
    model.init_weights()


def _model(request: Request, dtype: torch.dtype, auto_model: Any) -> PreTrainedModel:
    config = AutoConfig.for_model(**config_of(request))
    for name in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.0)  # layerdrop skips random layers; the reference step runs every layer
    if request.task == "seq_2_seq_lm" and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = 0
    if request.model.task.classifies:
        config.num_labels = request.num_labels
    if request.task == "image_cls":
        config.problem_type = request.problem_type
    if auto_model is AutoModelForSequenceClassification:
        _classifies_sequences(config, request)
    attention = attention_of(language_model_of(request), config, request.training)
    model = auto_model.from_config(config, dtype=dtype, attn_implementation=attention)
    if has_own_head(config_of(request)):
        untie(model)
    # Random parameters of torch.normal are on the host whatever the default device is.
    return model.to(META) if any(parameter.device == META for parameter in model.parameters()) else model


def has_own_head(file: Mapping[str, Any]) -> bool:
    """Return whether a `config.json` says that its checkpoint has an output head, which the class would tie."""
    return file["model_type"] in _TIED_BY_CLASS and file.get("tie_word_embeddings") is False


def untie(model: PreTrainedModel) -> None:
    """Give a model that its class ties the output head of its checkpoint, as `PreTrainedModel.tie_weights` does."""
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    tied = model.all_tied_weights_keys
    model.all_tied_weights_keys = {name: other for name, other in tied.items() if not name.startswith("lm_head.")}


def _classifies_sequences(config: PreTrainedConfig, request: Request) -> None:
    """Set a classifier's loss, and a padding token, without which it refuses a batch of several sequences.

    A trainer's reward model has one label.
    """
    if request.task != "seq_cls":
        config.num_labels = 1
    config.problem_type = request.problem_type
    text = config.get_text_config()
    if getattr(text, "pad_token_id", None) is None:
        text.pad_token_id = 0


def language_model_of(request: Request) -> Any:
    """Return the class of transformers that builds the model for the request's task."""
    return language_model(config_of(request)["model_type"], request.task)


@contextmanager
def refusing(loc: str) -> Iterator[None]:
    """Raise a library's exception as a refusal of the request's field `loc`."""
    try:
        yield
    except PlanError:
        raise
    except (ImportError, KeyError, TypeError, ValueError) as error:
        raise refusal(loc, f"the libraries refuse it: {error}") from error


def attention_of(auto_model: Any, config: PreTrainedConfig, training: Training) -> str | dict[str, str]:
    """Return the attention implementation that runs: eager for a family, and for a tower of one, without SDPA support.

    A tower's is chosen as transformers does where none is named.
    """
    if training.attention != "sdpa":
        return training.attention
    if not _get_model_class(config, auto_model._model_mapping)._supports_sdpa:
        return "eager"
    parts = {name: part for name in config.sub_configs if (part := getattr(config, name, None)) is not None}
    chosen = {name: "sdpa" if _has_sdpa(part) else "eager" for name, part in parts.items()}
    return {"": "sdpa", **chosen} if "eager" in chosen.values() else "sdpa"


def _has_sdpa(config: PreTrainedConfig) -> bool:
    mapping = AutoModel._model_mapping
    return type(config) not in mapping or _get_model_class(config, mapping)._supports_sdpa


def _path(model: nn.Module, wanted: nn.Module | None) -> str | None:
    return next((path for path, module in model.named_modules() if module is wanted), None)
