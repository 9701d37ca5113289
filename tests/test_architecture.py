"""Table 1 and Figure 3, as measured on the networks."""

import re

import pytest
from PIL import Image

from residual.models.complexity import PAPER_MULTIPLY_ADDS, complexity
from residual.reproduce.architecture import architecture

TABLE_1 = {  # blocks of conv2_x to conv5_x
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}


@pytest.mark.parametrize("name", [*TABLE_1, "plain18", "plain34"])
def test_the_layers_are_those_of_table_1(name):
    found = architecture(name)
    layers, sizes = found.layers, (56, 28, 14, 7)
    depths = TABLE_1[name.replace("plain", "resnet")]
    assert [str(layer) for layer in layers[:2]] == ["7x7, 64, /2", "max pool, /2"]
    assert [layer.size for layer in layers[:2]] == [112, 56]
    assert [str(layer) for layer in layers[-2:]] == ["avg pool", "fc 1000"]
    blocks = [layers[block.first : block.end] for block in found.blocks]
    assert [sum(block[-1].size == size for block in blocks) for size in sizes] == list(depths)
    for block in blocks:
        width = 64 * 2 ** sizes.index(block[-1].size)
        shapes = [(3, width)] * 2 if len(block) == 2 else [(1, width), (3, width), (1, 4 * width)]
        assert [(layer.kernel, layer.width) for layer in block] == shapes
    assert sum(layer.kind in ("conv", "fc") for layer in layers) == int(name.lstrip("resntplai"))


@pytest.mark.parametrize(("variant", "strides"), [("v1", (2, 1, 1)), ("v1.5", (1, 2, 1))])
def test_the_stride_is_where_the_variant_puts_it(variant, strides):
    found = architecture("resnet50", variant=variant)
    changing = [b for b in found.blocks if found.layers[b.end - 1].size != found.layers[b.first - 1].size]
    assert len(changing) == 3
    for block in changing:
        assert tuple(layer.stride for layer in found.layers[block.first : block.end]) == strides


def test_shortcuts_change_where_dimensions_do():
    changed = [n for n, block in enumerate(architecture("resnet34").blocks) if block.shortcut == "changed"]
    assert changed == [3, 7, 13], "the first blocks of conv3_x to conv5_x"
    assert {block.shortcut for block in architecture("plain34").blocks} == {None}
    assert architecture("vgg19").blocks == []


def test_the_counts_of_v1_are_about_the_papers():
    for name, paper in PAPER_MULTIPLY_ADDS.items():
        variant = "v1" if name in ("resnet50", "resnet101", "resnet152") else None
        assert complexity(name, variant=variant).multiply_adds / 1e9 == pytest.approx(paper, abs=0.07)


def test_table_1_is_printed(cli):
    code, out, err = cli("reproduce", "table1")
    assert (code, err) == (0, "")
    found = [re.findall(r"x (\d+)", line) for line in out.splitlines()]
    expected = [part for stage in zip(*TABLE_1.values(), strict=True) for part in (stage[:2], stage[2:])]
    assert [tuple(map(int, numbers)) for numbers in found if numbers] == expected
    lines = [line.split() for line in out.splitlines()]
    assert ["in", "the", "paper", "1.8", "3.6", "3.8", "7.6", "11.3"] in lines
    assert ["here,", "v1", "1.81", "3.66", "3.86", "7.57", "11.28"] in lines
    assert ["here,", "v1.5", "1.81", "3.66", "4.09", "7.80", "11.51"] in lines


def test_figure_3_is_a_tall_image_of_three_columns(cli, tmp_path):
    code, out, _ = cli("reproduce", "figure3", "--output", tmp_path / "docs")
    path = tmp_path / "docs" / "figure3.png"
    assert (code, out.strip()) == (0, str(path))
    with Image.open(path) as image:
        width, height = image.size
        assert height > 1.5 * width
        colours = {colour for _, colour in image.convert("RGB").getcolors(2**24)}
    assert {(0xE3, 0xD9, 0xF0), (0xD8, 0xEA, 0xD2), (0xF8, 0xD3, 0xCF), (0xD0, 0xE6, 0xF0)} <= colours


def test_options_that_do_not_fit(cli, tmp_path):
    for what, option, value in (
        ("table1", "output", tmp_path),
        ("figure3", "seeds", 2),
        ("figure3", "results", tmp_path),
    ):
        code, out, err = cli("reproduce", what, f"--{option}", value)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"leave --{option} out" in err
    (tmp_path / "file").write_text("")
    code, _, err = cli("reproduce", "figure3", "--output", tmp_path / "file")
    assert code != 0
    assert err.startswith("residual: cannot write")
