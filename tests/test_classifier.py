"""`Classifier`: every form of an image, errors, threads, temperature, features."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

import residual
from odd_files import encode, picture
from residual.data.decode import BadImageError
from residual.errors import CheckpointError, UsageError
from small_models import NAMES, small_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("classifier") / "model", temperature=2.0)


@pytest.fixture(scope="module")
def classify(model):
    return residual.Classifier(model)


def test_all_forms_of_an_image_give_one_answer(classify, tmp_path):
    image = picture(50, 70)
    pixels = np.asarray(image)
    content = encode(image, "PNG")
    (tmp_path / "a.png").write_bytes(content)
    forms = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        content,
        bytearray(content),
        image,
        image.convert("RGBA"),
        pixels,
        np.dstack([pixels, np.full((50, 70, 1), 255, np.uint8)]),
        torch.from_numpy(pixels.copy()),
        pixels[::-1].copy()[::-1],  # negative strides
        np.asfortranarray(pixels),
    ]
    expected = classify(image)
    assert all(classify(form) == expected for form in forms)
    together = classify(forms)
    assert len(together) == len(forms)
    for found in together:
        assert found[0].class_name == expected[0].class_name
        assert found[0].probability == pytest.approx(expected[0].probability, abs=1e-6)
    assert [found[0] for found in classify(np.stack([pixels, pixels]))] == [
        found[0] for found in classify(torch.from_numpy(np.stack([pixels, pixels])))
    ]


def test_grey_arrays_are_grey_pictures(classify):
    grey = np.asarray(picture(40, 40).convert("L"))
    expected = classify(np.repeat(grey[..., None], 3, 2))
    assert classify(grey) == classify(grey[..., None]) == expected
    assert classify(np.dstack([grey, np.full_like(grey, 255)])) == expected


def test_a_pillow_image_is_turned_as_its_exif_says_and_stays_as_it_is(classify):
    image = picture(40, 60)
    turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # turn it clockwise
    before = turned.tobytes()
    assert classify(turned) == classify(image) != classify(image.transpose(Image.Transpose.ROTATE_90))
    assert turned.tobytes() == before


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("missing.jpg", "missing.jpg: No such file"),
        (b"", "it is empty|file is empty"),
        (b"no image", "none of JPEG"),
        (np.zeros((4, 4, 3), np.float32), "float32: give uint8"),
        (np.zeros((4, 4, 5), np.uint8), r"\[4, 4, 5\]"),
        (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]"),
        (torch.zeros(7, dtype=torch.uint8), r"\[7\]"),
        (3, "a int is neither"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(classify, image, words):
    with pytest.raises(BadImageError, match=words) as caught:
        classify(image)
    assert "\n" not in str(caught.value)


def test_options_that_do_not_fit(classify, model):
    with pytest.raises(UsageError, match="top must be 1 or more"):
        classify(picture(9, 9), top=0)
    with pytest.raises(UsageError, match="unknown engine 'fast'"):
        residual.Classifier(model, engine="fast")
    with pytest.raises(UsageError, match="folder of images that calibrate"):
        residual.Classifier(model, engine="int8")
    with pytest.raises(UsageError, match="pretrained models: resnet20"):
        residual.Classifier("no-such-model")
    with pytest.raises(CheckpointError, match="not from a model folder"):
        residual.Classifier(residual.create_model("resnet8"))


def test_top_is_at_most_all_classes_and_probabilities_are_a_distribution(classify):
    found = classify(picture(33, 44), top=100)
    assert sorted(prediction.class_name for prediction in found) == sorted(NAMES)
    values = [prediction.probability for prediction in found]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1, abs=1e-12)
    assert classify(picture(33, 44), top=2) == found[:2]
    assert classify([]) == []


def test_probabilities_are_at_the_models_temperature(classify, model):
    image = picture(32, 32)
    network = residual.load_model(model)
    with torch.no_grad():
        pixels = torch.from_numpy(np.asarray(image).copy())[None]
        logits = network(network.config.normalization.apply(pixels).permute(0, 3, 1, 2))
    wanted = (logits[0] / 2.0).softmax(0)
    found = {prediction.class_name: prediction.probability for prediction in classify(image, top=9)}
    assert [found[name] for name in NAMES] == pytest.approx(wanted.tolist(), abs=1e-6)
    assert max(logits[0].softmax(0).tolist()) > max(wanted.tolist()) + 0.01


def test_features_are_what_the_last_layer_takes(classify, model):
    pixels = torch.stack([classify.load(picture(50, 60, seed)) for seed in range(4)])
    network, seen = residual.load_model(model), []
    last = network.get_submodule(network.classifier_name)
    last.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    with torch.no_grad():
        logits = network(network.config.normalization.apply(pixels).permute(0, 3, 1, 2))
    features = classify.features(pixels)
    assert features.shape == (4, classify.feature_size)
    assert torch.allclose(features, seen[0], atol=1e-5)
    assert torch.allclose(classify.logits_of_features(features), logits, atol=1e-5)


def test_threads_get_the_answers_of_one_caller(model):
    classify = residual.Classifier(model)
    images = [encode(picture(40 + seed, 50, seed), ("PNG", "JPEG", "GIF")[seed % 3]) for seed in range(24)]
    expected = [classify(image) for image in images]
    features = [classify.features(classify.load(image)[None]) for image in images]
    fresh, found, start = residual.Classifier(model), {}, threading.Barrier(8)

    def work(number):
        start.wait()
        for index in np.random.default_rng(number).permutation(len(images)):
            pixels = fresh.load(images[index])[None]
            found[number, int(index)] = fresh(images[index]), fresh.features(pixels)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 * len(images)
    for (_, index), (answer, values) in found.items():
        assert answer == expected[index]
        assert torch.equal(values, features[index])


def test_the_callers_network_stays_as_it_is(model):
    network = residual.load_model(model)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    residual.Classifier(network)(picture(30, 30))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_batches_of_any_number_are_answered_in_order(classify, monkeypatch):
    images = [picture(32, 32, seed) for seed in range(11)]
    expected = [classify(image)[0].class_name for image in images]
    monkeypatch.setattr(type(classify), "images_at_once", 4)
    assert [found[0].class_name for found in classify(images)] == expected
    assert [found[0].class_name for found in classify(tuple(images))] == expected
