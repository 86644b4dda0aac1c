"""An answer's JSON is the same whether it is written directly or by a model of Pydantic."""

import pytest
from pydantic import create_model

from app.api import estimate
from app.api.answers.encoding import encoded
from app.api.answers.gpus import GPUAnswer
from app.api.answers.validation import SourceAnswer
from calculator.estimation.estimate import estimate as estimated
from calculator.estimation.request import parse_request

RUN = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "lora"}, "reserved": "rule"}
REPLAYED = {**RUN, "reserved": "replay", "training": {"sequence_length": 512}}


@pytest.mark.parametrize(
    "body",
    [
        *(body for _, body in estimate.EXAMPLES.requests.values()),
        {**RUN, "device": {"gpu": "rtx-4090"}},
        {**RUN, "device": {"memory_bytes": 10**9}},
        {**RUN, "device": {"gpu": "a100-sxm4-80gb", "count": 4, "sharding": "fsdp"}, "method": {"name": "full"}},
        {**REPLAYED, "device": {"memory_bytes": 3_600_000_000}},
        {**REPLAYED, "training": {"sequence_length": 512, "sequence_lengths": [[128, 3], [512, 1]]}},
        {**RUN, "method": {"name": "lora", "target_modules": ["q_proj"], "use_dora": True}},
    ],
)
def test_the_text_is_that_of_the_model(body):
    value = estimated(parse_request(body), whole=True)
    kind = estimate.SingleEstimateAnswer
    assert encoded(kind, value).decode() == kind.model_validate(value).model_dump_json()


@pytest.mark.parametrize("annotation", [SourceAnswer | GPUAnswer, list[SourceAnswer]])
def test_a_field_whose_value_has_no_reader_is_refused(annotation):
    with pytest.raises(TypeError):
        encoded(create_model("Other", part=(annotation, ...)), {"part": None})
