"""`POST /api/v1/import`: another tool's file, a command or a script as a request."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.import_ import ImportAnswer
from app.api.examples import PostExamples
from app.api.requests import ImportRequest
from app.api.responses import BODY_ERRORS, json_body, json_response, problem_responses
from app.http.body_params import JsonBody
from app.interop import imports
from calculator.common.errors import PlanError, Problem, refusal
from calculator.inputs.unknown_fields import unknown_field

router = APIRouter(tags=["Plans"])

#: The fields of a request.
FIELDS = tuple(ImportRequest.model_fields)


def answer(body: Any) -> ImportAnswer:
    """Answer a decoded JSON body.

    Raises:
        PlanError: if the request is invalid, or the file cannot be read.
    """
    if not isinstance(body, dict):
        raise refusal("", "the request must be an object", body)
    problems = [Problem(loc=key, msg=unknown_field(key, FIELDS), input=body[key]) for key in body if key not in FIELDS]
    name = body.get("format")
    if name is not None and not (isinstance(name, str) and name in imports.FORMATS):
        problems.append(Problem(loc="format", msg=f"must be one of {', '.join(imports.FORMATS)}, or null", input=name))
    if not isinstance(body.get("content"), str | dict):
        message = "must be the file's text, or its content as an object"
        problems.append(Problem(loc="content", msg=message, input=body.get("content")))
    if problems:
        raise PlanError(*problems)
    return ImportAnswer.model_validate(imports.read(body["content"], name, body.get("model")))


@router.post(
    "/api/v1/import",
    summary="Convert another tool's file to a request",
    responses={200: {"model": ImportAnswer}, **problem_responses(*BODY_ERRORS)},
    openapi_extra=json_body(ImportRequest),
)
def post_import(body: JsonBody) -> Response:
    """Read another tool's file, a command line or a script, and return the equivalent request.

    Read are PEFT's adapter_config.json, the YAML files of axolotl, LLaMA-Factory, torchtune and TRL, accelerate's YAML
    and DeepSpeed's JSON for the `model` of the request, command lines such as
    `trl sft --model_name_or_path ...` or those of PEFT's examples/sft, and Python code that calls transformers, PEFT,
    TRL or Unsloth. Code is parsed and never run: arguments count if they are literals.

    A key that the file omits gets the tool's default, not Headroom's. Nothing is dropped silently: `warnings` states
    which features of the file are not modeled, so that the figures are for another run. A setting that an estimate
    refuses is replaced, if there is a similar one, and is a warning too. `not_understood` lists every other key that
    the request does not reproduce exactly, with what it uses instead.
    """
    return json_response(answer(body))


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

_COMMAND = """\
trl sft --model_name_or_path Qwen/Qwen2.5-0.5B --dataset_name trl-lib/Capybara --use_peft --dtype bfloat16 \\
    --packing --attn_implementation flash_attention_2 --per_device_train_batch_size 2
"""

EXAMPLES = PostExamples(
    path="/api/v1/import",
    request_model=ImportRequest,
    requests={
        "axolotl": ("An axolotl configuration", {"content": _AXOLOTL}),
        "peft": ("A PEFT adapter_config.json", {"content": _ADAPTER}),
        "trl": ("A command line of TRL", {"content": _COMMAND}),
    },
    answer=answer,
)
