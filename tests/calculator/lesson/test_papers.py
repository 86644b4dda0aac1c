"""The papers' own runs, each with the answer to its request."""

from dataclasses import replace

from calculator.lesson.papers import answer_of, answered

FOUND = {answer.run.name: answer for answer in answered()}


def value(name, line):
    return next(shown.value for shown in FOUND[name].lines if shown.name == line)


def test_the_methods_add_as_many_parameters_as_the_papers_state():
    assert value("lora-glue", "parameters of the method") == 24 * 2 * 8 * 2048 == 786_432
    assert value("adapters-glue", "parameters of the method") == 24 * 2 * (2 * 1024 * 64 + 64 + 1024)
    assert value("prompt-t5-xxl", "parameters of the method") == 2 * 20 * 20_480
    assert value("prefix-gpt2", "parameters of the method") == 24 * 2 * 10 * 1024
    assert value("prefix-bart", "parameters of the method") == 12 * 2 * 200 * 1024
    assert round(value("prefix-gpt2", "share of the base model"), 1) == 0.1


def test_the_head_of_a_classifier_counts_by_itself():
    assert value("lora-glue", "the head") == 1024 * 1024 + 1024 + 3 * 1024 + 3


def test_every_run_is_answered_and_one_that_is_refused_states_why():
    assert not any(answer.refused for answer in FOUND.values())
    run = FOUND["lora-glue"].run
    refused = answer_of(replace(run, request={**run.request, "method": {"name": "prefix"}}))
    assert not refused.lines
    assert refused.refused[0].startswith("method.name: PEFT finds no argument past_key_values")
