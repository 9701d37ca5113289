"""INT8: nearly the same answers, any batch size, a clear word where the extra is missing."""

import importlib

import pytest
import torch

import residual
from residual.data.load import load_dataset
from residual.errors import UsageError
from residual.evaluation import evaluate_split
from residual.quantization import Int8Network, quantize

pytest.importorskip("onnxruntime", reason="needs the extra int8")


@pytest.mark.filterwarnings("ignore")  # the exporters' own
def test_a_quantised_network_gives_nearly_the_same_answers(tmp_path):
    recipe = residual.get_recipe("demo", "resnet8").replace({"iterations": 100, "curve": "none"})
    residual.train(recipe, output=tmp_path / "run")
    network = residual.load_model(tmp_path / "run")
    normalization, data = network.config.normalization, load_dataset("digits")
    calibration = normalization.apply(data.train.images[:256]).permute(0, 3, 1, 2)
    quantised = quantize(network, calibration, tmp_path / "int8.onnx")
    before, after = (
        evaluate_split(n, data.test, normalization, torch.device("cpu")) for n in (network, quantised)
    )
    assert after.images == before.images
    assert abs(after.error - before.error) < 2
    assert after.loss != before.loss, "nothing was quantised"
    again = Int8Network(tmp_path / "int8.onnx")
    for size in (1, 7):
        assert torch.equal(again(calibration[:size]), quantised(calibration[:size]))
    assert (tmp_path / "int8.onnx").stat().st_size < 0.6 * (
        tmp_path / "run/model/model.safetensors"
    ).stat().st_size


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch, tmp_path):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UsageError, match="int8"):
        quantize(residual.create_model("resnet8"), torch.zeros(2, 3, 32, 32), tmp_path / "int8.onnx")
