"""A stand-in for Triton, whose kernels launch nothing: the outputs are allocated by the functions that launch them.

Triton has no wheel for many machines, and its kernels run on GPUs only.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: The release whose interface this module has.
VERSION = "3.5.0"


class Kernel:
    """A function that a GPU would run; a launch has no effect."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.fn = function
        self.__name__ = getattr(function, "__name__", "kernel")

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return self.run

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Launch nothing."""


def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`triton.jit`, with or without options."""
    return Kernel if function is None else Kernel(function)


def _decorator(*args: Any, **options: Any) -> Callable[[Any], Any]:
    """`triton.autotune` or `triton.heuristics`: the kernel unchanged."""
    return lambda kernel: kernel


class Constant:
    """`tl.constexpr`: a value known when a kernel is compiled."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Placeholder:
    """Anything else that only compiled kernels use: types, functions of `triton.language`."""

    def __getattr__(self, name: str) -> Self:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Self:  # noqa: D102
        return self

    def __or__(self, other: Any) -> Self:
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def next_power_of_2(n: int) -> int:
    """Return the smallest power of two that is not less than n."""
    return 1 << max(0, n - 1).bit_length()


def cdiv(x: int, y: int) -> int:
    """Return the quotient rounded up."""
    return -(-x // y)


#: The names of Triton that host code uses; any other name is an inert object.
PUBLIC: dict[str, dict[str, Any]] = {
    "triton": {
        "__version__": VERSION,
        "jit": jit,
        "autotune": _decorator,
        "heuristics": _decorator,
        "Config": Placeholder().__call__,
        "next_power_of_2": next_power_of_2,
        "cdiv": cdiv,
    },
    "triton.language": {"constexpr": Constant},
}


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Placeholder:
        if name.startswith("__"):
            raise AttributeError(name)
        return Placeholder()


class TritonFinder(MetaPathFinder, Loader):
    """Finds `triton` and all its modules in this one."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        """Return the specification of a module of Triton."""
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "triton" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return an empty module, whose missing names are placeholders."""
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Fill a module with what the host's code uses."""
        vars(module).update(PUBLIC.get(module.__name__, {}))


def install() -> None:
    """Make `import triton` import the stand-in, also where Triton is installed."""
    if any(isinstance(finder, TritonFinder) for finder in sys.meta_path):
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "triton"]:
        del sys.modules[name]
    sys.meta_path.insert(0, TritonFinder())
