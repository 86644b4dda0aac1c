"""The message of torch.OutOfMemoryError."""

from calculator.allocator.out_of_memory import DeviceMemory, OutOfMemoryError, format_size

GIB, MIB = 1 << 30, 1 << 20
#: A published log of an RTX 4090, its figures in bytes as near as they can be read from it.
LOG = (
    "CUDA out of memory. Tried to allocate 160.00 MiB. GPU 0 has a total capacity of 23.52 GiB of which"
    " 137.75 MiB is free. Including non-PyTorch memory, this process has 23.37 GiB memory in use. Of the"
    " allocated memory 22.53 GiB is allocated by PyTorch, and 376.96 MiB is reserved by PyTorch but"
    " unallocated. If reserved but unallocated memory is large try setting"
    " PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation for"
    " Memory Management "
    " (https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-cuda-alloc-conf)"
)


def test_the_message_reads_as_in_a_published_log():
    allocated, unallocated = int(22.53 * GIB), int(376.96 * MIB)
    reserved = allocated + unallocated
    context = int(23.37 * GIB) - reserved + (4 << 20)
    error = OutOfMemoryError(
        requested=160 * MIB,
        segment=160 * MIB,
        allocated=allocated,
        reserved=reserved,
        free=int(137.75 * MIB),
        allowed=None,
    )
    device = DeviceMemory(capacity=reserved + int(137.75 * MIB), total=int(23.52 * GIB), context=context)
    assert error.message(device) == LOG


def test_the_limit_of_a_fraction_is_named():
    error = OutOfMemoryError(requested=512, segment=2 * MIB, allocated=0, reserved=0, free=GIB, allowed=MIB)
    message = error.message(DeviceMemory(capacity=GIB, total=2 * GIB, context=MIB))
    assert "memory in use. 1024.00 KiB allowed; Of the allocated memory 0 bytes is allocated" in message


def test_a_size_has_the_unit_below_it():
    sizes = (0, 1024, 1025, MIB, MIB + 1, GIB, 2 * GIB)
    written = ["0 bytes", "1024 bytes", "1.00 KiB", "1024.00 KiB", "1.00 MiB", "1024.00 MiB", "2.00 GiB"]
    assert [format_size(size) for size in sizes] == written
