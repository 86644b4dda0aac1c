"""Answer of `POST /api/v1/inference`: the memory of each pass, its components, and the cost over the base model."""

from dataclasses import asdict, fields
from typing import Any

from pydantic import model_validator

from app.api.answers.answer import Answer, described
from app.api.answers.estimate import ModelSummary, settings
from app.api.answers.fit import DeviceFit
from app.api.answers.memory import Component, Row
from calculator.common.names import PassName
from calculator.estimation.request import ReservedBy
from calculator.inference.answer import Inference


class ServedPass(Answer):
    """A forward pass of `generate`."""

    name: PassName = described("The prompt (prefill), the first generated token, or the last one.", "prefill")
    peak_bytes: int = described("The most bytes alive during the pass.", 42_107_226_112)
    operation: str = described("The operation that runs at the pass's peak.", "model.layers.*.mlp.up_proj: product")


class ServingMemoryAnswer(Answer):
    """The memory of inference on each device, in whole bytes."""

    components: tuple[Component, ...] = described(
        "What is alive at the peak. The bytes add up to peak_allocated_bytes.",
        [{"name": "kv_cache", "bytes": 671_088_640}],
    )
    passes: tuple[ServedPass, ...] = described(
        "The peak of each pass.", [{"name": "prefill", "peak_bytes": 42_107_226_112}]
    )
    peak_pass: PassName = described("The pass with the highest peak.", "prefill")
    peak_operation: str = described("The operation that runs at the peak.", "model.layers.*.mlp.up_proj: product")
    peak_allocated_bytes: int = described(
        "The live tensors at the peak; each is rounded up to a multiple of 512 bytes.", 42_107_226_112
    )
    library_workspace_bytes: int = described(
        "The workspaces of cuBLAS. torch.cuda.max_memory_allocated() reads peak_allocated_bytes plus these.", 8_519_680
    )
    peak_reserved_bytes: int = described(
        "What torch.cuda.max_memory_reserved() reads, workspaces included.", 42_803_000_000
    )
    required_bytes: int = described("Reserved memory plus the CUDA context: what nvidia-smi shows.", 43_250_000_000)
    overheads: tuple[Row, ...] = described(
        "What required_bytes contains in addition to peak_allocated_bytes.",
        [{"name": "CUDA context", "bytes": 446_693_376}],
    )


class ResidentAnswer(Answer):
    """Numbers of parameters on the device."""

    base: int = described("Parameters of the base model.", 70_553_706_496)
    added_per_task: int = described("Parameters that each task adds, if they are not merged.", 262_144_000)
    total: int = described("All parameters on the device.", 70_815_850_496)


class ServingCostAnswer(Answer):
    """A cost of inference: of the base model, and what the fine-tuned model adds."""

    name: str = described("The cost.", "operations_per_token")
    unit: str = described("The unit.", "operations")
    base: int = described("The base model's cost at the last token.", 145_040_605_184)
    added: int = described("What the fine-tuned model adds.", 524_288_000)
    share: float = described("Added cost divided by base cost.", 0.003615)
    formula: str = described("The formula for the added cost.", "2 × added weights")
    substituted: str = described("The formula with numbers.", "2 × 262,144,000")
    source: str = described("Source of the formula.", "Kaplan et al. 2020, arXiv 2001.08361, table 1")


class MergeAnswer(Answer):
    """Merging a low-rank update into the weights with PEFT, before inference starts."""

    peak_bytes: int = described(
        "The most bytes alive during the merge, including the model and its adapter.", 9_500_000_000
    )
    module: str = described("The module that is merged at the peak.", "model.layers.*.mlp.gate_proj")
    rows: tuple[Row, ...] = described(
        "Tensors alive at the peak in addition to the model.", [{"name": "weight, dequantized"}]
    )
    loss: str = described("What rounding loses.", "A dense weight keeps the sum in its own data type.")
    source: str = described("Source of the formula.", "peft, tuners/lora/bnb.py, Linear4bit.merge")


class InferenceAnswer(Answer):
    """The memory, costs and verdict of serving one fine-tuned model."""

    model: ModelSummary = described("The base model that is served.", {"id": "meta-llama/Llama-3.1-70B"})
    method: dict[str, Any] = described("The fine-tuning method with every setting.", {"name": "qlora", "r": 64})
    serving: dict[str, Any] = described("The serving settings.", {"batch_size": 1})
    parameters: ResidentAnswer = described("How many parameters are on the device.", {"total": 70_815_850_496})
    memory: ServingMemoryAnswer = described("The memory of inference.", {"peak_allocated_bytes": 42_107_226_112})
    costs: tuple[ServingCostAnswer, ...] = described(
        "What the fine-tuned model costs over its base: operations per token, bytes read per token, bytes of the KV"
        " cache and bytes of weights.",
        [{"name": "operations_per_token"}],
    )
    merge: MergeAnswer | None = described(
        "The memory of merging; null if nothing is merged, or if this merge is not modeled.", None
    )
    fit: DeviceFit | None = described("The verdict; null if the request has no device.", {"verdict": "fits"})
    reserved: ReservedBy = described("How peak_reserved_bytes was computed.", "replay")
    reserved_reason: str | None = described(
        "Why the rule was used although a replay was requested; null if it was not used instead.", None
    )
    assumptions: tuple[str, ...] = described("What the figures assume.", ["PyTorch 2.13, transformers 5.24, peft 0.21"])
    warnings: tuple[str, ...] = described("Risks worth knowing.", [])

    @model_validator(mode="before")
    @classmethod
    def _with_settings(cls, value: Any) -> Any:
        if not isinstance(value, Inference):
            return value
        attributes = {field.name: getattr(value, field.name) for field in fields(value)}
        return {**attributes, "method": settings(value.method), "serving": asdict(value.serving)}
