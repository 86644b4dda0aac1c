"""Autocast for the meta device, which torch does not have: it makes the casts of CUDA's autocast.

Arguments are cast from the last to the first, because g++ evaluates a call's arguments in that order. So does
`torch.autocast("cpu")`, which has the same templates (tests/validation/tracing/test_autocast.py). The order of the
casts is the order of their gradients.

References:
    torch/include/ATen/autocast_mode.h, the lists of operations; ATen/autocast_mode.cpp, `cached_cast`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


LOWER = _names("""
    addmm addmv addr matmul einsum mm mv linalg_vecdot vecdot linear addbmm baddbmm bmm chain_matmul
    multi_dot conv1d conv2d conv3d conv_transpose2d prelu
""")
FLOAT32 = _names("""
    acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow rpow square softplus
    layer_norm native_layer_norm rms_norm group_norm cosine_similarity nll_loss kl_div l1_loss
    smooth_l1_loss huber_loss mse_loss binary_cross_entropy_with_logits dist cdist renorm logsumexp norm
""")
FLOAT32_OUTPUT = _names("""
    prod softmax log_softmax cumprod cumsum sum linalg_norm linalg_vector_norm linalg_matrix_norm
""")
#: Functions that read float16 and write float32 without a copy. Source: ATen/native/SoftMax.cpp.
HALF_TO_FLOAT = {"softmax": torch._softmax, "log_softmax": torch._log_softmax}
WIDEST = _names("addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler index_put tensordot scatter_add")


class Autocast(TorchFunctionMode):
    """Casts the arguments of the operations that CUDA's autocast casts; the innermost context applies.

    An operation with `out=` is none of them.
    """

    active: ClassVar[list[Autocast]] = []
    _weights: ClassVar[dict[int, tuple[Tensor, Tensor]]] = {}

    def __init__(self, dtype: torch.dtype, *, enabled: bool = True) -> None:
        super().__init__()
        self.dtype, self.enabled = dtype, enabled

    def __enter__(self) -> Self:
        self.active.append(self)
        return super().__enter__()

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        self.active.pop()
        if not self.active:
            self._weights.clear()

    def __call__(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate a function that autocasts, as accelerate decorates a model's forward."""

        @wraps(func)
        def autocasting(*args: Any, **kwargs: Any) -> Any:
            with self:
                return func(*args, **kwargs)

        return autocasting

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one function with its arguments cast."""
        kwargs = kwargs or {}
        if not self.enabled or self.active[-1] is not self or kwargs.get("out") is not None:
            return func(*args, **kwargs)
        name = func.__name__.strip("_") if func.__name__.startswith("__") else func.__name__
        if name in LOWER:
            args, kwargs = _mapped(self.lowered, args, kwargs)
        elif name in FLOAT32:
            args, kwargs = _mapped(_raised, args, kwargs)
        elif name == "cross_entropy":
            return _cross_entropy(*args, **kwargs)
        elif name in FLOAT32_OUTPUT and _eligible(args[0]) and not _dtype_given(args, kwargs):
            if name in HALF_TO_FLOAT and args[0].dtype == torch.float16:
                return HALF_TO_FLOAT[name](args[0], _dim(args, kwargs), half_to_float=True)
            kwargs = {**kwargs, "dtype": torch.float32}
        elif name in WIDEST and any(_eligible(arg) and arg.dtype == torch.float32 for arg in args):
            args, kwargs = _mapped(_raised, args, kwargs)
        return func(*args, **kwargs)

    def lowered(self, value: Any) -> Any:
        """Return a tensor in the lower precision; the copy of a trainable weight is cached until autocast ends.

        The cached copy records gradients even if an operation without gradients creates it.
        """
        if not _eligible(value) or value.dtype == self.dtype:
            return value
        if value.dtype != torch.float32 or not (value.requires_grad and value.is_leaf) or value._is_view():
            return value.to(self.dtype)
        if id(value) not in self._weights:
            with _recording():
                self._weights[id(value)] = value, value.to(self.dtype)
        return self._weights[id(value)][1]


def _cross_entropy(input: Tensor, target: Tensor, **kwargs: Any) -> Tensor:  # noqa: A002
    """Cross entropy. Autocast casts only its nll_loss (ATen/native/LossNLL.cpp, `cross_entropy_loss`)."""
    if input.dtype == torch.float32:
        return torch.nn.functional.cross_entropy(input, target, **kwargs)
    log_probabilities = torch.log_softmax(input, 1, dtype=input.dtype).to(torch.float32)
    options = {name: value for name, value in kwargs.items() if name in ("weight", "ignore_index", "reduction")}
    return torch.nn.functional.nll_loss(log_probabilities, target, **options)


@contextmanager
def _recording() -> Iterator[None]:
    """Record for the backward pass, also below autograd, where an emulated kernel runs."""
    include, exclude = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
    for key in (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView):
        exclude = exclude.remove(key)
    with torch.enable_grad(), torch._C._ForceDispatchKeyGuard(include, exclude):
        yield


def _eligible(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64


def _raised(value: Any) -> Any:
    return value.to(torch.float32) if _eligible(value) else value


def _mapped(cast: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments and keyword arguments cast from the last to the first; a list's items in order."""
    keywords = {name: tree_map(cast, value) for name, value in reversed(kwargs.items())}
    return tuple(reversed([tree_map(cast, value) for value in reversed(args)])), keywords


def _dtype_given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return kwargs.get("dtype") is not None or any(isinstance(arg, torch.dtype) for arg in args)


def _dim(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    return int(kwargs["dim"] if "dim" in kwargs else args[1])


def current() -> Autocast | None:
    """Return the autocast in effect, if it is enabled."""
    return Autocast.active[-1] if Autocast.active and Autocast.active[-1].enabled else None


def lowered(*values: Any) -> tuple[Any, ...]:
    """Return tensors cast as for an operation in the list of lower precision."""
    mode = current()
    return values if mode is None else _mapped(mode.lowered, values, {})[0]


def disabled() -> AbstractContextManager[Any]:
    """Disable autocast inside an operation of the lists, whose own operations are not cast again."""
    mode = current()
    return nullcontext() if mode is None else Autocast(mode.dtype, enabled=False)


#: The devices that the emulation answers for: Python functions of libraries name CUDA.
EMULATED = frozenset({"cuda", "meta"})

_on_real_device = torch.autocast
_is_enabled, _is_available, _dtype = (
    torch.is_autocast_enabled,
    torch.amp.is_autocast_available,
    torch.get_autocast_dtype,
)


def autocast(
    device_type: str, dtype: torch.dtype | None = None, enabled: bool = True, cache_enabled: bool | None = None
) -> AbstractContextManager[Any]:
    """`torch.autocast`, for the meta device too, and for CUDA, which it emulates."""
    if device_type not in EMULATED:
        return _on_real_device(device_type, dtype, enabled, cache_enabled)
    if not Autocast.active and not enabled:
        return nullcontext()
    return Autocast(dtype or get_autocast_dtype("meta"), enabled=enabled)


def maybe_autocast(device_type: str, *args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
    """Return transformers.utils.generic.maybe_autocast, for the meta device too."""
    return autocast(device_type, *args, **kwargs)


def is_autocast_enabled(device_type: str | None = None) -> bool:
    """Return whether autocast is enabled; without a device the question is of CUDA, which meta emulates."""
    if device_type is None or device_type in EMULATED:
        return current() is not None
    return _is_enabled(device_type)


def is_autocast_available(device_type: str) -> bool:
    """Return whether a device has autocast; checkpointing restores the forward's autocast in backward if so."""
    return device_type in EMULATED or _is_available(device_type)


def get_autocast_dtype(device_type: str) -> torch.dtype:
    """Return the dtype of autocast's lower precision."""
    if device_type not in EMULATED:
        return _dtype(device_type)
    return Autocast.active[-1].dtype if Autocast.active else torch.float16
