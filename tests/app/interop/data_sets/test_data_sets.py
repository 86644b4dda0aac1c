"""The command `lengths`: data sets of every kind, tokenizers, the histogram that a request and the page take."""

import json
from urllib.parse import quote

import pytest

from app.__main__ import main
from app.cli.lengths import _Bar
from tests.app.test_readme import TOKENIZER

pytest.importorskip("tokenizers")

RUN = "--model gpt2 --method full --micro_batch_size 2 --reserved rule"


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return str(tmp_path)


@pytest.fixture
def lengths(tmp_path, tokenizer, capsys):
    """The command's output and status for samples in JSON Lines."""

    def run(samples, *arguments):
        file = tmp_path / "data.jsonl"
        file.write_text("".join(f"{sample if isinstance(sample, str) else json.dumps(sample)}\n" for sample in samples))
        status = main(["lengths", str(file), "--tokenizer", tokenizer, *arguments])
        output = capsys.readouterr()
        return status, output.out, output.err

    return run


@pytest.mark.parametrize(
    ("sample", "arguments"),
    [
        ({"text": "a a a"}, ()),
        ({"messages": [{"role": "user", "content": "a a"}, {"role": "assistant", "content": " a"}]}, ()),
        ({"conversations": [{"from": "human", "value": "a a"}, {"from": "gpt", "value": " a"}]}, ()),
        ({"prompt": "a ", "completion": "a a"}, ()),
        ({"instruction": "a ", "input": "", "output": "a a"}, ()),
        ({"instruction": "a ", "output": "a a"}, ()),
        ({"question": "a ", "answer": "a a", "text": "a"}, ("--field", "question,answer")),
    ],
)
def test_the_usual_fields_are_found_and_others_are_named(lengths, sample, arguments):
    status, out, _ = lengths([sample], "--json", *arguments)
    answer = json.loads(out)
    assert (status, answer["sequence_lengths"]) == (0, [[3, 1]])
    assert ["chat template" in note for note in answer["notes"]] == [True] * (
        {"messages", "conversations"} & {*sample} != set()
    )


def test_the_histogram_is_what_a_request_and_the_page_take(lengths, client, tmp_path):
    samples = [{"text": "a " * length} for length in (4, 300, 4, 9)]
    status, out, _ = lengths(samples, "--output", str(tmp_path / "lengths.json"))
    pairs = json.loads((tmp_path / "lengths.json").read_text())
    assert (status, pairs) == (0, [[4, 2], [9, 1], [300, 1]])
    assert "The longest is sample 2 with 300 tokens" in out
    body = {"model": "gpt2", "method": {"name": "full"}, "training": {"sequence_lengths": pairs}, "reserved": "rule"}
    answer = client.post("/api/v1/estimate", json=body).json()
    text = quote((tmp_path / "lengths.json").read_text())
    page = client.get(
        f"/estimate.json?model=gpt2&method=full&gradient_checkpointing=false&gpu=&reserved=rule&sequence_length="
        f"&sequence_lengths={text}"
    ).json()
    assert answer["memory"]["peak_allocated_bytes"] == page["memory"]["peak_allocated_bytes"]


def test_with_a_model_it_says_what_changes_save(lengths, client):
    samples = [{"text": "a " * length} for length in [16] * 95 + [400] * 5]
    status, out, _ = lengths(samples, "--json", *RUN.split())
    run = json.loads(out)["run"]
    assert (status, {change["kind"] for change in run["changes"]}) == (0, {"truncation", "bucketing"})
    body = {
        "model": "gpt2",
        "method": {"name": "full"},
        "training": {"micro_batch_size": 2, "sequence_lengths": [[16, 95], [400, 5]]},
        "reserved": "rule",
    }
    assert run["required_bytes"] == client.post("/api/v1/estimate", json=body).json()["memory"]["required_bytes"]
    _, text, _ = lengths(samples, *RUN.split())
    assert "Truncation" in text
    assert "cuts 5 of 100 samples to 16 tokens" in text


def test_a_parquet_file_has_the_same_lengths(tmp_path, tokenizer, capsys):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"text": ["a a", "a a a", "a a"], "other": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "data.parquet", row_group_size=2)
    assert main(["lengths", str(tmp_path / "data.parquet"), "--tokenizer", tokenizer, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sequence_lengths"] == [[2, 2], [3, 1]]
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not")
    assert main(["lengths", str(tmp_path / "broken.parquet"), "--tokenizer", tokenizer]) == 2
    assert "is not a Parquet file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("samples", "arguments", "reason"),
    [
        (["{"], (), "DATA: line 1 is not JSON"),
        (["[1]"], (), "DATA: sample 1 is not an object"),
        ([{"text": "a a"}, {"other": "a"}], ("--field", "text"), "--field: sample 2 has other, and no text"),
        ([{"other": "a"}], (), "--field: sample 1 has other, and no text"),
        ([{"text": 5}], (), "--field: text of sample 1 is neither a text"),
        ([{"messages": [{"content": [1]}]}], (), "--field: messages of sample 1 is neither a text"),
        ([{"text": "a"}], (), "DATA: no sample has two tokens"),
        ([], (), "DATA: the file is empty"),
        ([{"text": "a a"}], ("--model", "no-such-model", "--method", "full"), "model: "),
    ],
)
def test_unreadable_input_is_refused_by_its_field(lengths, samples, arguments, reason):
    status, out, err = lengths(samples, *arguments)
    assert (status, out) == (2, "")
    assert reason in err


def test_a_tokenizer_is_a_file_of_data(tmp_path, tokenizer, capsys):
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "a a"}\n')
    assert main(["lengths", str(data)]) == 2
    assert "--tokenizer: give a tokenizer.json" in capsys.readouterr().err
    assert main(["lengths", str(data), "--tokenizer", str(tmp_path / "none")]) == 2
    assert "there is no file" in capsys.readouterr().err
    (tmp_path / "tokenizer.json").write_text("{}")
    assert main(["lengths", str(data), "--tokenizer", tokenizer]) == 2
    assert "is not a tokenizer.json" in capsys.readouterr().err
    assert main(["lengths", str(tmp_path / "none.jsonl"), "--tokenizer", tokenizer]) == 2


def test_the_progress_bar_ends_at_the_whole_file(capsys, monkeypatch):
    monkeypatch.setattr("app.cli.lengths.UPDATE_SECONDS", 0)
    bar = _Bar(2048, visible=True)
    bar.step(1024)
    bar.step(1024)
    bar.close()
    printed = capsys.readouterr().err.split("\r")
    assert [part.split("]")[1].split()[0] for part in printed[1:]] == ["50%", "100%", "100%"]
    assert printed[-1].endswith("\n")


def test_without_the_package_the_command_says_how_to_install_it(lengths, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    status, _, err = lengths([{"text": "a a"}])
    assert (status, "headroom-gpu[lengths]" in err) == (2, True)


def test_a_line_in_another_encoding_is_refused_by_its_byte(tmp_path, tokenizer, capsys):
    data = tmp_path / "data.jsonl"
    data.write_bytes(b'\xef\xbb\xbf{"text": "a a"}\n{"text": "a\xe9"}\n')
    assert main(["lengths", str(data), "--tokenizer", tokenizer]) == 2
    assert "DATA: line 2 is not UTF-8 (byte 12 is 0xe9)" in capsys.readouterr().err
