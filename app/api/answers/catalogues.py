"""What the catalogue endpoints answer: models, cards and methods, each figure with its source."""

from __future__ import annotations

from typing import Any

from app.api.answers.estimate import Answer, told


class Published(Answer):
    """An exact count that somebody published."""

    parameters: int = told("The count.", 8_030_261_248)
    relation: str = told("How it relates to the count that is built.", "equal")
    source: str = told("Who published it.", "the model's card")


class ModelListed(Answer):
    """A model of the catalogue, in short."""

    id: str = told("Its hub id, which an estimate's `model` takes.", "meta-llama/Llama-3.1-8B")
    model_type: str = told("Its family, as config.json names it.", "llama")
    parameters: int = told("Parameters of the model that transformers builds from the config.", 8_030_261_248)
    aliases: tuple[str, ...] = told("Other ids that mean the same.", ["unsloth/Meta-Llama-3.1-8B"])


class ModelDetail(ModelListed):
    """A model of the catalogue with its config and where that comes from."""

    auto_class: str = told("The kind of transformers class that builds it.", "causal")
    config: dict[str, Any] = told("Its config.json, as far as shapes depend on it.", {"hidden_size": 4096})
    published: Published | None = told(
        "A published count beside ours, if one is known.", {"parameters": 8_030_261_248, "relation": "equal"}
    )
    sources: tuple[str, ...] = told("The texts behind the config's fields.", ["llama-models, sku_list.py"])
    confirmation: str = told("How far the sources agree.", "two sources")
    unconfirmed_fields: tuple[str, ...] = told("Fields that no second source shows.", ["max_position_embeddings"])
    note: str | None = told("What is worth knowing beside.", None)


class ModelList(Answer):
    """The catalogue's models."""

    models: tuple[ModelListed, ...] = told("Every model, in the catalogue's order.", [{"id": "gpt2"}])


class GPUAnswer(Answer):
    """A card, each figure with its source where it is known."""

    id: str = told("Its id, which an estimate's `device.gpu` takes.", "rtx-4090")
    name: str = told("Its name.", "GeForce RTX 4090")
    aliases: tuple[str, ...] = told("Other names for it.", ["4090"])
    vendor: str = told("Who makes it.", "NVIDIA")
    architecture: str = told("Its architecture.", "Ada Lovelace")
    segment: str = told("Whom it is sold to.", "consumer")
    compute_capability: str | None = told("CUDA's compute capability; null for other vendors.", "8.9")
    memory_gb: int = told("Memory as the data sheet says: GiB, though it writes GB.", 24)
    memory_type: str = told("The kind of memory.", "GDDR6X")
    memory_driver_mib: int | None = told("MiB that nvidia-smi shows, where known.", 24_564)
    memory_driver_source: str | None = told("Where that is from.", "nvidia-smi output in public files")
    memory_torch_mib: int | None = told("MiB that torch shows on Linux, where known.", 24_081)
    memory_torch_source: str | None = told("Where that is from.", "torch prints in public files")
    usable_bytes: int = told("Bytes that a process is offered: torch's figure, or the nearest known.", 25_250_758_656)
    bandwidth_gbs: float | None = told("Memory bandwidth in GB/s.", 1008.0)
    bandwidth_source: str | None = told("Where that is from.", "the data sheet")
    bf16_tflops: float | None = told("Dense bfloat16 rate in TFLOPS.", 165.2)
    fp16_tflops: float | None = told("Dense float16 rate in TFLOPS.", 165.2)
    tflops_source: str | None = told("Where the rates are from.", "the data sheet")
    bf16_native: bool | None = told("Whether it computes in bfloat16 itself.", True)
    flash_attention_2: bool | None = told("Whether FlashAttention 2 runs on it.", True)
    bitsandbytes_4bit: bool | None = told("Whether bitsandbytes' 4-bit layers run on it.", True)
    nvlink: bool | None = told("Whether it has NVLink.", False)
    note: str | None = told("What is worth knowing beside.", None)
    origin: str = told("The row that names the card.", "the GPU database's page of the card")


class GPUList(Answer):
    """The catalogue's cards."""

    gpus: tuple[GPUAnswer, ...] = told("Every card, in the catalogue's order.", [{"id": "rtx-4090"}])


class MethodSetting(Answer):
    """An input of a method."""

    name: str = told("The field's name, as in PEFT.", "r")
    label: str = told("Its name in words.", "Rank")
    help: str = told("What it does.", "The rank r of the update.")
    default: Any = told("What it is where it is left out.", 8)
    minimum: float | None = told("The least it may be.", 1)
    maximum: float | None = told("The most it may be.", 65_536)
    choices: tuple[Any, ...] = told("What it may be, where that is a few words.", [])
    unit: str = told("Its unit.", "")


class MethodAnswer(Answer):
    """A method: its inputs and what sets it apart."""

    name: str = told("Its name, which an estimate's `method.name` takes.", "lora")
    label: str = told("Its name in words.", "LoRA")
    summary: str = told("What it is.", "A low-rank update beside frozen weights.")
    trainable: str = told("What it trains, as a formula.", "r · (in_features + out_features) per adapted matrix")
    inference_overhead: str = told("What it costs when the model is used.", "none once merged")
    mergeable: bool | None = told("Whether it can be merged into the weights; null where there is nothing to.", True)
    best_for: str = told("Where it is at its best.", "most fine-tuning")
    source: str = told("Where these words come from.", "Hu et al. 2021, arXiv 2106.09685, section 4.1")
    settings: tuple[MethodSetting, ...] = told("Its inputs, in order.", [{"name": "r", "default": 8}])


class MethodList(Answer):
    """The methods."""

    methods: tuple[MethodAnswer, ...] = told("Every method.", [{"name": "lora"}])
