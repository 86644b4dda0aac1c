"""The stub's library, built for the CUDA build of torch that is installed, and the environment that preloads it."""

from __future__ import annotations

import os
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

from calculator.devices import cuda_context

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.devices import GPU

_RUNTIME, _NVML = (Path(__file__).with_name(name) for name in ("runtime.c", "nvml.c"))
#: The libraries of torch whose functions of the runtime and of cuBLAS are stubbed.
_PYTHON = "libtorch_python.so"
_OF_RUNTIME = ("libc10_cuda.so", "libtorch_cuda.so", _PYTHON)
#: The library that is linked to the driver, and the one that looks functions of the driver and of NVML up by name.
_LINKED, _LOADING = "libcaffe2_nvrtc.so", "libc10_cuda.so"
#: The names of these functions, in the tables of symbols and among the strings of a library.
_RUNTIME_SYMBOL = re.compile(r" U (_*cuda\w+|cublas\w+)")
_DRIVER_SYMBOL = re.compile(r" U (cu[A-Z]\w+)")
_DRIVER_STRING = re.compile(rb"\0(cu[A-Z]\w+)(?=\0)")
_NVML_STRING = re.compile(rb"\0(nvml[A-Z]\w+)(?=\0)")
#: The string that torch.cuda.get_arch_list reads.
_ARCH_FLAGS = re.compile(rb"sm_\d+(?: sm_\d+)+")

#: The driver's libraries, to which torch's own are linked or which they load. Preloaded ones take their place.
_DRIVER_NAME, _NVML_NAME = "libcuda.so.1", "libnvidia-ml.so.1"


def on_stub() -> bool:
    """Return whether this process runs on a stub."""
    return "STUB_GPU_NAME" in os.environ


class NoStubError(Exception):
    """The stub cannot be built here."""


def build(folder: Path) -> list[Path]:
    """Build the libraries in a folder. Return their paths.

    Raises:
        NoStubError: if torch is not a CUDA build for Linux, or if there is no C compiler.
    """
    libraries, site = _torch_libraries()
    strings = (libraries / _LOADING).read_bytes()
    runtime_symbols = _symbols(_RUNTIME_SYMBOL, *(libraries / name for name in _OF_RUNTIME))
    driver_symbols = {*_symbols(_DRIVER_SYMBOL, libraries / _LINKED), *_strings(_DRIVER_STRING, strings)}
    options = [f"-I{path}" for path in _headers(site)] + [f"-DCUDA_VERSION={_cuda_version(libraries)}"]
    options += [f"-DCOMPILED_FOR={','.join(_compiled_for(libraries))}"]
    return [
        _compiled(folder / _DRIVER_NAME, _RUNTIME, {*runtime_symbols, *driver_symbols}, *options),
        _compiled(folder / _NVML_NAME, _NVML, _strings(_NVML_STRING, strings)),
    ]


def _compiled(library: Path, source: Path, names: Iterable[str], *options: str) -> Path:
    """Compile a source, with functions of the given names that it does not define, which return 0."""
    compiler = which("cc") or which("gcc")
    if compiler is None:
        raise NoStubError("it needs a C compiler: install gcc")
    missing = {*names}.difference(re.findall(r"\w+", re.sub(r'".*?"', "", source.read_text("utf-8"))))
    generated = library.with_suffix(".c")
    generated.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in sorted(missing)), "utf-8")
    command = [compiler, "-w", "-O1", "-shared", "-fPIC", f"-Wl,-soname,{library.name}", *options]
    command += [str(source), str(generated), "-o", str(library)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  the compiler
    if built.returncode:
        raise NoStubError(f"{compiler} failed: {built.stderr[:500]}")
    return library


def environment(libraries: Iterable[Path], card: GPU, multiprocessors: int) -> dict[str, str]:
    """Return the environment of a process that runs on a stub of a GPU."""
    if card.compute_capability is None:
        raise NoStubError(f"{card.name} is not a GPU of NVIDIA")
    major, minor = card.compute_capability.split(".")
    return {
        **os.environ,
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # requests that run out of memory are expected
        "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1",  # cuDNN is closed, and does not run on a stub
        "LD_PRELOAD": ":".join(map(str, libraries)),
        "STUB_GPU_NAME": card.name,
        "STUB_GPU_MEMORY": str(card.usable_bytes),
        "STUB_GPU_CONTEXT": str(cuda_context(card).bytes),
        "STUB_GPU_MAJOR": major,
        "STUB_GPU_MINOR": minor,
        "STUB_GPU_MULTIPROCESSORS": str(multiprocessors),
    }


def _torch_libraries() -> tuple[Path, Path]:
    """Return the folder of torch's libraries, and the folder in which torch is installed."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        raise NoStubError("torch is not installed")
    folder = Path(spec.origin).parent
    if not all((folder / "lib" / name).exists() for name in (*_OF_RUNTIME, _LINKED)):
        raise NoStubError("torch is not a CUDA build for Linux: install one, without +cpu")
    return folder / "lib", folder.parent


def _cuda_version(libraries: Path) -> int:
    """Return the version of CUDA that torch is built for, as the runtime states it: 13000 for 13.0."""
    match = re.search(r"cuda.*= '(\d+)\.(\d+)", libraries.with_name("version.py").read_text("utf-8"))
    if match is None:
        raise NoStubError("torch/version.py names no version of CUDA")
    return 1000 * int(match[1]) + 10 * int(match[2])


def _compiled_for(libraries: Path) -> list[str]:
    """Return the compute capabilities that torch's kernels are compiled for, times 10."""
    match = _ARCH_FLAGS.search((libraries / _PYTHON).read_bytes())
    if match is None:
        raise NoStubError("torch names no compute capability that it is compiled for")
    return [name.removeprefix("sm_") for name in match[0].decode("ascii").split()]


def _headers(site: Path) -> Iterator[Path]:
    """Yield the folders of CUDA's headers, which come with torch: NVIDIA's first, and triton's for what these lack."""
    for pattern in ("nvidia/*/include/driver_types.h", "triton/backends/nvidia/include/driver_types.h"):
        for path in site.glob(pattern):
            yield path.parent


def _symbols(pattern: re.Pattern[str], *libraries: Path) -> Iterator[str]:
    """Yield the functions that libraries need and do not define."""
    for library in libraries:
        listed = subprocess.run(  # noqa: S603  nm of the compiler's tools
            ["nm", "-D", "--undefined-only", str(library)],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
        )
        yield from pattern.findall(listed.stdout)


def _strings(pattern: re.Pattern[bytes], library: bytes) -> set[str]:
    """Return the names that a library has as strings."""
    return {name.decode("ascii") for name in pattern.findall(library)}
