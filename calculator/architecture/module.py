"""Modules: named owners of parameters, as `named_modules()` lists them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import Shape, elements
from calculator.common.dtype import DType

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.inputs.training import Training

#: linear: torch.nn.Linear or a subclass, which PEFT adapts; conv1d: transformers' transposed linear (weight in × out);
#: embedding: torch.nn.Embedding; norm: any normalization; experts: the weights of several experts, fused into 3-D
#: parameters; other: a custom module with bare parameters (a router, a learned activation).
Kind = Literal["linear", "conv1d", "embedding", "norm", "experts", "other"]


#: A data type that does not depend on the model's, or "model" for the model's data type.
OwnDType = DType | Literal["model"]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter: the last part of its dotted name, its shape and its dtype."""

    name: str
    shape: Shape
    dtype: OwnDType = "model"
    #: The shape of the tensor of which the gradient is a view, if the parameter is expanded over the batch and then
    #: concatenated. It applies to a micro-batch of one, whose gradients are not summed.
    gradient_base: Shape | None = None
    #: Whether the micro-batch of a training has size one. In a tower it counts images or tiles of images.
    is_single: Callable[[Training], bool] = lambda training: training.micro_batch_size == 1
    #: Whether the model's class freezes it, so that full fine-tuning does not train it.
    frozen: bool = False
    #: Whether the graph contains it. If not, a trained copy of it gets no gradient either.
    in_graph: bool = True

    @cached_property
    def elements(self) -> int:
        """The number of elements."""
        return elements(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """A tensor that moves with the model and is never trained."""

    name: str
    shape: Shape
    dtype: OwnDType
    #: Whether the state dict contains it.
    persistent: bool = False


@dataclass(frozen=True, kw_only=True)
class Module:
    """A module that owns parameters."""

    #: The dotted name relative to the parent.
    name: str
    kind: Kind
    #: In the order of `named_parameters()`.
    parameters: tuple[Parameter, ...]
    #: Whether bitsandbytes stores its weight in 4 bits, unless `Model.modules_to_not_convert` lists the module. This
    #: applies to torch.nn.Linear, but not to its subclasses, and to Conv1D.
    #: Source: transformers/integrations/bitsandbytes.py, replace_with_bnb_linear.
    quantizable: bool = False
    #: Whether bitsandbytes leaves it out only because it owns the model's last weight.
    #: Source: transformers/quantizers/base.py, get_keys_to_not_convert.
    is_last: bool = False
    #: Whether the forward pass is `x @ weight.T` and then `+ bias`, as two operations.
    separate_bias: bool = False
    #: The index of the first layer with this module, for methods that treat layers of the same kind differently.
    layer: int | None = None
    #: Whether its parameters are those of a module of another layer (LoRA's `layer_replication`).
    shares_weights: bool = False

    def under(self, layer: str) -> str:
        """Return the module's path below a layer.

        If it has no name, the layer owns its parameters: the layer's path.
        """
        return f"{layer}.{self.name}" if self.name else layer

    @cached_property
    def weight(self) -> Parameter:
        """The parameter named `weight`."""
        return next(p for p in self.parameters if p.name == "weight")

    @cached_property
    def bias(self) -> Parameter | None:
        """The parameter named `bias`, if any."""
        return next((p for p in self.parameters if p.name == "bias"), None)

    @cached_property
    def in_features(self) -> int:
        """The input width of a linear or conv1d. For an embedding, the number of rows."""
        return self.weight.shape[0 if self.kind in ("conv1d", "embedding") else 1]

    @cached_property
    def out_features(self) -> int:
        """The output width of a linear or conv1d, or the width of an embedding."""
        return self.weight.shape[1 if self.kind in ("conv1d", "embedding") else 0]


def linear(
    name: str,
    in_features: int,
    out_features: int,
    *,
    bias: bool = False,
    quantizable: bool = True,
    separate_bias: bool = False,
    is_last: bool = False,
) -> Module:
    """Build a `torch.nn.Linear`, or a subclass, with the weight (out_features, in_features)."""
    weight = Parameter(name="weight", shape=(out_features, in_features))
    biases = (Parameter(name="bias", shape=(out_features,)),) if bias else ()
    return Module(
        name=name,
        kind="linear",
        parameters=(weight, *biases),
        quantizable=quantizable and not is_last,
        is_last=is_last,
        separate_bias=separate_bias,
    )


def conv1d(name: str, in_features: int, out_features: int) -> Module:
    """Build a `transformers.pytorch_utils.Conv1D` with the weight (in_features, out_features) and a bias."""
    weight = Parameter(name="weight", shape=(in_features, out_features))
    bias = Parameter(name="bias", shape=(out_features,))
    return Module(name=name, kind="conv1d", parameters=(weight, bias), quantizable=True)


def conv1d_of_channels(name: str, channels: int, width: int, *, bias: bool) -> Module:
    """Build a `torch.nn.Conv1d` with one filter per channel: the weight (channels, 1, width)."""
    biases = (Parameter(name="bias", shape=(channels,)),) if bias else ()
    return Module(name=name, kind="other", parameters=(Parameter(name="weight", shape=(channels, 1, width)), *biases))


def embedding(name: str, num_embeddings: int, embedding_dim: int) -> Module:
    """Build a `torch.nn.Embedding` with the weight (num_embeddings, embedding_dim)."""
    return Module(
        name=name, kind="embedding", parameters=(Parameter(name="weight", shape=(num_embeddings, embedding_dim)),)
    )


def norm(name: str, *shape: int, bias: bool = False) -> Module:
    """Build a normalization with a weight of this shape and, with `bias`, a bias of the same shape."""
    weight = Parameter(name="weight", shape=shape)
    biases = (Parameter(name="bias", shape=shape),) if bias else ()
    return Module(name=name, kind="norm", parameters=(weight, *biases))


def bare(name: str, kind: Kind, dtype: OwnDType = "model", **shapes: Shape) -> Module:
    """Build a module that owns parameters of these shapes, in order."""
    parameters = tuple(Parameter(name=key, shape=shape, dtype=dtype) for key, shape in shapes.items())
    return Module(name=name, kind=kind, parameters=parameters)
