"""A file that switches on an unsupported feature imports with a warning: the figures are for another run."""

import json

import pytest

from app.__main__ import main
from app.interop.imports import read
from app.interop.imports.other_runs import FEATURES

MODELS = {"axolotl": "base_model: gpt2\n", "llama-factory": "model_name_or_path: gpt2\n"}


def imported(tool, text):
    return read(MODELS[tool] + text)


@pytest.mark.parametrize(
    ("tool", "text", "warning"),
    [
        ("axolotl", "deepspeed: mine.json", "deepspeed: mine.json"),
        ("axolotl", "liger_rms_norm: true\nliger_rope: false", "liger_rms_norm: true"),
        ("axolotl", "plugins: [axolotl.integrations.liger.LigerPlugin]", "axolotl.integrations.liger.LigerPlugin"),
        ("axolotl", "plugins: axolotl.integrations.liger.LigerPlugin", "axolotl.integrations.liger.LigerPlugin"),
        (
            "axolotl",
            "plugins: [integrations.cut_cross_entropy.CutCrossEntropyPlugin]\ncut_cross_entropy_accum_c_fp32: true",
            "cut_cross_entropy_accum_c_fp32: true",
        ),
        ("axolotl", "cut_cross_entropy: true", "cut_cross_entropy: true"),
        ("axolotl", "sample_packing: true", "sample_packing: true"),
        ("axolotl", "tensor_parallel_size: 2", "tensor_parallel_size: 2"),
        ("axolotl", "rl: dpo", "rl: dpo"),
        ("llama-factory", "use_unsloth: true", "use_unsloth: true"),
        ("llama-factory", "packing: true", "packing: true"),
        ("llama-factory", "stage: pt\nneat_packing: true", "neat_packing: true"),
        ("llama-factory", "stage: dpo", "stage: dpo"),
        ("llama-factory", "image_max_pixels: 262144\nvideo_max_pixels: 16384", "image_max_pixels: 262144"),
        ("llama-factory", "tensor_model_parallel_size: 4", "tensor_model_parallel_size: 4"),
    ],
)
def test_a_key_that_is_not_modeled_is_a_warning_and_counts_as_read(tool, text, warning):
    found = imported(tool, text)
    assert len(found.warnings) == 1
    assert (
        found.warnings[0].startswith(warning)
        or f"plugins: {warning}" in found.warnings[0]
        or warning in (found.warnings[0])
    )
    assert "The figures are for another run" in found.warnings[0]
    keys = {line.partition(":")[0] for line in text.splitlines()}
    assert not keys & {remark.key for remark in found.not_understood}
    assert not keys & set(found.without_effect)


@pytest.mark.parametrize(
    ("tool", "text"),
    [
        ("axolotl", ""),
        ("axolotl", "deepspeed:\nfsdp: []\nfsdp_config: {}\nliger_rope: false\nsample_packing: false\nplugins: []"),
        ("axolotl", "tensor_parallel_size: 1\ncontext_parallel_size: 1"),
        ("llama-factory", ""),
        ("llama-factory", "stage: pt\npacking: true"),
        ("llama-factory", "deepspeed:\nfsdp: ''\nenable_liger_kernel: false\nuse_unsloth: false\npacking: false"),
    ],
)
def test_features_that_are_switched_off_bring_no_warning(tool, text):
    assert imported(tool, text).warnings == ()


def test_a_file_of_llama_factory_that_trains_nothing_is_warned_about():
    found = imported("llama-factory", "adapter_name_or_path: mine\nexport_dir: merged\nexport_size: 5")
    assert "trains none" in found.warnings[0]
    assert found.not_understood == ()
    assert imported("llama-factory", "do_train: true\ndo_predict: true").warnings == ()


def test_keys_of_one_feature_are_one_warning():
    found = imported("axolotl", "plugins: [axolotl.integrations.liger.LigerPlugin, mine.Plugin]\nliger_rope: true")
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith(
        "Headroom does not model liger_rope: true, plugins: axolotl.integrations.liger.LigerPlugin. "
    )
    assert [remark.value for remark in found.not_understood if remark.key == "plugins"] == [["mine.Plugin"]]


def test_long_values_are_cut():
    found = imported("axolotl", f"deepspeed: {'x' * 5000}")
    assert len(found.warnings[0]) < 600


def test_every_feature_states_what_it_changes_and_which_run_the_figures_are_for():
    for features in FEATURES.values():
        for feature in features:
            assert feature.effect.endswith(".")
            assert feature.modeled.startswith("one ")


def test_the_api_the_command_line_and_the_page_show_the_warning(client, tmp_path, capsys):
    text = MODELS["axolotl"] + "deepspeed: mine.json\n"
    answer = client.post("/api/v1/import", json={"content": text}).json()
    (warning,) = answer["warnings"]
    file = tmp_path / "axolotl.yaml"
    file.write_text(text)
    assert main(["import", str(file)]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out) == answer["request"]
    assert f"Warning: {warning}\n" in output.err
    page = client.post("/import", data={"content": text}).text
    assert warning in page
    assert "Warning" in page[: page.index(warning)][-400:]


def test_energy_based_fine_tuning_is_described_as_what_it_is():
    found = imported("axolotl", "rl: ebft\nebft:\n  mode: strided")
    (warning,) = (line for line in found.warnings if "ebft: {" in line)
    assert "a frozen copy of the model reads" in warning
