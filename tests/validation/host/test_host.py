"""The growth of a process that loads a model, or merges an adapter, is within 3 % of the prediction."""

import pytest

from validation.host.measure import experts_config, loading_cases, measured, merging_case, model_config, write_model
from validation.host.several import node_evaluation_cases, node_loading_cases, zero_3_loading_cases

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]


def test_a_load_that_casts_takes_the_mapped_file_and_the_weights(tmp_path):
    large, tiny = tmp_path / "large", tmp_path / "tiny"
    config = model_config(512, 8)
    write_model(config, large)
    write_model(model_config(16, 1), tiny)
    _, cast = loading_cases(config, large)
    assert measured(cast, tiny) == pytest.approx(cast.predicted, rel=0.03)


def test_experts_that_are_cast_exist_twice_only_while_the_largest_is_fused(tmp_path):
    fused, tiny = tmp_path / "fused", tmp_path / "tiny"
    config = experts_config(512, 2)
    write_model(config, fused)
    write_model(model_config(16, 1), tiny)
    _, cast = loading_cases(config, fused)
    assert measured(cast, tiny) == pytest.approx(cast.predicted, rel=0.03)
    assert 0.97 * cast.predicted < measured(cast, tiny, keeps=True) < cast.predicted + cast.kept


def test_saving_a_merged_model_copies_all_weights_to_the_host(tmp_path):
    large, tiny = tmp_path / "large", tmp_path / "tiny"
    config = model_config(512, 4)
    write_model(config, large)
    write_model(model_config(16, 1), tiny)
    merged = merging_case(config, large)
    assert measured(merged, tiny) == pytest.approx(merged.predicted, rel=0.03)


def test_two_processes_share_mapped_files_and_each_casts_all_weights(tmp_path):
    config = model_config(16, 1)
    cases = {case.name: case.predicted for case in node_loading_cases(config, tmp_path)}
    mapped = cases["load bfloat16 as bfloat16 in 2 processes, ddp"]
    assert [*cases.values()] == [mapped, 5 * mapped, 5 * mapped, 5 * mapped]


def test_each_process_has_the_logits_of_both_and_those_of_the_last_batch(tmp_path):
    at_once, _ = node_evaluation_cases(model_config(16, 1), tmp_path, 64, 8)
    logits, labels = 64 * 32_000, 64 * 8
    assert at_once.predicted == 2 * (32 * logits * (2 + 4) + 4 * (2 * logits + labels))


def test_one_process_reads_the_files_under_zero_init_if_its_gpu_has_the_partitions(tmp_path):
    config = model_config(16, 1)
    built, cast, whole, _ = zero_3_loading_cases(config, tmp_path)
    assert built.predicted - built.on_device == whole.predicted
    assert cast.predicted - cast.on_device == whole.predicted + 4 * 32_000 * 16
    assert built.on_device > whole.predicted // 2
