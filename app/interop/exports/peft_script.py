"""A training script of `transformers` and `peft` that runs the reference step.

Source: the step that every figure speaks of, which build.py, methods.py, bottleneck.py, optimizers.py and step.py of
validation/reference take on the real modules.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.http.version import ROOT
from app.interop.exports.exported import Exported
from app.interop.exports.header import header, title
from app.interop.exports.literal import literal
from calculator.methods import Adapter, Full, LoRA, Prefix, Prompt, QLoRA

if TYPE_CHECKING:
    from app.interop.exports.planned import Planned
    from calculator.common.names import OptimizerName
    from calculator.estimate.request import Request

#: How the Hugging Face Trainer makes each optimizer. Source: transformers/trainer_optimizer.py.
OPTIMIZERS: dict[OptimizerName, str] = {
    "adamw_torch": "torch.optim.AdamW(trainable, lr=LEARNING_RATE, foreach=True)",
    "adamw_torch_fused": "torch.optim.AdamW(trainable, lr=LEARNING_RATE, fused=True)",
    "adamw_8bit": "bnb.optim.AdamW(trainable, lr=LEARNING_RATE, optim_bits=8)",
    "adamw_bnb_8bit": "bnb.optim.AdamW(trainable, lr=LEARNING_RATE, optim_bits=8)",
    "paged_adamw_8bit": "bnb.optim.AdamW(trainable, lr=LEARNING_RATE, optim_bits=8, is_paged=True)",
    "paged_adamw_32bit": "bnb.optim.AdamW(trainable, lr=LEARNING_RATE, optim_bits=32, is_paged=True)",
    "lion_8bit": "bnb.optim.Lion(trainable, lr=LEARNING_RATE, optim_bits=8)",
    "paged_lion_8bit": "bnb.optim.Lion(trainable, lr=LEARNING_RATE, optim_bits=8, is_paged=True)",
    "lion_32bit": "bnb.optim.Lion(trainable, lr=LEARNING_RATE, optim_bits=32)",
    "paged_lion_32bit": "bnb.optim.Lion(trainable, lr=LEARNING_RATE, optim_bits=32, is_paged=True)",
    "sgd": "torch.optim.SGD(trainable, lr=LEARNING_RATE, foreach=True)",
    "adafactor": "Adafactor(trainable, lr=LEARNING_RATE, scale_parameter=False, relative_step=False)",
    "adagrad": "torch.optim.Adagrad(trainable, lr=LEARNING_RATE, foreach=True)",
    "rmsprop": "torch.optim.RMSprop(trainable, lr=LEARNING_RATE, foreach=True)",
}

#: What families call the submodules that an adapter follows.
ATTENTION = ("self_attn", "attn", "attention", "self_attention")
MLP = ("mlp", "block_sparse_moe", "feed_forward", "ffn", "fc2")

ACTIVATIONS = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "tanh": "Tanh"}

#: The block size that BitsAndBytesConfig can't change. Source: transformers/utils/quantization_config.py.
USUAL_BLOCKSIZE = 64


def exported(planned: Planned) -> Exported:
    """The script of a plan."""
    told = _template().render(_context(planned))
    return Exported(filename="train.py", media_type="text/x-python", content=told)


@cache
def _template() -> Any:
    # What is rendered is Python and no HTML: every value goes through `literal`, or is the calculator's own.
    environment = Environment(
        loader=FileSystemLoader(ROOT / "templates" / "exports"),
        autoescape=False,  # noqa: S701
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["literal"] = literal
    return environment.get_template("peft.py.jinja")


def _context(planned: Planned) -> dict[str, Any]:
    request, plan = planned.request, planned.plan
    method, training = request.method, request.training
    quantized = isinstance(method, QLoRA)
    by_hand = isinstance(method, QLoRA) and (request.model.id is None or method.blocksize != USUAL_BLOCKSIZE)
    return {
        **_kinds(request),
        "activation": ACTIVATIONS[method.non_linearity] if isinstance(method, Adapter) else None,
        "added_dtype": training.added_dtype if isinstance(method, Adapter) else None,
        "attention": planned.attention,
        "by_hand": by_hand,
        "config": request.model.config,
        "header": header(request, plan, _run(request)),
        "imports": _imports(request, by_hand=by_hand),
        "label": method.facts.label,
        "max_memory_allocated": plan.memory.peak_allocated_bytes + plan.memory.library_workspace_bytes,
        "method": method,
        "model_id": planned.model.id,
        "optimizer": OPTIMIZERS[training.optimizer],
        "quantized": quantized,
        "sublayers": MLP if isinstance(method, Adapter) and method.placement == "pfeiffer" else ATTENTION + MLP,
        "title": title(request, plan),
        "trainable": plan.parameters.trainable,
        "training": training,
        "transformers": _transformers(request, by_hand=by_hand),
    }


def _kinds(request: Request) -> dict[str, bool]:
    method = request.method
    return {
        "adapter": isinstance(method, Adapter),
        "full": isinstance(method, Full),
        "low_rank": isinstance(method, LoRA | QLoRA),
        "prefix": isinstance(method, Prefix),
        "prompt": isinstance(method, Prompt),
    }


def _imports(request: Request, *, by_hand: bool) -> tuple[str, ...]:
    needed = {
        "bnb": by_hand or OPTIMIZERS[request.training.optimizer].startswith("bnb."),
        "peft": isinstance(request.method, LoRA | QLoRA | Prefix | Prompt),
        "nn": by_hand or isinstance(request.method, Adapter),
    }
    return tuple(name for name, is_needed in needed.items() if is_needed)


def _transformers(request: Request, *, by_hand: bool) -> tuple[str, ...]:
    named = ["AutoModelForCausalLM", "AutoTokenizer" if request.model.id is not None else "AutoConfig"]
    if isinstance(request.method, QLoRA) and not by_hand:
        named.append("BitsAndBytesConfig")
    if request.training.optimizer == "adafactor":
        named.append("Adafactor")
    return tuple(sorted(named))


def _run(request: Request) -> tuple[str, ...]:
    told = "python train.py --text corpus.txt --steps 1000 --output trained"
    where = "" if request.model.id is not None else " It starts from random weights."
    lines = [f"Run it with: {told}", f"Without --text it takes a few steps on a sample of its own.{where}"]
    if request.training.padding:
        lines.append("The labels are a tensor of their own here, 8 bytes a token, so that padding is not learned.")
    return tuple(lines)
