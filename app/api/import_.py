"""`POST /api/v1/import`: another tool's file as a request."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, Field

from app.api.answers.estimate import ImportAnswer
from app.api.examples import Posted
from app.api.responses import REFUSALS, json, problems_of, takes
from app.api.schema import STRICT, FormatName, ModelConfig
from app.http.body_params import JsonBody
from app.interop import imports
from app.interop.imports.text import LONGEST
from calculator.common.errors import PlanError, Problem, refusal

router = APIRouter(tags=["Plans"])


class ImportRequest(BaseModel):
    """Another tool's file, and what it does not say itself."""

    model_config = STRICT

    content: str | dict[str, Any] = Field(
        description=f"The file's text (at most {LONGEST:,} characters), or its content as an object.",
        examples=["base_model: meta-llama/Llama-3.1-8B\nadapter: lora\nlora_r: 16\n"],
    )
    format: FormatName | None = Field(
        default=None, description="What the file is of; left out, its keys tell.", examples=["axolotl"]
    )
    model: str | ModelConfig | None = Field(
        default=None,
        description="A catalogue id or a config.json, instead of the model that the file names.",
        examples=["meta-llama/Llama-3.1-8B"],
    )


#: The request's fields.
KNOWN = tuple(ImportRequest.model_fields)


def answered(body: Any) -> ImportAnswer:
    """The answer to decoded JSON.

    Raises:
        PlanError: where the request is wrong, or the file can't be read.
    """
    if not isinstance(body, dict):
        raise refusal("", "the request must be an object", body)
    wrong = [
        Problem(loc=key, msg=f"unknown field; known fields are {', '.join(KNOWN)}", input=body[key])
        for key in body
        if key not in KNOWN
    ]
    named = body.get("format")
    if named is not None and not (isinstance(named, str) and named in imports.FORMATS):
        wrong.append(Problem(loc="format", msg=f"must be one of {', '.join(imports.FORMATS)}, or null", input=named))
    if not isinstance(body.get("content"), str | dict):
        message = "must be the file's text, or its content as an object"
        wrong.append(Problem(loc="content", msg=message, input=body.get("content")))
    if wrong:
        raise PlanError(*wrong)
    return ImportAnswer.model_validate(imports.read(body["content"], named, body.get("model")))


@router.post(
    "/api/v1/import",
    summary="Another tool's file as a request",
    responses={200: {"model": ImportAnswer}, **problems_of(*REFUSALS)},
    openapi_extra=takes(ImportRequest),
)
def post_import(body: JsonBody) -> Response:
    """Read PEFT's adapter_config.json, or axolotl's or LLaMA-Factory's YAML, answer with the request that it is.

    What a tool takes where a key is left out counts too. What the request can't hold is listed with what is taken
    instead; nothing is dropped in silence.
    """
    return json(answered(body))


_AXOLOTL = """\
base_model: meta-llama/Llama-3.1-8B
adapter: qlora
load_in_4bit: true
lora_r: 32
lora_alpha: 16
lora_target_linear: true
sequence_len: 4096
sample_packing: true
micro_batch_size: 2
gradient_accumulation_steps: 4
gradient_checkpointing: true
optimizer: paged_adamw_32bit
learning_rate: 2e-4
bf16: auto
attn_implementation: flash_attention_2
"""

_ADAPTER = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "meta-llama/Llama-3.1-8B",
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "target_modules": ["q_proj", "v_proj"],
    "rank_pattern": {"layers.0.self_attn.q_proj": 4},
}

POSTED = Posted(
    path="/api/v1/import",
    takes=ImportRequest,
    requests={
        "axolotl": ("A configuration of axolotl", {"content": _AXOLOTL}),
        "peft": ("An adapter's configuration", {"content": _ADAPTER}),
    },
    answered=answered,
)
