"""What `POST /api/v1/inference` answers: the memory of every pass, what fills its peak, and what it costs."""

from dataclasses import asdict, fields
from typing import Any

from pydantic import model_validator

from app.api.answers.estimate import Answer, Component, Fit, ModelSummary, Row, described, settings
from calculator.common.names import PassName
from calculator.inference.answer import Inference


class ServedPass(Answer):
    """A pass of generate."""

    name: PassName = described("The prompt's pass, the next token's, or the last token's.", "prefill")
    peak_bytes: int = described("The most bytes alive in it.", 42_107_226_112)
    operation: str = described("What ran when it was reached.", "model.layers.*.mlp.up_proj: product")


class ServingMemoryAnswer(Answer):
    """What is alive at the peak of all passes, and what that takes of a card; whole bytes."""

    components: tuple[Component, ...] = described(
        "What is alive at the peak; sums to peak_allocated_bytes.", [{"name": "kv_cache", "bytes": 671_088_640}]
    )
    passes: tuple[ServedPass, ...] = described(
        "The most that is alive in each pass.", [{"name": "prefill", "peak_bytes": 42_107_226_112}]
    )
    peak_pass: PassName = described("The pass that the peak is in.", "prefill")
    peak_operation: str = described("What runs at the peak.", "model.layers.*.mlp.up_proj: product")
    peak_allocated_bytes: int = described("The live tensors at the peak, each rounded up to 512 bytes.", 42_107_226_112)
    library_workspace_bytes: int = described("What cuBLAS keeps, which max_memory_allocated counts too.", 8_519_680)
    peak_reserved_bytes: int = described("What torch.cuda.max_memory_reserved() reads, by a rule.", 42_803_000_000)
    required_bytes: int = described("Reserved memory and the CUDA context: what nvidia-smi shows.", 43_250_000_000)
    overheads: tuple[Row, ...] = described(
        "What required_bytes has beyond peak_allocated_bytes.", [{"name": "CUDA context", "bytes": 446_693_376}]
    )


class ResidentAnswer(Answer):
    """Parameters on the card."""

    base: int = described("Parameters of the base model.", 70_553_706_496)
    added_per_task: int = described("Parameters that lie beside it for one task.", 262_144_000)
    total: int = described("All that are on the card.", 70_815_850_496)


class ServingCostAnswer(Answer):
    """Something that serving takes: of the base model alone, and how much the tuned one takes more."""

    name: str = described("What it is.", "operations_per_token")
    unit: str = described("What is counted.", "operations")
    base: int = described("Of the base model, at the last token.", 145_040_605_184)
    added: int = described("What the tuning adds to that.", 524_288_000)
    share: float = described("What is added, over the base.", 0.003615)
    formula: str = described("How what is added comes about.", "2 × added weights")
    substituted: str = described("The formula with its numbers.", "2 × 262,144,000")
    source: str = described("Where the rule comes from.", "Kaplan et al. 2020, arXiv 2001.08361, table 1")


class MergeAnswer(Answer):
    """Merging low-rank updates into the weights as PEFT does it, before anything is served."""

    peak_bytes: int = described(
        "The most bytes alive while it merges, the model and its adapter among them.", 9_500_000_000
    )
    module: str = described("The module at which that is.", "model.layers.*.mlp.gate_proj")
    rows: tuple[Row, ...] = described("What is alive there beside the model.", [{"name": "weight, dequantised"}])
    loss: str = described("What rounding takes.", "A dense weight keeps the sum in its own data type.")
    source: str = described("Where the rule comes from.", "peft, tuners/lora/bnb.py, Linear4bit.merge")


class InferenceAnswer(Answer):
    """The whole answer to one served model."""

    model: ModelSummary = described("What is served.", {"id": "meta-llama/Llama-3.1-70B"})
    method: dict[str, Any] = described("How it was tuned, with all settings.", {"name": "qlora", "r": 64})
    serving: dict[str, Any] = described("How it is served, with all settings.", {"batch_size": 1})
    parameters: ResidentAnswer = described("How many parameters are on the card.", {"total": 70_815_850_496})
    memory: ServingMemoryAnswer = described("What serving needs.", {"peak_allocated_bytes": 42_107_226_112})
    costs: tuple[ServingCostAnswer, ...] = described(
        "What the tuned model costs over its base: operations and bytes read a token, bytes of cache and of weights.",
        [{"name": "operations_per_token"}],
    )
    merge: MergeAnswer | None = described(
        "What merging took; null where nothing is merged, or it is not modelled.", None
    )
    fit: Fit | None = described("The verdict; null where no device was given.", {"verdict": "fits"})
    assumptions: tuple[str, ...] = described(
        "What the figures rest on.", ["PyTorch 2.13, transformers 5.24, peft 0.21"]
    )
    warnings: tuple[str, ...] = described("Risks worth knowing.", [])

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, answer: Any) -> Any:
        if not isinstance(answer, Inference):
            return answer
        said = {field.name: getattr(answer, field.name) for field in fields(answer)}
        return {**said, "method": settings(answer.method), "serving": asdict(answer.serving)}
