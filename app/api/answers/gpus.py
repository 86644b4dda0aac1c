"""Answer of `GET /api/v1/gpus`: the catalogue's GPUs, each figure with its source."""

from app.api.answers.answer import Answer, described


class GPUAnswer(Answer):
    """A GPU of the catalogue."""

    id: str = described("The catalogue id. Pass it as `device.gpu` in a request.", "rtx-4090")
    name: str = described("The product name.", "GeForce RTX 4090")
    aliases: tuple[str, ...] = described("Other names that `device.gpu` accepts.", ["4090"])
    vendor: str = described("The vendor.", "NVIDIA")
    architecture: str = described("The GPU architecture.", "Ada Lovelace")
    segment: str = described("The market segment.", "consumer")
    compute_capability: str | None = described("CUDA compute capability; null for other vendors.", "8.9")
    multiprocessors: int | None = described("Streaming multiprocessors of an NVIDIA GPU; null if unknown.", 128)
    multiprocessors_source: str | None = described("Source of multiprocessors.", "the GPU database's page of it")
    memory_gb: int = described("Memory on the data sheet, which writes GB but means GiB.", 24)
    memory_type: str = described("The type of memory.", "GDDR6X")
    memory_driver_mib: int | None = described("Total memory that nvidia-smi shows, in MiB; null if unknown.", 24_564)
    memory_driver_source: str | None = described("Source of memory_driver_mib.", "nvidia-smi output in public files")
    memory_torch_mib: int | None = described(
        "Total memory that torch reports on Linux, in MiB; null if unknown.", 24_081
    )
    memory_torch_source: str | None = described("Source of memory_torch_mib.", "torch prints in public files")
    usable_bytes: int = described(
        "Bytes that a process can use: torch's figure, or the nearest known one.", 25_250_758_656
    )
    bandwidth_gbs: float | None = described("Memory bandwidth in GB/s.", 1008.0)
    bandwidth_source: str | None = described("Source of bandwidth_gbs.", "the data sheet")
    bf16_tflops: float | None = described("Dense bfloat16 throughput in TFLOPS.", 165.2)
    fp16_tflops: float | None = described("Dense float16 throughput in TFLOPS.", 165.2)
    fp32_tflops: float | None = described("Float32 throughput without tensor cores in TFLOPS.", 82.58)
    tflops_source: str | None = described("Source of bf16_tflops and fp16_tflops.", "the data sheet")
    bf16_native: bool | None = described("Whether the GPU computes in bfloat16 natively.", True)
    flash_attention_2: bool | None = described("Whether FlashAttention 2 runs on the GPU.", True)
    bitsandbytes_4bit: bool | None = described("Whether the 4-bit layers of bitsandbytes run on the GPU.", True)
    nvlink: bool | None = described("Whether the GPU has NVLink.", False)
    note: str | None = described("A remark on the GPU; null if there is none.", None)
    origin: str = described("The list that names the GPU.", "the GPU database's page of it")


class GPUList(Answer):
    """Every GPU of the catalogue."""

    gpus: tuple[GPUAnswer, ...] = described("Every GPU, in the catalogue's order.", [{"id": "rtx-4090"}])
