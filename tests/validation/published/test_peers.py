"""The peers' committed answers are to the current questions, and are compared with our figures."""

import json
import subprocess
import sys

from validation.published.peers import adapter
from validation.published.peers.ask import PREDICTIONS, peers
from validation.published.peers.questions import digest, questions
from validation.published.results import RESULTS

COMMITTED = json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_committed_answers_are_to_the_current_questions():
    committed = json.loads(PREDICTIONS.read_text(encoding="utf-8"))
    assert committed["questions"] == {question["id"]: digest(question) for question in questions()}


def test_peers_have_a_version_and_a_date():
    assert [(peer.name, bool(peer.version), len(peer.date)) for peer in peers()] == [
        ("fitcheck-llm", True, 10),
        ("canifinetune", True, 10),
        ("accelerate", True, 10),
    ]


def test_every_question_has_an_answer_or_a_reason():
    for peer in peers():
        assert set(peer.answers) == {question["id"] for question in questions()}
        assert all(set(answer) in ({"bytes"}, {"reason"}) for answer in peer.answers.values())


def test_our_median_error_is_below_every_peers_on_every_source():
    compared = [line for peer in COMMITTED["peers"] for line in peer["sources"]]
    assert compared
    for line in compared:
        assert line["our_median_absolute_error"] < line["median_absolute_error"]


def test_a_peers_error_is_computed_from_its_bytes():
    for row in COMMITTED["rows"]:
        for answer in row.get("peers", ()):
            if "bytes" in answer:
                assert answer["error"] == round(answer["bytes"] / row["measured_bytes"] - 1, 6)


def test_the_adapter_is_a_script_that_reads_standard_input():
    question = json.dumps(list(questions())[:1])
    done = subprocess.run(
        [sys.executable, adapter.__file__], input=question, capture_output=True, text=True, check=True, timeout=120
    )
    assert set(json.loads(done.stdout)) == set(adapter.PEERS)


def test_a_peer_without_a_method_answers_with_the_reason():
    question = next(question for question in questions() if question["method"]["name"] == "prefix")
    answers = adapter.answers("accelerate", [question])["answers"]
    assert answers == {question["id"]: {"reason": "only full fine-tuning is estimated"}}
