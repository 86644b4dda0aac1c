"""The accuracy of an estimate comes from the committed residuals, and is the same in API, pages and command line."""

import re
from dataclasses import replace
from html import unescape

import pytest

from app.api.accuracy.accuracy import accuracy, error_text, range_text
from app.api.accuracy.residuals import errors_by_statistic, residuals
from calculator.allocator.reserved_assumptions import RULE_ACCURACY
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.methods import USUAL_METHODS


def plan_of(method, **more):
    return estimate(parse_request({"model": "meta-llama/Llama-3.2-1B", "method": method, **more}))


def test_the_errors_of_lora_are_those_of_its_measured_figures():
    found = accuracy(plan_of({"name": "lora"}))
    of_lora = [residual for residual in residuals() if residual.method == "lora"]
    assert sum(error.figures for error in found.errors) == len(of_lora) > 0
    for error in found.errors:
        errors = [residual.error for residual in of_lora if residual.statistic == error.statistic]
        assert (error.lowest_error, error.highest_error) == (min(errors), max(errors))
        assert error.configurations <= error.figures == len(errors)
    assert str(len(of_lora)) in found.sentence


def test_dora_is_distinguished_from_lora():
    found = accuracy(plan_of({"name": "lora", "use_dora": True}))
    assert found.method == "dora"
    assert "DoRA" in found.sentence


def test_a_method_without_measurements_is_stated():
    found = accuracy(plan_of({"name": "adapter"}))
    assert found.errors == ()
    assert found.interval is None
    assert found.sentence.startswith("No GPU measurement of adapters")


def test_the_interval_is_the_requirement_with_the_errors_of_nvidia_smis_figures():
    plan = plan_of({"name": "full"}, reserved="replay")
    found = accuracy(plan)
    assert "They replay the allocator for reserved memory." in found.sentence
    assert "by a rule" not in found.sentence
    (shown,) = (error for error in found.errors if error.statistic == "nvidia_smi")
    required = plan.memory.required_bytes
    assert required / found.interval.highest_bytes - 1 == pytest.approx(shown.lowest_error, abs=1e-9)
    assert required / found.interval.lowest_bytes - 1 == pytest.approx(shown.highest_error, abs=1e-9)


def test_the_rule_is_not_given_the_errors_of_replays():
    found = accuracy(plan_of({"name": "full"}, reserved="rule"))
    assert found.interval is None
    assert found.sentence.endswith("Here, reserved memory follows a rule, which is " + RULE_ACCURACY + ".")


def test_a_page_by_the_rule_links_to_the_replay(client):
    page = client.get("/?method=lora&r=16&reserved=rule").text
    assert "With the errors of nvidia-smi" not in page
    (link,) = re.findall(r'href="([^"]+)">Replay the allocator for this run', page)
    assert "With the errors of nvidia-smi" in client.get(unescape(link)).text


def test_a_rule_of_thumb_is_not_compared_with_measurements():
    found = accuracy(plan_of({"name": "full"}, accounting="textbook"))
    assert found.errors == ()
    assert "rule of thumb" in found.sentence


@pytest.mark.parametrize("method", USUAL_METHODS)
def test_the_page_and_the_api_state_the_same_accuracy(client, method):
    address = f"?method={method}&gradient_checkpointing=false"
    answer = client.get(f"/estimate.json{address}").json()
    page = client.get(f"/{address}").text
    assert answer["accuracy"]["sentence"] in page
    assert "/validation" in page


@pytest.mark.parametrize(
    ("error", "words"),
    [(-0.0052, "0.52 % low"), (0.004, "0.40 % high"), (0.0, "exact"), (-0.00001, "under 0.01 % off")],
)
def test_an_error_is_formatted_as_text(error, words):
    assert error_text(error) == words


@pytest.mark.parametrize(
    ("lowest", "highest", "words"),
    [
        (-0.0001, 0.00001, "up to 0.01 % low"),
        (-0.0439, -0.0285, "2.85 % to 4.39 % low"),
        (0.0011, 0.0024, "0.11 % to 0.24 % high"),
        (-0.0049, 0.0013, "0.49 % low to 0.13 % high"),
        (-0.0001, 0.0001, "0.01 % low to 0.01 % high"),
        (0.0, 0.0, "exact"),
        (-0.00001, 0.00001, "under 0.01 % off"),
    ],
)
def test_a_range_of_errors_is_formatted_as_text(lowest, highest, words):
    (errors, *_) = errors_by_statistic(residuals())
    assert range_text(replace(errors, lowest_error=lowest, highest_error=highest)) == words
