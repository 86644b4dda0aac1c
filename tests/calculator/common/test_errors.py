"""Problems of requests are JSON, whatever value they name."""

import json

from calculator.common.errors import Problem
from calculator.inputs.training_settings import CheckpointingKwargs


def test_an_object_of_settings_is_named_as_the_request_has_it():
    problem = Problem(loc="training.gradient_checkpointing_kwargs", msg="", input=CheckpointingKwargs())
    assert json.dumps(problem.input) == '{"use_reentrant": false}'
