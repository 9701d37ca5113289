"""INT8: nearly the same results, any batch size, a clear error where the extra is missing."""

import importlib

import numpy as np
import pytest
import torch

import residual
from residual.data.load import load_dataset
from residual.errors import UsageError
from residual.evaluation.classification import evaluate_split
from residual.exporters.int8 import Int8Network, quantize
from residual.exporters.onnx import OnnxNetwork, export_onnx

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")


def saturating_network():
    """A resnet8 whose filters each have one size of weight, so that all of them quantise to the largest."""
    torch.manual_seed(0)
    network = residual.create_model("resnet8").eval()
    with torch.no_grad():
        for value in network.parameters():
            if value.dim() > 1:
                value.copy_(torch.where(value < 0, -0.3, 1.0) * value.std())
                value[..., 0] = value.flatten(1).amax(1).reshape(-1, *[1] * (value.dim() - 2))
    return network


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


@pytest.mark.filterwarnings("ignore")  # the exporters' own
def test_no_sum_of_two_products_saturates_16_bits(tmp_path):
    """A CPU without VNNI adds neighbouring products u8 x s8 in 16 bits: whatever the maps, it must fit."""
    network, images = saturating_network(), torch.rand(64, 3, 32, 32)
    quantised = quantize(network, images, tmp_path / "int8.onnx")
    stored = [onnx.numpy_helper.to_array(i) for i in onnx.load(tmp_path / "int8.onnx").graph.initializer]
    weights = [value.astype(int) for value in stored if value.dtype == np.int8 and value.ndim > 1]
    assert len(weights) == 8, "seven convolutions and the classifier"
    for value in weights:
        largest = np.sort(value, axis=None)[[-1, -2]].sum() * 255  # any two weights may be neighbours
        least = np.sort(value, axis=None)[:2].sum() * 255
        assert -(2**15) <= least <= largest < 2**15
    with torch.no_grad():  # on a CPU without VNNI this fails where sums saturate
        expected, found = network(images), quantised(images)
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_an_onnx_file_in_float32_gives_the_same_answers(tmp_path):
    torch.manual_seed(0)
    network = residual.create_model("resnet8").eval()
    images = torch.randn(5, 3, 32, 32)
    export_onnx(network, images, tmp_path / "float32.onnx")
    exported = OnnxNetwork(tmp_path / "float32.onnx")
    for batch in (images, images[:1]):
        with torch.no_grad():
            assert torch.allclose(exported(batch), network(batch), atol=1e-4)


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch, tmp_path):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UsageError, match=r"\[onnx\]"):
        quantize(residual.create_model("resnet8"), torch.zeros(2, 3, 32, 32), tmp_path / "int8.onnx")
