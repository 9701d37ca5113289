"""The preprocessing contract: every way to classify gives the same answer for the same file, odd ones too."""

import json

import pytest
import torch
from PIL import Image

import residual
from odd_files import bad_files, odd_files
from residual.data.any_image import pixels_of
from residual.data.photos import Photos
from residual.evaluation.photos import evaluate_photos
from residual.evaluation.predictions import Recorder
from residual.inference.many import classify_files
from small_models import small_model

TEMPERATURE = 1.7
SIZES = {"small": (32, 32), "oblong": (40, 56)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return odd_files(tmp_path_factory.mktemp("odd") / "files")


@pytest.fixture(scope="module", params=[(fit, size) for fit in ("crop", "pad", "squish") for size in SIZES])
def model(request, tmp_path_factory):
    fit, size = request.param
    folder = tmp_path_factory.mktemp("contract") / f"{fit}-{size}"
    resize = 48 if (fit, size) == ("crop", "small") else None
    return small_model(folder, SIZES[size], fit, resize, TEMPERATURE)


def evaluated(files, model):
    """What training's own evaluation says: names and probabilities of the five best, by file."""
    network = residual.load_model(model)
    some = next(iter(files.values()))
    photos = Photos(some.parent, list(files), torch.zeros(len(files), dtype=torch.int64), ("any",))
    recorder = Recorder(photos)
    evaluate_photos(network, photos, network.config.preprocessing, torch.device("cpu"), recorder=recorder)
    shares = (recorder.predictions().logits.double() / TEMPERATURE).softmax(1)
    values, labels = shares.topk(5)
    names = network.config.class_names
    return {
        file: [(names[label], value) for label, value in zip(*row, strict=True)]
        for file, row in zip(files, zip(labels.tolist(), values.tolist(), strict=True), strict=True)
    }


@pytest.fixture(scope="module")
def expected(files, model):
    return evaluated(files, model)


def assert_same(found, expected, within=1e-6):
    assert found.keys() == expected.keys()
    for file in expected:
        names, values = zip(*found[file], strict=True)
        wanted_names, wanted_values = zip(*expected[file], strict=True)
        assert names == wanted_names, file
        assert values == pytest.approx(wanted_values, abs=within), file


def test_the_classifier_answers_paths_and_bytes_as_training_evaluates(files, model, expected):
    classify = residual.Classifier(model)
    assert_same(dict(zip(files, classify(list(files.values())), strict=True)), expected)
    assert_same({file: classify(path.read_bytes()) for file, path in files.items()}, expected)


def test_images_opened_by_the_caller_are_answered_alike(files, model, expected):
    """But for JPEG, which is decoded at the size that is needed where the file itself is given."""
    classify, found = residual.Classifier(model), {}
    for file, path in files.items():
        with Image.open(path) as image:
            if image.format not in ("JPEG", "MPO"):
                found[file] = classify(image)
    assert len(found) > 20
    assert_same(found, {file: expected[file] for file in found})


def test_predict_answers_as_training_evaluates(files, model, expected, cli):
    folder = next(iter(files.values())).parent
    code, out, err = cli(
        "predict", model, "--json", folder, *(files[name] for name in files if name[0] == "1")
    )
    assert code == 0, err
    answers = json.loads(out)
    scanned = {answer["path"]: answer["predictions"] for answer in answers}
    pairs = {
        file: [(found["class"], found["probability"]) for found in scanned[str(path)]]
        for file, path in files.items()
    }
    assert_same(pairs, expected)
    assert len(answers) > len(files), "named files come again, in the order given"


def test_the_server_answers_as_training_evaluates(files, model, expected):
    pytest.importorskip("fastapi", reason="needs the extra serve")
    from serving import serving

    with serving(residual.Classifier(model)) as server:
        found = server.form([(file, path.read_bytes()) for file, path in files.items()]).json["images"]
    pairs = {
        image["path"]: [(best["class"], best["probability"]) for best in image["predictions"]]
        for image in found
    }
    assert_same(pairs, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "fit"),
    [
        *(("onnx", fit) for fit in ("crop", "pad", "squish")),
        ("openvino", "pad"),
        ("torch-export", "crop"),
    ],
)
def test_exported_files_answer_as_training_evaluates(format, fit, files, tmp_path):
    """Given what `Preprocessing` makes of a file; and given its pixels, where the preprocessing is inside.

    The latter resizes all pixels of a JPEG, which is otherwise decoded at the size that is needed, and rounds
    some values the other way: the classes must be the same where probabilities differ by more than that.
    """
    for engine in ("onnx", "openvino") if format == "openvino" else (format,):
        pytest.importorskip({"torch-export": "torch"}.get(engine, engine), reason=f"needs {engine}")
    from residual.exporters.onnx import OnnxNetwork
    from residual.exporters.openvino import OpenVinoNetwork
    from residual.exporters.torch_export import TorchExportNetwork

    run = {"onnx": OnnxNetwork, "openvino": OpenVinoNetwork, "torch-export": TorchExportNetwork}[format]
    model = small_model(tmp_path / "model", SIZES["oblong"], fit, temperature=TEMPERATURE)
    expected, classify = evaluated(files, model), residual.Classifier(model)
    suffix = {"torch-export": ".pt2"}.get(format, "")
    residual.export(model, format, tmp_path / f"plain{suffix}")
    plain, answers = run(tmp_path / f"plain{suffix}"), {}
    for file, path in files.items():
        images = classify.normalised(classify.load(path)[None]).contiguous()
        answers[file] = classify.best(classify.probabilities(plain(images)))[0]
    assert_same(answers, expected, within=1e-4)

    residual.export(model, format, tmp_path / f"whole{suffix}", with_preprocessing=True)
    whole = run(tmp_path / f"whole{suffix}")
    for file, path in files.items():
        best = classify.best(whole(pixels_of(path)[None]))[0]
        (first, probability), (_, second) = expected[file][:2]
        assert best[0].class_name == first or probability - second < 0.05, file
        assert best[0].probability == pytest.approx(probability, abs=0.05), file


def test_the_files_tell_preprocessings_apart(files, tmp_path):
    """Without this, the table could pass with answers that hardly depend on the image."""
    answers = [
        residual.Classifier(small_model(tmp_path / fit, fit=fit))(list(files.values()))
        for fit in ("crop", "pad", "squish")
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        far = [
            abs(a[0].probability - b[0].probability) > 1e-3 or a[0].class_name != b[0].class_name
            for a, b in zip(answers[one], answers[other], strict=True)
        ]
        assert sum(far) >= 40
    best = {found[0].class_name for found in answers[0]}
    assert len(best) > 2


def test_each_bad_file_has_an_error_and_the_others_an_answer(files, tmp_path):
    bad = bad_files(tmp_path / "bad")
    good = list(files.values())[:5]
    paths = [str(path) for pair in zip(bad.values(), good, strict=False) for path in pair]
    classify = residual.Classifier(small_model(tmp_path / "model"))
    answers = list(classify_files(classify, paths))
    assert [answer.path for answer in answers] == paths
    assert all(answer.error and not answer.predictions for answer in answers[::2])
    assert [answer.predictions for answer in answers[1::2]] == [tuple(found) for found in classify(good)]
