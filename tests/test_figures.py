"""The figures of results: what colours, labels and axes say, for few and many points, and 2 to 5 depths."""

import colorsys
import itertools

import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from residual.models.complexity import complexity
from residual.reproduce import compute_figure, figures
from residual.reproduce.compute import UNIT, all_series, compute_section, training_compute
from residual.reproduce.page import whole_runs
from residual.reproduce.published import OTHERS, PAPER, PAPER_ERRORS


def curve(points, end):
    return [[10 * (i + 1), end + 40 * (points - 1 - i) / points] for i in range(points)]


def alike(plain=(20, 56), residual=(20, 56), points=30, end=10.0):
    """Runs of one recipe, with a curve of so many points; the error rises by 1 with each network."""
    names = [f"plain{d}" for d in plain] + [f"resnet{d}" for d in residual]
    return [
        {
            "network": name,
            "iterations": 10 * points,
            "error": end + place,
            "curve": {"train": curve(points, end - 1), "test": curve(points, end + place)},
            "responses": [1 + place + i / 10 for i in range(int(name.lstrip("plainres t")) - 1)],
        }
        for place, name in enumerate(names)
    ]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draw a figure without writing it; return it."""

    def draw(function, *arguments):
        caught = []
        for module in (figures, compute_figure):
            monkeypatch.setattr(module, "save_figure", lambda figure, _path: caught.append(figure))
        function(*arguments[:1], tmp_path / "figure.png", *arguments[1:])
        return caught[0]

    return draw


def lightness(colour):
    return colorsys.rgb_to_hls(*to_rgb(colour))[1]


@pytest.mark.parametrize("depths", [(20, 56), (20, 32, 44, 56, 110)])
def test_colours_tell_the_kind_by_hue_and_the_depth_by_lightness(depths):
    colours = figures._colours(alike(depths, depths[:2]))
    plain = [lightness(colours[f"plain{depth}"]) for depth in depths]
    steps = [shallow - deep for shallow, deep in itertools.pairwise(plain)]
    assert min(steps) > 0.05, "neighbours can be told apart"
    for name, colour in colours.items():
        red, _, blue = to_rgb(colour)
        assert (red > blue) == name.startswith("plain")


def test_error_panels_label_each_network_at_the_end_of_its_curve(drawn):
    five = (20, 32, 44, 56, 110)
    figure = drawn(figures.figure_6, alike((20, 56), five), "recipe fast: 300 steps")
    assert figure._suptitle.get_text() == "recipe fast: 300 steps"
    for axes, depths in zip(figure.axes, ((20, 56), five), strict=True):
        labels = sorted(axes.texts, key=lambda text: text.xy[1])
        assert [int(text.get_text().split()[0]) for text in labels] == list(depths)
        places = [text.xy[1] for text in labels]
        assert min(b - a for a, b in itertools.pairwise(places)) > 0.1 * axes.get_ylim()[1]
        assert {line.get_linewidth() for line in axes.lines} == {1.0, 2.4}
    assert "12.0 %" in figure.axes[1].texts[0].get_text()


def test_points_are_marked_where_they_are_few_and_the_axis_ends_near_the_ends_of_curves(drawn):
    few = drawn(figures.figure_6, alike(points=3), "")
    many = drawn(figures.figure_6, alike(points=30), "")
    assert {line.get_marker() for line in few.axes[0].lines} == {"", "o"}
    assert {line.get_marker() for line in many.axes[0].lines} == {""}
    assert many.axes[0].get_ylim()[1] == pytest.approx(figures.RANGE * 13)
    assert drawn(figures.figure_6, alike(end=90.0), "").axes[0].get_ylim()[1] == 100
    untested = [{**run, "curve": {"train": run["curve"]["train"]}} for run in alike()]
    assert len(drawn(figures.figure_6, untested, "").axes[0].lines) == 2


def test_responses_have_a_legend_with_a_row_for_each_kind_and_a_column_for_each_depth(drawn):
    figure = drawn(figures.figure_7, alike((20, 56), (20, 56, 110)), "")
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[::2] == ["plain networks, layers:", "20", "56", ""]
    assert legend[1::2] == ["residual networks, layers:", "20", "56", "110"]
    assert [line.get_linestyle() for line in figure.axes[1].lines] == ["--", "--", "-", "-", "-"]
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [19, 55, 19, 55, 109]


def run(network="resnet20", error=8.0, **changes):
    made = {"network": network, "shortcut": "A", "recipe": "fast", "seed": 0, "error": error}
    made |= {"iterations": 100, "schedule_iterations": 100, "batch_size": 256, "training_error": 1.0}
    made |= {"seconds": 60, "images_per_second": 900, "commit": None, "hardware": {"gpu": "a GPU"}}
    return {**made, **changes}


def test_training_compute_is_three_forward_passes_for_each_image():
    assert training_compute("resnet20", "A", 64_000 * 128) == 3 * 40_551_040 * 8_192_000
    more = training_compute("resnet20", "B", 1) - training_compute("resnet20", "A", 1)
    assert more == 3 * (complexity("resnet20", shortcut="B").multiply_adds - 40_551_040) > 0


def test_only_full_runs_of_unchanged_recipes_stand_beside_the_papers():
    runs = [run(error=8.0), run(error=10.0, seed=1), run("resnet44", 7.0), run("plain20", 9.0)]
    runs += [run("resnet32", iterations=50), run("resnet56", recipe="fast, optimizer.muon=0.1")]
    series = all_series(whole_runs(runs))
    ours = series[0]
    assert [one.ours for one in series] == [True] + [False] * (1 + len(OTHERS))
    assert [(point.network, point.error) for point in ours.points] == [("resnet20", 9.0), ("resnet44", 7.0)]
    assert [point.spread for point in ours.points] == [pytest.approx(2**0.5), None]
    assert ours.points[0].compute == 3 * 40_551_040 * 25_600
    paper = series[1]
    assert [point.error for point in paper.points] == [PAPER_ERRORS[p.network] for p in paper.points]
    assert [point.spread for point in paper.points] == [None, None, None, None, 0.16]


def test_the_page_has_the_table_behind_the_picture():
    page = "\n".join(compute_section(all_series([run(error=8.0), run(error=10.0, seed=1)])))
    assert "](error-against-compute.png)" in page
    assert "- resnet20, this project, fast: 9.00 %, with 0.312 % of the training" in page
    assert "| this project, fast | 0.03 M | A | last step, mean of the seeds | 9.00 at 0.00 |" in page
    assert f"| {PAPER.source} | 8.19 M | A | Table 6; of 110 layers the mean of five | 8.75 at 1.00 |" in page
    for other in OTHERS:
        assert f"| {other.source} |" in page


def test_every_point_is_drawn_and_ours_and_the_papers_are_labelled(drawn):
    series = all_series([run(), run(error=9.0, seed=1), run("resnet47_bottleneck", 7.4)])
    axes = drawn(compute_figure.error_against_compute, series).axes[0]
    assert axes.get_xscale() == "log"
    points = {(x, y) for line in axes.lines for x, y in zip(*line.get_data(), strict=True)}
    assert points >= {(point.compute / UNIT, point.error) for one in series for point in one.points}
    labels = ["20 layers", "47 b", "20", "32", "44", "56", "110"]
    assert [text.get_text() for text in axes.texts] == labels


def test_the_figures_are_written_as_png(tmp_path):
    figures.figure_6(alike(), tmp_path / "a.png", "title")
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert image.width >= 1000
