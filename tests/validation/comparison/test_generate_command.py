"""`python -m validation generate` compares an inference request with real modules."""

import json

import pytest

from validation.__main__ import main

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

REQUEST = {
    "model": {
        "config": {
            "model_type": "llama",
            "hidden_size": 256,
            "intermediate_size": 640,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": 1000,
        }
    },
    "method": {"name": "qlora"},
    "serving": {"context_length": 64, "max_new_tokens": 3, "merged": True},
}


def test_every_pass_and_the_merge_are_printed_with_the_traced_bytes(tmp_path, capsys):
    file = tmp_path / "request.json"
    file.write_text(json.dumps(REQUEST))
    assert main(["generate", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["prefill", "first_decode", "last_decode", "merge"]
    assert all(line.endswith(" traced, +0") for line in lines)


def test_a_refusal_is_printed(tmp_path, capsys):
    file = tmp_path / "request.json"
    file.write_text(json.dumps({**REQUEST, "method": {"name": "prefix"}}))
    assert main(["generate", str(file)]) == 2
    assert "serving.merged" in capsys.readouterr().err
