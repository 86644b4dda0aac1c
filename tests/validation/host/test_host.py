"""The growth of a process that loads a model is within 3 % of the prediction."""

import pytest

from validation.host.measure import loading_cases, measured, model_config, write_model

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]


def test_a_load_that_casts_takes_the_mapped_file_and_the_weights(tmp_path):
    large, tiny = tmp_path / "large", tmp_path / "tiny"
    config = model_config(512, 8)
    write_model(config, large)
    write_model(model_config(16, 1), tiny)
    _, cast = loading_cases(config, large)
    assert measured(cast, tiny) == pytest.approx(cast.predicted, rel=0.03)
