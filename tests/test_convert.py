"""Datasets of torch, and stand-ins for those of torchvision and Hugging Face, read into memory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import residual
from residual.data.convert import as_dataset
from residual.data.dataset import Dataset, Split
from residual.errors import DataError

PIXELS = torch.randint(256, (12, 5, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3
NAMES = ("cup", "plate", "spoon")


class Vision:
    """As torchvision's: pairs of a PIL image and an int, `classes`, `class_to_idx`, `targets`."""

    def __init__(self, classes=NAMES, transform=None):
        self.classes, self.transform = list(classes), transform
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}
        self.targets = LABELS.tolist()

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        image = Image.fromarray(PIXELS[index].numpy())
        return self.transform(image) if self.transform else image, self.targets[index]


class ClassLabel:
    """As `datasets.ClassLabel`."""

    def __init__(self, names):
        self.names, self.num_classes = list(names), len(names)


class Value:
    """As `datasets.Value`, which has no names."""

    dtype = "int64"


class HuggingFace:
    """As a `datasets.Dataset`: an int gives a dictionary, a column's name gives the column, `features`."""

    def __init__(self, image="img", label="label", feature=None, more=()):
        self.keys = (image, label)
        self.features = {image: object(), label: feature or ClassLabel(NAMES), **dict(more)}

    def __len__(self):
        return 12

    def __getitem__(self, key):
        if isinstance(key, str):
            return [self[index][key] for index in range(len(self))]
        image, label = self.keys
        extra = dict.fromkeys(self.features, 0)
        return {**extra, image: Image.fromarray(PIXELS[key].numpy()), label: int(LABELS[key])}


def tensors(images=None, labels=LABELS):
    chw = PIXELS.permute(0, 3, 1, 2) if images is None else images
    return torch.utils.data.TensorDataset(chw, labels)


class Pairs(list):
    """A list of pairs: it has a length and items, and no names."""


def arrays():
    return Pairs((PIXELS[i].numpy(), np.int64(LABELS[i])) for i in range(12))


SOURCES = {
    "torch": (tensors, None),
    "arrays": (arrays, None),
    "torchvision": (Vision, NAMES),
    "torchvision, as tensors": (
        lambda: Vision(transform=lambda i: torch.from_numpy(np.array(i)).permute(2, 0, 1)),
        NAMES,
    ),
    "torchvision, a subset": (lambda: torch.utils.data.Subset(Vision(), range(12)), NAMES),
    "hugging face": (HuggingFace, NAMES),
    "hugging face, image and labels": (lambda: HuggingFace("image", "labels"), NAMES),
    "hugging face, cifar100": (
        lambda: HuggingFace("img", "fine_label", more={"coarse_label": ClassLabel("xy")}),
        NAMES,
    ),
    "hugging face, plain numbers": (lambda: HuggingFace(feature=Value()), None),
    "our own": (lambda: Split(PIXELS, LABELS, NAMES), NAMES),
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_kind_gives_the_same_images_and_labels(source):
    make, names = SOURCES[source]
    dataset = as_dataset(make(), make())
    for part in (dataset.train, dataset.test):
        assert torch.equal(part.images, PIXELS)
        assert part.images.is_contiguous()
        assert torch.equal(part.labels, LABELS)
        assert part.class_names == dataset.class_names
    assert dataset.class_names == (names or ("0", "1", "2"))
    assert dataset.name == "custom"
    named = as_dataset(make(), make(), name="kitchen", class_names=["x", "y", "z"])
    assert (named.name, named.class_names) == ("kitchen", ("x", "y", "z"))


@pytest.mark.parametrize("source", ["torch", "torchvision", "hugging face"])
def test_a_run_trains_on_it(tmp_path, source):
    make, _ = SOURCES[source]
    changes = {"iterations": 2, "batch_size": 4, "augment.padding": 1}
    recipe = residual.get_recipe("demo", "resnet8").replace(changes)
    found = residual.train(recipe, dataset=as_dataset(make(), make()), output=tmp_path / "run", quiet=True)
    assert found.figures["images"] == 12
    assert found.figures["data"] == "custom"


def test_parts_in_one_mapping_as_hugging_face_loads_them():
    dataset = as_dataset({"train": HuggingFace(), "test": HuggingFace(), "other": None})
    assert (len(dataset.train), len(dataset.test), dataset.class_names) == (12, 12, NAMES)
    smaller = as_dataset({"train": HuggingFace(), "test": HuggingFace()}, Split(PIXELS[:3], LABELS[:3]))
    assert len(smaller.test) == 3


def test_a_dataset_of_ours_stays_as_it_is():
    dataset = Dataset("kitchen", Split(PIXELS, LABELS), Split(PIXELS, LABELS), NAMES)
    assert as_dataset(dataset) is dataset
    for more in ({"test": Vision()}, {"name": "other"}, {"class_names": NAMES}):
        with pytest.raises(DataError, match="has test set, name and class names already: give it alone"):
            as_dataset(dataset, **more)


def test_every_item_is_read_once():
    class Counting(Vision):
        read = 0

        def __getitem__(self, index):
            self.read += 1
            return super().__getitem__(index)

    train, test = Counting(), Counting()
    as_dataset(train, test)
    assert train.read == test.read == 12


def gray(kind):
    level = PIXELS[..., 0]
    if kind == "PIL":
        return Pairs((Image.fromarray(level[i].numpy()), 0) for i in range(12))
    shapes = {"HW": level, "1HW": level[:, None], "HW1": level[..., None]}
    return tensors(shapes[kind], torch.zeros(12).long())


@pytest.mark.parametrize("kind", ["PIL", "HW", "1HW", "HW1"])
def test_a_grayscale_image_is_repeated_in_three_channels(kind):
    found = as_dataset(gray(kind), gray(kind)).train.images
    assert torch.equal(found, PIXELS[..., :1].expand(-1, -1, -1, 3))


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "1", "LA"])
def test_other_modes_of_pillow_become_rgb(mode):
    image = Image.fromarray(PIXELS[0].numpy()).convert(mode)
    found = as_dataset([(image, 0)], [(image, 0)]).train.images[0]
    assert np.array_equal(found.numpy(), np.asarray(image.convert("RGB")))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_arrays_are_hwc_and_tensors_chw_whatever_their_size(height, width, as_tensor):
    image = torch.randint(256, (height, width, 3), dtype=torch.uint8)
    given_image = image.permute(2, 0, 1) if as_tensor else image.numpy()
    found = as_dataset([(given_image, 0)], [(given_image, 0)])
    assert torch.equal(found.train.images[0], image)


def test_synonyms_of_imagenets_classes_make_one_name():
    dataset = as_dataset(Vision([("tench", "Tinca tinca"), ("goldfish",), "shark"]), tensors())
    assert dataset.class_names == ("tench, Tinca tinca", "goldfish", "shark")


def test_an_attribute_of_another_kind_is_not_taken_for_names():
    source = Vision()
    source.classes, source.dataset = 3, "kitchen"
    assert as_dataset(source, source).class_names == ("0", "1", "2")


def bad(item, count=2):
    good = (Image.fromarray(PIXELS[0].numpy()), 0)
    return [*[good] * (count - 1), item]


IMAGE = PIXELS[0].numpy()
FLOAT = PIXELS[0].permute(2, 0, 1) / 255


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (bad((FLOAT, 0)), r"image 1 of the training set is torch.float32.*leave ToTensor.*255"),
        (bad((IMAGE / 255, 0)), r"image 1 of the training set is torch.float64"),
        (bad((IMAGE.astype(np.int64), 0)), "is torch.int64: convert its values of 0..255 to uint8"),
        (bad((Image.new("I;16", (6, 5)), 0)), "PIL mode I;16: scale it to 0..255"),
        (bad((Image.new("F", (6, 5)), 0)), "PIL mode F"),
        (bad((Image.new("RGB", (7, 5)), 0)), "image 1 .* has 5x7 pixels, image 0 has 5x6: resize all images"),
        (bad((np.zeros((5, 6, 4), np.uint8), 0)), r"the shape \[5, 6, 4\], neither"),
        (bad((np.zeros((0, 6, 3), np.uint8), 0)), r"the shape \[0, 6, 3\], neither"),
        (bad((np.zeros(5, np.uint8), 0)), r"the shape \[5\], neither"),
        (bad(("cup.png", 0)), "image 1 of the training set is a str: give a PIL image"),
        (bad((IMAGE, 0.5)), "has the label 0.5: labels must be whole numbers from 0"),
        (bad((IMAGE, "cup")), "has the label 'cup': labels must be whole numbers"),
        (bad((IMAGE, None)), "has the label None"),
        (bad((IMAGE, -1)), "has the label -1"),
        (bad((IMAGE, 10**9)), "has the label 1000000000"),
        (bad((IMAGE, torch.tensor(1.0))), "has the label tensor"),
        (bad((IMAGE, np.zeros((4, 4)))), "has the label array"),
        (bad((IMAGE, 0, "cup.png")), "image 1 of the training set comes as tuple, not as a pair"),
        (bad(IMAGE), "comes as ndarray, not as a pair"),
        (bad({"photo": IMAGE, "label": 0}), "has the keys photo, label: rename the image's to img or image"),
        (bad({"image": IMAGE}), "has the keys image: rename .* the label's to label or labels or fine_label"),
        ([], "the training set is empty"),
        (iter([]), "the training set .* needs __len__ and __getitem__: a stream"),
        (Split(PIXELS[:0], LABELS[:0]), "the training set is empty"),
        (Split(PIXELS, LABELS * 10**9), "labels from 0 to 2000000000 but 100001 class names"),
        (Vision(NAMES[:2]), "labels from 0 to 2 but 2 class names"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_do(source, words):
    test = tensors() if not isinstance(source, Vision) else source
    with pytest.raises(DataError, match=words) as caught:
        as_dataset(source, test)
    assert "\n" not in str(caught.value)


def test_the_test_set_is_named_where_it_is_wrong():
    with pytest.raises(DataError, match=r"image 1 of the test set is torch\.float32"):
        as_dataset(tensors(), bad((FLOAT, 0)))


@pytest.mark.parametrize(
    ("given_parts", "kind"),
    [((Vision(),), "test"), (({"train": Vision()},), "test"), (({"test": Vision()},), "training")],
)
def test_a_part_that_is_missing_is_named(given_parts, kind):
    with pytest.raises(DataError, match=rf"no {kind} set was given: pass test=.*random_split"):
        as_dataset(*given_parts)


def test_parts_that_number_their_classes_differently_are_refused():
    other = Vision(("cup", "spoon", "plate"))
    with pytest.raises(DataError, match="name their classes differently"):
        as_dataset(Vision(), other)
    assert as_dataset(Vision(), other, class_names=NAMES).class_names == NAMES


def test_parts_of_different_sizes_are_refused():
    with pytest.raises(DataError, match=r"training images of \(5, 6\) pixels, test images of \(4, 4\)"):
        as_dataset(Vision(), Split(torch.zeros(3, 4, 4, 3, dtype=torch.uint8), LABELS[:3]))


def test_a_dataset_beyond_the_memory_is_refused():
    class Endless(Vision):
        def __len__(self):
            return 10**15

    with pytest.raises(DataError, match=r"the training set does not fit in memory \([\d,.]+ GiB\)"):
        as_dataset(Endless(), Vision())
