"""The layers to measure: real sizes of real models, each as a request and a module of its model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from calculator.estimation.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.estimation.request import Request

#: Tokens of a case on a GPU, enough that a 4-bit product dequantizes first; and on the CPU, which counts storages only.
TOKENS = 2048
CPU_TOKENS = 32

#: The sizes of Llama-3-8B, whose attention and MLP are measured, and of Llama-3-70B, whose MLP is.
_LLAMA_8B = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8}
_LLAMA_70B = {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 8}

MATRICES: dict[str, tuple[dict[str, int], str]] = {
    "4096x4096": (_LLAMA_8B, "self_attn.q_proj"),
    "4096x14336": (_LLAMA_8B, "mlp.up_proj"),
    "14336x4096": (_LLAMA_8B, "mlp.down_proj"),
    "8192x28672": (_LLAMA_70B, "mlp.up_proj"),
}

_LOW_RANK: dict[str, dict[str, Any]] = {
    "": {},
    ", dropout": {"lora_dropout": 0.1},
    ", DoRA": {"use_dora": True},
}


@dataclass(frozen=True, kw_only=True)
class LayerCase:
    """One layer: a request, and the module's path in a decoder layer (None: the module that the method adds)."""

    name: str
    body: dict[str, Any]
    module: str | None
    quick: bool = False

    @cached_property
    def request(self) -> Request:
        """The request of the calculator's rows."""
        return parse_request(self.body)


def layer_cases(tokens: int) -> list[LayerCase]:
    """Return every case; the quick ones, which cover every method, come first."""
    return sorted(_cases(tokens), key=lambda case: not case.quick)


def _cases(tokens: int) -> Iterator[LayerCase]:
    yield from _four_bit(tokens)
    for size in MATRICES:
        quick = size == "4096x4096"
        if size != "8192x28672":
            yield _case(f"dense, trained, {size}", size, {"name": "full"}, tokens, quick=quick)
        for option, options in _LOW_RANK.items():
            for name in ("lora", "qlora"):
                if quick or option != ", DoRA":
                    yield _case(
                        f"{name}{option}, {size}", size, {"name": name, "r": 16, **options}, tokens, quick=quick
                    )
    model = {"name": "lora", "r": 64}
    yield _case("lora in bfloat16, 4096x4096", "4096x4096", model, tokens, adapter_dtype="model", quick=True)
    for act in ("relu", "gelu"):
        body = {"name": "adapter", "bottleneck_size": 64, "non_linearity": act}
        yield _added(f"adapter, {act}, 4096", body, tokens)
    yield _added("adapter in bfloat16, 4096", {"name": "adapter", "bottleneck_size": 256}, tokens, "model")
    yield _added("prefix, 32 layers of 1024", {"name": "prefix", "num_virtual_tokens": 100}, tokens)
    projected = {"name": "prefix", "num_virtual_tokens": 20, "prefix_projection": True}
    yield _added("prefix, projected, 32 layers of 1024", projected, tokens)
    yield _added("prompt, 4096", {"name": "prompt", "num_virtual_tokens": 200}, tokens)


def _four_bit(tokens: int) -> Iterator[LayerCase]:
    """4-bit layers without an adapter: the request adapts another module."""
    for size in MATRICES:
        for quant_type in ("nf4", "fp4"):
            for double_quant in (True, False):
                if size == "4096x4096" or quant_type == "nf4":
                    nested = "double" if double_quant else "single"
                    other = "v_proj" if size != "4096x4096" else "k_proj"
                    method = {
                        "name": "qlora",
                        "quant_type": quant_type,
                        "double_quant": double_quant,
                        "target_modules": [other],
                    }
                    name = f"{quant_type}, {nested} quantization, {size}"
                    yield _case(name, size, method, tokens, quick=size == "4096x4096")


def _case(
    name: str, size: str, method: dict[str, Any], tokens: int, adapter_dtype: str = "float32", *, quick: bool = False
) -> LayerCase:
    sizes, module = MATRICES[size]
    if method["name"] in ("lora", "qlora"):
        method = {"target_modules": [module.rpartition(".")[2]], **method}
    return LayerCase(name=name, body=_body(sizes, method, tokens, adapter_dtype), module=module, quick=quick)


def _added(name: str, method: dict[str, Any], tokens: int, adapter_dtype: str = "float32") -> LayerCase:
    return LayerCase(name=name, body=_body(_LLAMA_8B, method, tokens, adapter_dtype), module=None, quick=True)


def _body(sizes: dict[str, int], method: dict[str, Any], tokens: int, adapter_dtype: str) -> dict[str, Any]:
    config = {"model_type": "llama", "num_hidden_layers": 32, "vocab_size": 32000, **sizes}
    if method["name"] == "qlora":
        method = {"prepare_model_for_kbit_training": False, **method}
    training = {"sequence_length": tokens, "adapter_dtype": adapter_dtype}
    return {"model": {"config": config}, "method": method, "training": training}
