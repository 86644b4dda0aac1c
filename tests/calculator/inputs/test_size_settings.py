from calculator.inputs.size_settings import other_settings, resized, sizes
from calculator.inputs.training import Training
from calculator.methods import Adapter, Full, LoRA, Prefix


def test_sizes_are_separated_from_the_other_settings():
    assert sizes(Training(micro_batch_size=3, sequence_length=70)) == (3, 70)
    assert sizes(LoRA(r=5)) == (5,)
    assert sizes(Prefix(num_virtual_tokens=9)) == (9,)
    assert sizes(Adapter(bottleneck_size=11)) == (11,)
    assert sizes(Full()) == ()


def test_settings_that_differ_only_in_sizes_have_equal_other_settings():
    assert other_settings(LoRA(r=5)) == other_settings(LoRA(r=6))
    assert other_settings(LoRA(r=5)) != other_settings(LoRA(r=5, use_dora=True))
    assert other_settings(LoRA()) != other_settings(Full())
    assert other_settings(Training(sequence_length=7)) == other_settings(Training(micro_batch_size=7))
    assert other_settings(Training()) != other_settings(Training(padding=True))


def test_resizing_changes_every_size_and_nothing_else():
    training = Training(micro_batch_size=3, sequence_length=70, padding=True)
    assert resized(training, lambda size: 2 * size) == Training(micro_batch_size=6, sequence_length=140, padding=True)
    assert resized(Full(), lambda size: 2 * size) == Full()
