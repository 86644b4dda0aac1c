"""PyTorch's out-of-memory messages, in every wording, and what is no such message."""

import pytest

from calculator.common.errors import PlanError
from calculator.diagnosis.message import LONGEST, parse_message

GIB, MIB = 1 << 30, 1 << 20

WORDINGS = {
    "1.0": "Tried to allocate 198.00 MiB (GPU 0; 5.93 GiB total capacity; 4.64 GiB already allocated; 54.94 MiB free;"
    " 233.05 MiB cached)",
    "1.3": "Tried to allocate 198.00 MiB (GPU 0; 5.93 GiB total capacity; 4.64 GiB already allocated; 54.94 MiB free;"
    " 233.05 MiB cached; 0 bytes inactive)",
    "1.4": "Tried to allocate 198.00 MiB (GPU 0; 5.93 GiB total capacity; 4.64 GiB already allocated; 54.94 MiB free;"
    " 4.87 GiB reserved in total by PyTorch)",
    "1.8": "Tried to allocate 198.00 MiB (GPU 0; 5.93 GiB total capacity; 4.64 GiB already allocated; 54.94 MiB free;"
    " 4.75 GiB allowed; 4.74 GiB reserved in total by PyTorch) If reserved memory is >> allocated memory try setting"
    " max_split_size_mb to avoid fragmentation.",
    "2.1": "Tried to allocate 198.00 MiB. GPU 0 has a total capacty of 5.93 GiB of which 54.94 MiB is free. Process 7"
    " has 12.00 MiB memory in use. Including non-PyTorch memory, this process has 5.60 GiB memory in use. Of the"
    " allocated memory 4.64 GiB is allocated by PyTorch, and 233.05 MiB is reserved by PyTorch but unallocated.",
    "2.5": "Tried to allocate 198.00 MiB. GPU 0 has a total capacity of 5.93 GiB of which 54.94 MiB is free. Including"
    " non-PyTorch memory, this process has 5.60 GiB memory in use. 4.75 GiB allowed; Of the allocated memory 4.64 GiB"
    " is allocated by PyTorch, with 20.00 MiB allocated in private pools (e.g., CUDA Graphs), and 233.05 MiB is"
    " reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting",
}


@pytest.mark.parametrize("release", WORDINGS)
def test_every_wording_has_the_same_figures(release):
    message = parse_message(f"RuntimeError: CUDA out of memory. {WORDINGS[release]}")
    assert (message.requested.bytes, message.gpu, message.found) == (198 * MIB, 0, 1)
    assert message.total.text == "5.93 GiB"
    assert message.allocated.includes(int(4.64 * GIB))
    assert abs(message.unallocated.bytes - (102 if release == "1.8" else 233) * MIB) <= 0.01 * GIB
    assert (message.allowed is not None) == (release in ("1.8", "2.5"))
    assert (message.in_use is not None) == release.startswith("2")


def test_the_reserved_memory_is_at_most_the_allowed_one():
    free, allowed = (parse_message(f"CUDA out of memory. {WORDINGS[release]}") for release in ("1.0", "2.5"))
    assert free.capacity_bytes == free.allocated.bytes + free.unallocated.bytes + free.free.bytes
    assert allowed.capacity_bytes == allowed.allowed.bytes < free.capacity_bytes


def test_the_first_of_several_ranks_is_read_through_the_lines_of_a_log():
    text = WORDINGS["2.1"].replace(". ", ".\n[rank0]: ")
    log = f"Epoch 1\n[rank0]: torch.OutOfMemoryError: CUDA out of memory. {text}\nCUDA out of memory. {WORDINGS['1.4']}"
    assert parse_message(log) == parse_message(
        f"CUDA out of memory. {WORDINGS['2.1']} CUDA out of memory. {WORDINGS['1.4']}"
    )
    assert parse_message(log).found == 2


def test_a_use_beyond_the_device_is_ignored():
    text = WORDINGS["2.1"].replace("5.60 GiB", "17179869184.00 GiB")
    assert parse_message(f"CUDA out of memory. {text}").elsewhere_bytes is None
    stated = parse_message(f"CUDA out of memory. {WORDINGS['2.1']}")
    assert stated.elsewhere_bytes == stated.total.bytes - stated.free.bytes - stated.in_use.bytes


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 14.76 GiB total capacity; 13.2", "already allocated"),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "total capacity"),
        ("CUDA out of memory. Tried to allo", "Tried to allocate"),
        (f"CUDA out of memory. {WORDINGS['2.1'][:-40]}", "reserved by PyTorch but unallocated"),
        (f"CUDA out of memory. Tried to allocate {'9' * 400}.00 GiB", "Tried to allocate"),
        (
            f"CUDA out of memory. Tried to allocate 2.00 GiB (GPU {'9' * 5000}; 14.76 GiB total capacity;",
            "total capacity",
        ),
        ("HIP out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 24.00 GiB", "AMD"),
        ("MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 1.00 GB)", "Apple"),
        ("RuntimeError: CUDA error: out of memory", "states no size"),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "states no size"),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes", "host memory"),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes", "JAX"),
        ("| NVIDIA-SMI 550.54 | | 0 Tesla T4 | 14571MiB / 15360MiB |", "table of nvidia-smi"),
        ("torch.OutOfMemoryError: CUDA out of mem", "cut off"),
        ("CUDA内存不足。尝试分配 2.00 GiB总容量 14.76 GiB", "translation"),
        ("CUDA : mémoire insuffisante. Tentative d'allouer 2,00 Gio", "translation"),
        ("Traceback (most recent call last):", "no out-of-memory message"),
        ("", "no out-of-memory message"),
        ("x" * (LONGEST + 1), "longer than"),
    ],
)
def test_another_text_is_refused_by_name(text, reason):
    with pytest.raises(PlanError, match=reason) as error:
        parse_message(text)
    assert [problem.loc for problem in error.value.problems] == ["message"]
