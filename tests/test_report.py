"""The report of a run on photographs: its numbers are the evaluation's, and hostile names do no harm."""

import csv
import dataclasses
import io
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

import residual
from residual import get_recipe
from residual.data.findings import Findings
from residual.data.photos import Photos
from residual.errors import RunError
from residual.evaluation.classification import Accumulator
from residual.evaluation.metrics import wilson_interval
from residual.evaluation.predictions import Predictions
from residual.evaluation.temperature import calibrate
from residual.report import page
from residual.report.advice import advice, verdict
from residual.report.charts import error_chart, reliability, ticks
from residual.report.judged import write_mistakes
from residual.report.outcome import Outcome
from residual.report.tables import class_rows, pairs
from residual.training import photo_report
from residual.training.run_folder import Run

HOSTILE = ("<script>alert(1)</script>", "\"onload='x' & {{ 7 * 7 }}", "cat")
VOID = {"meta", "img", "br", "line", "circle", "polyline"}


class Page(HTMLParser):
    """Collects elements, and checks that each is closed in its turn."""

    def __init__(self, html):
        super().__init__()
        self.open, self.found, self.text = [], [], []
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


def make_outcome(root, classes=3, images=60, names=HOSTILE, **changes):
    """An outcome of made-up logits, right for about two in three images; the first files exist."""
    random = torch.Generator().manual_seed(3)
    labels = torch.arange(images) % classes
    logits = torch.randn(images, classes, generator=random)
    logits[torch.arange(images), labels] += 2
    files = [f"{'<b>&' if number % 2 else ''}{number}.png" for number in range(images)]
    for name in files[:6]:
        pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    photos = Photos(root, files, labels, tuple(names))
    figures = Accumulator()
    figures.add(logits, labels)
    values = {
        "network": "resnet18",
        "data": names[0],
        "train": photos,
        "test": figures.result(),
        "predictions": {"test": Predictions(photos, logits), "training": Predictions(photos, logits)},
        "temperature": calibrate((logits, labels)),
        "training_error": 2.0,
        "curves": {"training": [(0.5, 60.0), (1.0, 40.0)], "test": [(1.0, 45.0)]},
        "recipe": {"seed": 0, "name": names[0]},
    }
    return Outcome(**{**values, **changes})


@pytest.fixture
def outcome(tmp_path):
    findings = Findings(
        duplicates=(("0.png", "<b>&1.png"), ("2.png", "no\x00such.png")),
        leaks=(("0.png", "2.png"),),
        conflicts=(("0.png", "<b>&1.png"),),
        notes=("Class <i>x</i> has few images.",),
    )
    return make_outcome(tmp_path, findings=findings, bad={"<img src=x>.jpg": "<u>cut</u>"})


def test_names_are_escaped_and_nothing_comes_from_outside(outcome):
    html = page.render(outcome)
    found = Page(html)
    tags = {tag for tag, _ in found.found}
    assert not tags & {"script", "link", "iframe", "object", "b", "i>x", "u", "form", "base"}
    for tag, attrs in found.found:
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
        assert attrs.get("src", "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
        assert "href" not in attrs
    outside = re.sub(r'"data:image/jpeg;base64,[^"]*"', "", html)
    assert not re.search(r"https?:|//\w|url\(|@import", outside)
    text = " ".join(found.text)
    for name in (*HOSTILE, "<img src=x>.jpg", "<u>cut</u>", "<b>&1.png", "Class <i>x</i> has few images."):
        assert name in text
    assert "49" not in re.findall(r"onload='x' & (\S+)", text), "a name is no template"


def test_a_screen_reader_finds_headings_captions_and_alternative_texts(outcome):
    found = Page(page.render(outcome))
    assert [tag for tag, _ in found.found if tag == "h1"] == ["h1"]
    assert len(found.all("h2")) == len(found.all("section")) >= 8
    assert len(found.all("caption")) == len(found.all("table")) >= 3
    assert all(attrs["alt"] for attrs in found.all("img"))
    assert all("aria-label" in attrs or attrs.get("aria-hidden") for attrs in found.all("svg"))
    assert all("scope" in attrs for attrs in found.all("th"))
    identifiers = [attrs["id"] for _, attrs in found.found if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))


def test_the_numbers_are_those_of_the_evaluation(outcome):
    test, text = outcome.test, " ".join(" ".join(Page(page.render(outcome)).text).split())
    low, high = test.error_interval
    assert f"Test error {test.error:.1f} % 95 % interval {low:.1f} to {high:.1f} %" in text
    assert f"Macro error {test.macro_error:.1f} %" in text
    assert outcome.temperature.before == pytest.approx(test.calibration_error)
    assert f"{outcome.temperature.before:.1f} % without the temperature" in text
    rows = {row.name: row for row in class_rows(outcome)}
    for label, name in enumerate(HOSTILE):
        counts = test.confusion[label]
        assert f"{name} {' '.join(map(str, counts))}" in text, "the confusion matrix"
        assert rows[name].interval == wilson_interval(sum(counts) - counts[label], sum(counts))
        assert rows[name].error == test.per_class_error[label]
    assert sum(pair.times for pair in pairs(outcome)) == round(test.error / 100 * test.images)


def test_a_list_that_is_whole_is_not_called_a_part(outcome, monkeypatch):
    count = len(outcome.suspects)
    assert count > 1
    assert "most suspicious are shown" not in page.render(outcome)
    monkeypatch.setattr(page, "MOST_PICTURES", count - 1)
    assert f"The {count - 1} most suspicious are shown" in page.render(outcome)


def test_mistakes_are_those_of_the_confusion_matrix_worst_first(outcome, tmp_path):
    write_mistakes(tmp_path / "mistakes.csv", outcome.judged)
    with (tmp_path / "mistakes.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    confusion = [[0] * 3 for _ in HOSTILE]
    for row in rows:
        if row["set"] == "test":
            confusion[HOSTILE.index(row["true"])][HOSTILE.index(row["predicted"])] += 1
    expected = [
        [0 if i == j else n for j, n in enumerate(counts)] for i, counts in enumerate(outcome.test.confusion)
    ]
    assert confusion == expected
    margins = [float(row["true_probability"]) - float(row["confidence"]) for row in rows]
    assert margins == sorted(margins)
    assert {row["set"] for row in rows} == {"test", "training"}


def test_file_names_that_are_not_utf8_are_written_too(outcome, tmp_path):
    photos = dataclasses.replace(outcome.train, files=[f"\udcff{n}.png" for n in range(60)])
    predictions = {"test": Predictions(photos, outcome.predictions["test"].logits)}
    renamed = dataclasses.replace(outcome, predictions=predictions)
    page.write_page(tmp_path / "report.html", renamed)
    write_mistakes(tmp_path / "mistakes.csv", renamed.judged)
    assert re.search(r"\?\d+\.png", (tmp_path / "report.html").read_text(encoding="utf-8"))
    rows = (tmp_path / "mistakes.csv").read_bytes().splitlines()[1:]
    assert rows
    assert all(row.startswith(os.fsencode("\udcff")) for row in rows)


def test_many_classes_and_large_pictures_stay_below_three_megabytes(tmp_path):
    names = tuple(f"class {number}" for number in range(300))
    outcome = make_outcome(tmp_path, classes=300, images=600, names=names)
    groups = tuple(tuple(outcome.train.files[n : n + 4]) for n in range(0, 400, 4))
    outcome = dataclasses.replace(outcome, findings=Findings(duplicates=groups, conflicts=groups[::-1]))
    noise = np.random.default_rng(0).integers(0, 256, (180, 180, 3), dtype=np.uint8)
    picture = io.BytesIO()
    Image.fromarray(noise).save(picture, "PNG", compress_level=0)
    for file in outcome.train.files:
        (tmp_path / file).write_bytes(picture.getvalue())
    html = page.render(outcome)
    assert len(html.encode()) < 3_000_000
    found = Page(html)
    assert 48 < len(found.all("img")) < 128
    assert "most frequent confusions" in html
    assert "matrix" not in {attrs.get("class") for attrs in found.all("table")}


def test_a_perfect_network_has_a_page_too(tmp_path):
    outcome = make_outcome(tmp_path)
    logits = 9 * torch.eye(3)[outcome.train.labels]
    figures = Accumulator()
    figures.add(logits, outcome.train.labels)
    perfect = make_outcome(
        tmp_path, test=figures.result(), predictions={"test": Predictions(outcome.train, logits)}, curves={}
    )
    text = " ".join(" ".join(Page(page.render(perfect)).text).split())
    assert "every test image is classified as its label" in text
    assert "No near-duplicates and no bad files were found." in text
    assert "100 in 100 test images" in verdict(perfect)


def test_advice_names_what_the_figures_show(tmp_path):
    lines = " ".join(advice(make_outcome(tmp_path)))
    assert "More images of" not in lines, "no class is surely worse than the others"
    assert "60 test images" in lines
    assert "about 240 would halve that" in lines
    assert "knows its training images (2.0 % wrong)" in lines
    lines = advice(make_outcome(tmp_path, findings=Findings(leaks=(("a", "b"), ("c", "b")))))
    assert lines[0].startswith("1 test image has near-duplicates")
    assert "still wrong for 70.0 %" in " ".join(advice(make_outcome(tmp_path, training_error=70.0)))


def test_advice_names_the_class_that_is_worse_with_the_fewest_images(tmp_path):
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(4000) % 4
    logits = torch.randn(4000, 4, generator=random)
    logits[torch.arange(4000), labels] += torch.tensor([9.0, 9.0, 1.0, 1.0])[labels]
    figures = Accumulator()
    figures.add(logits, labels)
    counts = torch.tensor([0] * 90 + [1] * 90 + [2] * 80 + [3] * 20)
    train = Photos(tmp_path, [f"{n}.png" for n in range(280)], counts, ("a", "b", "c", "d"))
    outcome = make_outcome(tmp_path, classes=4, names="abcd", test=figures.result(), train=train)
    lines = [line for line in advice(outcome) if line.startswith("More images of")]
    assert len(lines) == 1
    assert re.search(r"'d'.* it has 20 training images", lines[0])
    assert not any("would halve" in line for line in advice(outcome)), "4,000 test images are enough"


def test_charts_show_the_whole_curve_between_round_numbers():
    assert ticks(100.0) == [0, 20, 40, 60, 80, 100]
    assert ticks(0.7) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    curve = [(step / 100, 100 - step / 100) for step in range(5000)]
    chart = error_chart({"training": curve})
    points = chart.lines[0].points
    assert len(points) <= 500
    assert (points[-1][0], points[0][0]) == pytest.approx((chart.right, chart.left))
    assert all(chart.top <= y <= chart.bottom for _, y in points)


def test_the_calibration_curve_is_confidence_against_accuracy():
    shares = torch.tensor([[0.9, 0.1]] * 10 + [[0.55, 0.45]] * 4).double()
    labels = torch.tensor([0] * 8 + [1] * 2 + [0, 1, 1, 1])
    found = reliability(shares.log(), labels, torch.ones(14))
    assert np.allclose(found, [(55, 25), (90, 80)])


@pytest.fixture(scope="module")
def finished(photographs, tmp_path_factory):
    recipe = get_recipe("imagenet-epochs", "resnet8").replace(
        {"iterations": 6, "batch_size": 4, "image_size": 32, "validation": 6}
    )
    path = tmp_path_factory.mktemp("report") / "run"
    return residual.train(recipe, data_dir=photographs, output=path, workers=0)


def test_a_run_writes_it_and_its_model_keeps_the_temperature(finished, photographs):
    figures, run = finished.figures, Run.open(finished.path)
    found = residual.evaluate(finished.path, data=str(photographs), workers=0, quiet=True)
    assert figures["macro_error"] == found.macro_error
    assert figures["error_interval"] == list(found.error_interval)
    assert figures["calibration_error"] == found.calibration_error
    with run.mistakes.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["set"] == "test"]
    assert len(rows) == round(found.error * found.images / 100)
    assert {row["path"].split("/")[0] for row in rows} <= {"val"}
    text = " ".join(" ".join(Page(run.report.read_text(encoding="utf-8")).text).split())
    assert f"Test error {found.error:.1f} %" in text
    assert all(sentence in text for sentence in figures["advice"])
    assert residual.load_model(finished.path).config.temperature == figures["temperature"]
    assert figures["temperature_set"] == "validation"
    assert f"temperature | {figures['temperature']:.3f}" in (run.model / "README.md").read_text()


def test_a_report_that_cannot_be_written_leaves_a_run_to_resume(photographs, tmp_path, monkeypatch):
    recipe = get_recipe("imagenet-epochs", "resnet8").replace(
        {"iterations": 2, "batch_size": 4, "image_size": 32, "validation": 6}
    )

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(page, "write_atomically", full)
        with pytest.raises(RunError, match=r"report.*No space left.*--resume"):
            residual.train(recipe, data_dir=photographs, output=tmp_path / "run", workers=0)
    assert Run.open(tmp_path / "run").result is None
    residual.resume(tmp_path / "run", workers=0)
    assert (tmp_path / "run" / "report.html").is_file()


def test_too_many_predictions_are_left_out_with_a_note(photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(photo_report, "fits_in_memory", lambda images, _classes: images < 10)
    recipe = get_recipe("imagenet-epochs", "resnet8").replace(
        {"iterations": 1, "batch_size": 4, "image_size": 32, "validation": 6}
    )
    result = residual.train(recipe, data_dir=photographs, output=tmp_path / "run", workers=0)
    assert "too many test images" in capsys.readouterr().err
    assert not (tmp_path / "run" / "report.html").exists()
    assert "temperature" not in result.figures
    assert residual.load_model(tmp_path / "run").config.temperature == 1.0
