"""The card of a model: front matter that is valid YAML whatever the names are, and what it states."""

from dataclasses import replace

import pytest
import yaml

from residual.zoo.model_card import ADDRESS, Measured, model_card
from residual.zoo.model_folder import ModelConfig, load_model
from small_models import small_model

ODD = (
    'quote " and \\ back',
    "colon: dash - # hash",
    "two\nlines\r\n---\n",
    "null",
    "{braces: [1]}",
    "tab\t\x00\x85\u2028\ufeff",
    "Äpfel 苹果 \U0001f34e",
    "\udc80 undecodable",
    "*bold* _it_ `code` <b>tag</b> | pipe",
    "",
)
MEASURED = Measured(8.25, 400, (5.9, 11.4), 1.5, 9.0, 3.25)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> ModelConfig:
    return load_model(small_model(tmp_path_factory.mktemp("card") / "model")).config


def read(card: str) -> tuple[dict, str]:
    """Return front matter and text, split as the hub does."""
    assert card.startswith("---\n")
    front, _, text = card[4:].partition("\n---\n")
    return yaml.safe_load(front), text


@pytest.mark.parametrize("name", ODD)
def test_any_name_is_yaml_and_one_line_of_markdown(config, name):
    odd = replace(config, data=name, class_names=(name, "cat"), network=name, recipe=name)
    card = model_card(odd, {"seed": 0}, measured=MEASURED, licence=name, base=name)
    card.encode()
    front, text = read(card)
    result = front["model-index"][0]["results"][0]
    expected = name.replace("\udc80", "\ufffd")
    assert front["model-index"][0]["name"] == front["license"] == front["base_model"] == expected
    assert result["dataset"] == {"name": expected or "images", "type": "imagefolder", "split": "test"}
    classes = text[text.index("## Classes") :].splitlines()
    assert len(classes) == 3, "a name makes no line of its own"
    assert classes[2].endswith(", cat")
    assert "<b>" not in text.replace("\\<b", "").replace(f"`{name}`", "")
    assert "datasets" not in front


def test_the_figures_for_the_hub(config):
    names = tuple(map(str, range(10)))
    known = replace(config, data="cifar10", class_names=names, temperature=1.5)
    front, text = read(model_card(known, {}, measured=MEASURED, licence="mit", base="timm/resnet18.tv_in1k"))
    assert front["library_name"] == "residual"
    assert front["datasets"] == ["uoft-cs/cifar10"]
    assert (front["license"], front["base_model"]) == ("mit", "timm/resnet18.tv_in1k")
    (entry,) = front["model-index"]
    (result,) = entry["results"]
    assert result["task"]["type"] == front["pipeline_tag"] == "image-classification"
    assert result["dataset"] == {"name": "CIFAR-10", "type": "uoft-cs/cifar10", "split": "test"}
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        "accuracy": 0.9175,
        "error": 8.25,
        "top_5_accuracy": 0.985,
        "balanced_accuracy": 0.91,
        "expected_calibration_error": 3.25,
    }
    assert "400 images; 95 % interval 5.90 to 11.40" in result["metrics"][1]["name"]
    assert f"residual predict {ADDRESS} photo.jpg" in text
    assert "divided by the temperature 1.5" in text


def test_what_is_not_known_is_not_stated(config):
    few = Measured(50.0, 10, top5_error=0.0)
    front, _ = read(model_card(replace(config, class_names=("a", "b")), {}, measured=few))
    assert [m["type"] for m in front["model-index"][0]["results"][0]["metrics"]] == ["accuracy", "error"]
    front, text = read(model_card(replace(config, data="cifar10"), {}))
    assert not front.keys() & {"license", "datasets", "model-index", "base_model", "metrics"}, (
        "7 classes are no CIFAR-10"
    )
    assert "without a temperature" in text


def test_the_hubs_own_library_reads_the_figures(config):
    library = pytest.importorskip("huggingface_hub")
    card = library.ModelCard(model_card(config, {}, measured=MEASURED))
    (first, *_) = card.data.eval_results
    assert (first.metric_type, first.metric_value, first.dataset_type) == ("accuracy", 0.9175, "imagefolder")
