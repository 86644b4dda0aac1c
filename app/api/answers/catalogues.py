"""What the catalogue endpoints answer: models, cards and methods, each figure with its source."""

from __future__ import annotations

from typing import Any

from app.api.answers.estimate import Answer, described


class Published(Answer):
    """An exact count that somebody published."""

    parameters: int = described("The count.", 8_030_261_248)
    relation: str = described("How it relates to the count that is built.", "equal")
    source: str = described("Who published it.", "the model's card")


class ModelListed(Answer):
    """A model of the catalogue, in short."""

    id: str = described("Its hub id, which an estimate's `model` takes.", "meta-llama/Llama-3.1-8B")
    model_type: str = described("Its family, as config.json names it.", "llama")
    parameters: int = described("Parameters of the model that transformers builds from the config.", 8_030_261_248)
    aliases: tuple[str, ...] = described("Other ids that mean the same.", ["unsloth/Meta-Llama-3.1-8B"])


class ModelDetail(ModelListed):
    """A model of the catalogue with its config and where that comes from."""

    auto_class: str = described("The kind of transformers class that builds it.", "causal")
    config: dict[str, Any] = described("Its config.json, as far as shapes depend on it.", {"hidden_size": 4096})
    published: Published | None = described(
        "A published count beside ours, if one is known.", {"parameters": 8_030_261_248, "relation": "equal"}
    )
    sources: tuple[str, ...] = described("The texts behind the config's fields.", ["llama-models, sku_list.py"])
    confirmation: str = described("How far the sources agree.", "two sources")
    unconfirmed_fields: tuple[str, ...] = described("Fields that no second source shows.", ["max_position_embeddings"])
    note: str | None = described("What is worth knowing beside.", None)


class ModelList(Answer):
    """The catalogue's models."""

    models: tuple[ModelListed, ...] = described("Every model, in the catalogue's order.", [{"id": "gpt2"}])


class GPUAnswer(Answer):
    """A card, each figure with its source where it is known."""

    id: str = described("Its id, which an estimate's `device.gpu` takes.", "rtx-4090")
    name: str = described("Its name.", "GeForce RTX 4090")
    aliases: tuple[str, ...] = described("Other names for it.", ["4090"])
    vendor: str = described("Who makes it.", "NVIDIA")
    architecture: str = described("Its architecture.", "Ada Lovelace")
    segment: str = described("Whom it is sold to.", "consumer")
    compute_capability: str | None = described("CUDA's compute capability; null for other vendors.", "8.9")
    memory_gb: int = described("Memory as the data sheet says: GiB, though it writes GB.", 24)
    memory_type: str = described("The kind of memory.", "GDDR6X")
    memory_driver_mib: int | None = described("MiB that nvidia-smi shows, where known.", 24_564)
    memory_driver_source: str | None = described("Where that is from.", "nvidia-smi output in public files")
    memory_torch_mib: int | None = described("MiB that torch shows on Linux, where known.", 24_081)
    memory_torch_source: str | None = described("Where that is from.", "torch prints in public files")
    usable_bytes: int = described(
        "Bytes that a process is offered: torch's figure, or the nearest known.", 25_250_758_656
    )
    bandwidth_gbs: float | None = described("Memory bandwidth in GB/s.", 1008.0)
    bandwidth_source: str | None = described("Where that is from.", "the data sheet")
    bf16_tflops: float | None = described("Dense bfloat16 rate in TFLOPS.", 165.2)
    fp16_tflops: float | None = described("Dense float16 rate in TFLOPS.", 165.2)
    tflops_source: str | None = described("Where the rates are from.", "the data sheet")
    bf16_native: bool | None = described("Whether it computes in bfloat16 itself.", True)
    flash_attention_2: bool | None = described("Whether FlashAttention 2 runs on it.", True)
    bitsandbytes_4bit: bool | None = described("Whether bitsandbytes' 4-bit layers run on it.", True)
    nvlink: bool | None = described("Whether it has NVLink.", False)
    note: str | None = described("What is worth knowing beside.", None)
    origin: str = described("The row that names the card.", "the GPU database's page of the card")


class GPUList(Answer):
    """The catalogue's cards."""

    gpus: tuple[GPUAnswer, ...] = described("Every card, in the catalogue's order.", [{"id": "rtx-4090"}])


class MethodSetting(Answer):
    """An input of a method."""

    name: str = described("The field's name, as in PEFT.", "r")
    label: str = described("Its name in words.", "Rank")
    help: str = described("What it does.", "The rank r of the update.")
    default: Any = described("What it is where it is left out.", 8)
    minimum: float | None = described("The least it may be.", 1)
    maximum: float | None = described("The most it may be.", 65_536)
    choices: tuple[Any, ...] = described("What it may be, where that is a few words.", [])
    unit: str = described("Its unit.", "")


class MethodAnswer(Answer):
    """A method: its inputs and what sets it apart."""

    name: str = described("Its name, which an estimate's `method.name` takes.", "lora")
    label: str = described("Its name in words.", "LoRA")
    summary: str = described("What it is.", "A low-rank update beside frozen weights.")
    trainable: str = described("What it trains, as a formula.", "r · (in_features + out_features) per adapted matrix")
    inference_overhead: str = described("What it costs when the model is used.", "none once merged")
    mergeable: bool | None = described(
        "Whether it can be merged into the weights; null where there is nothing to.", True
    )
    best_for: str = described("Where it is at its best.", "most fine-tuning")
    source: str = described("Where these words come from.", "Hu et al. 2021, arXiv 2106.09685, section 4.1")
    settings: tuple[MethodSetting, ...] = described("Its inputs, in order.", [{"name": "r", "default": 8}])


class MethodList(Answer):
    """The methods."""

    methods: tuple[MethodAnswer, ...] = described("Every method.", [{"name": "lora"}])
