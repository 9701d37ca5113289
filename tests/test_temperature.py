"""Temperature scaling: it finds a known temperature, helps an overconfident network, and harms nothing."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

import residual
from residual.errors import CheckpointError
from residual.evaluation.temperature import calibrate, fit_temperature, negative_log_likelihood


def drawn(images, classes, temperature=1.0, seed=0):
    """Logits, and labels that are drawn from their softmax at a temperature, so that it is the true one."""
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, classes, generator=random)
    labels = (logits / temperature).softmax(1).multinomial(1, generator=random)[:, 0]
    return logits, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found(temperature):
    assert fit_temperature(*drawn(20_000, 7, temperature)) == pytest.approx(temperature, rel=0.03)


@given(st.integers(50, 200), st.integers(2, 5), st.floats(0.2, 5), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_no_temperature_is_better_and_none_is_worse_than_one(images, classes, temperature, seed):
    logits, labels = drawn(images, classes, temperature, seed)
    found = negative_log_likelihood(logits, labels, fit_temperature(logits, labels))
    assert found <= negative_log_likelihood(logits, labels)
    other = minimize_scalar(
        lambda t: negative_log_likelihood(logits, labels, math.exp(t)), bounds=(-2.9, 2.9), method="bounded"
    )
    assert found <= other.fun + 1e-6


def test_an_overconfident_network_gets_a_smaller_calibration_error_measured_without_cheating():
    logits, labels = drawn(2000, 10, 3.0)
    own = calibrate((logits, labels))
    assert (own.source, own.images) == ("test", 2000)
    assert own.after < own.before / 4
    apart = calibrate((logits, labels), drawn(1000, 10, 3.0, seed=1))
    assert (apart.source, apart.images) == ("validation", 1000)
    assert apart.before == own.before
    assert apart.after < own.before / 4


def test_the_calibration_error_after_it_is_not_that_of_the_images_that_it_was_fitted_on():
    """With labels that are random in one half only, each half needs the other's temperature."""
    logits, labels = drawn(400, 3, 1.0)
    half = torch.randperm(400, generator=torch.Generator().manual_seed(0))[::2]
    labels[half] = torch.randint(3, (200,), generator=torch.Generator().manual_seed(1))
    found = calibrate((logits, labels))
    wrong = fit_temperature(logits, labels)
    cheated = calibrate((logits, labels), (logits, labels))
    assert cheated.value == found.value == wrong
    assert found.after > cheated.after


def test_where_there_is_little_to_fit_on_it_is_one():
    assert fit_temperature(*drawn(49, 3, 4.0)) == 1.0
    logits = torch.eye(3).repeat(50, 1)
    assert fit_temperature(logits, logits.argmax(1)) == 1.0, "without a mistake there is no optimum"


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 10**400, "2", True, None, [1.5]])
def test_a_model_folder_with_a_hostile_temperature_is_refused(value, model_folder):
    change_config(model_folder, temperature=value)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        residual.load_model(model_folder)


def test_a_model_folder_keeps_its_temperature_and_an_older_one_has_one(model_folder):
    change_config(model_folder, temperature=1.5)
    assert residual.load_model(model_folder).config.temperature == 1.5
    change_config(model_folder, temperature=...)
    assert residual.load_model(model_folder).config.temperature == 1.0


def change_config(folder, temperature):
    config = json.loads((folder / "config.json").read_text())
    config.pop("temperature", None)
    if temperature is not ...:
        config["temperature"] = temperature
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    from residual.data.normalization import Normalization
    from residual.data.preprocessing import Preprocessing
    from residual.zoo.model_folder import ModelConfig, save_model

    half = Normalization.of_channels((0.5,) * 3, (0.5,) * 3)
    config = ModelConfig("resnet8", "A", ("a", "b"), Preprocessing((32, 32), half), "pets", "demo")
    folder = tmp_path_factory.mktemp("model") / "model"
    save_model(folder, residual.create_model("resnet8", num_classes=2), config, "a card")
    return folder
