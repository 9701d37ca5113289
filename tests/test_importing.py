"""Import of other projects' checkpoints: the same function, for random weights and for published ones."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import residual
from residual.errors import CheckpointError, UsageError
from residual.models.blocks import PaddedIdentity


class ZerosOnBothSides(nn.Module):
    """Option A as akamaster's project pads it."""

    def __init__(self, stride, new_channels):
        super().__init__()
        self.stride, self.side = stride, new_channels // 2

    def forward(self, x):
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.side, self.side))


def foreign_network(name):
    """A network that pads on both sides, with random statistics."""
    torch.manual_seed(3)
    network = residual.create_model(name).eval()
    for parent in list(network.modules()):
        if isinstance(getattr(parent, "downsample", None), PaddedIdentity):
            old = parent.downsample
            parent.downsample = ZerosOnBothSides(old.stride, old.new_channels)
    for key, value in network.state_dict().items():
        if "bn" in key and "tracked" not in key:
            value.copy_(torch.rand(value.shape) + 0.5)
    return network


def foreign_keys(state):
    return {
        "module." + key.replace("fc.", "linear."): value
        for key, value in state.items()
        if "tracked" not in key  # the format of 2018 had no counter
    }


@pytest.mark.parametrize("name", ["resnet8", "resnet20"])
def test_the_imported_network_computes_the_same_function(tmp_path, name):
    theirs = foreign_network(name)
    file = tmp_path / "theirs.th"
    torch.save({"state_dict": foreign_keys(theirs.state_dict())}, file)
    residual.import_checkpoint(file, model=name, output=tmp_path / "ours")
    ours = residual.load_model(tmp_path / "ours")
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
    assert ours.config.recipe == "akamaster/pytorch_resnet_cifar10"
    assert ours.config.normalization.mean.tolist() == pytest.approx([0.485 * 255, 0.456 * 255, 0.406 * 255])


@pytest.mark.parametrize("name", ["resnet8", "resnet20_bottleneck"])
@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
def test_the_shortcut_option_is_read_off_the_weights(tmp_path, name, shortcut):
    network = residual.create_model(name, shortcut=shortcut, num_classes=100)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    arguments = {"model": name, "output": tmp_path / "model", "mean": (0.5,) * 3, "std": (0.25,) * 3}
    config = residual.import_checkpoint(tmp_path / "weights.pt", **arguments)
    assert (config.shortcut, len(config.class_names), config.data) == (shortcut, 100, "cifar100")
    loaded = residual.load_model(tmp_path / "model").state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in network.state_dict().items())


def test_an_unknown_project_needs_its_normalisation(tmp_path):
    torch.save(residual.create_model("resnet8").state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UsageError, match="--mean"):
        residual.import_checkpoint(tmp_path / "weights.pt", model="resnet8", output=tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("file", "name", "error"),
    [
        ("resnet20-12fca82f.th", "resnet20", 8.27),
        pytest.param("resnet44-014dd654.th", "resnet44", 6.90, marks=pytest.mark.slow),
    ],
)
def test_published_checkpoints_score_what_they_are_known_to_score(
    tmp_path, akamaster, cifar10_root, file, name, error
):
    residual.import_checkpoint(akamaster / file, model=name, output=tmp_path / "model")
    found = residual.evaluate(tmp_path / "model", data_dir=cifar10_root)
    assert found.images == 10_000
    assert found.error == pytest.approx(error, abs=0.005)


HALF = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


@pytest.mark.parametrize("name", ["resnet8", "resnet20_bottleneck"])
def test_where_the_zeros_are_can_be_said(tmp_path, name):
    theirs, appended = foreign_network(name), foreign_network(name)
    for block in (m for m in appended.modules() if isinstance(getattr(m, "downsample", 0), ZerosOnBothSides)):
        block.downsample = PaddedIdentity(0, 2 * block.downsample.side, block.downsample.stride)
    x = torch.randn(4, 3, 32, 32)
    for zeros, network in {"both": theirs, "last": appended}.items():
        torch.save(foreign_keys(network.state_dict()), tmp_path / "file.pt")
        output = tmp_path / zeros
        residual.import_checkpoint(tmp_path / "file.pt", model=name, output=output, zeros=zeros, **HALF)
        with torch.no_grad():
            torch.testing.assert_close(residual.load_model(output)(x), network(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shortcut", "zeros"), [("A", "left"), ("A", ""), ("B", "both"), ("C", "last"), (None, "last")]
)
def test_zeros_that_do_not_fit(tmp_path, shortcut, zeros):
    name = "resnet8" if shortcut else "plain8"
    torch.save(residual.create_model(name, shortcut=shortcut).state_dict(), tmp_path / "file.pt")
    with pytest.raises(UsageError, match="--zeros"):
        residual.import_checkpoint(
            tmp_path / "file.pt", model=name, output=tmp_path / "model", zeros=zeros, **HALF
        )
    assert not (tmp_path / "model").exists()


def test_the_command_says_what_it_assumes_of_the_zeros(tmp_path, cli):
    state = residual.create_model("resnet8").state_dict()
    torch.save(foreign_keys(state), tmp_path / "theirs.pt")
    torch.save(state, tmp_path / "other.pt")
    torch.save(residual.create_model("resnet8", shortcut="B").state_dict(), tmp_path / "b.pt")
    options = ("--mean", 0.5, 0.5, 0.5, "--std", 0.25, 0.25, 0.25)

    def lines(file, *more):
        output = tmp_path / f"{file}{len(more)}"
        code, out, _ = cli(
            "import", tmp_path / file, "--model", "resnet8", "--output", output, *options, *more
        )
        assert code == 0
        return [line for line in out.splitlines() if "zeros" in line]

    (line,) = lines("theirs.pt")
    assert "both sides" in line
    assert "--zeros last" in line
    (line,) = lines("other.pt")
    assert "after the other channels" in line
    assert "--zeros both" in line
    assert lines("b.pt") == lines("theirs.pt", "--zeros", "last") == []


@pytest.mark.parametrize(
    "options", [{"mean": (125, 122, 113)}, {"std": (63, 62, 66)}, {"mean": (-0.1, 0, 0)}]
)
def test_a_normalisation_on_another_scale_is_refused(tmp_path, options):
    torch.save(residual.create_model("resnet8").state_dict(), tmp_path / "file.pt")
    with pytest.raises(UsageError, match="by 255"):
        residual.import_checkpoint(
            tmp_path / "file.pt", model="resnet8", output=tmp_path / "model", **{**HALF, **options}
        )
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("key", ["conv1.weight", "bn1.running_mean", "layer2.0.bn1.running_var", "fc.bias"])
@pytest.mark.parametrize("wrong", [float("nan"), float("-inf"), 1e300])
def test_values_that_are_not_finite_are_refused(tmp_path, key, wrong):
    state = {k: v.double() for k, v in residual.create_model("resnet8").state_dict().items()}
    state[key].view(-1)[-1] = wrong  # 1e300 is finite in the file, but not in float32
    torch.save(state, tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match=f"not finite.*{key}"):
        residual.import_checkpoint(tmp_path / "file.pt", model="resnet8", output=tmp_path / "model", **HALF)
    assert not (tmp_path / "model").exists()


def test_the_next_line_works(tmp_path, cli, fake_cifar10):
    fake_cifar10.put_folder(tmp_path / "data")
    for classes in (10, 7):
        state = residual.create_model("resnet8", num_classes=classes).state_dict()
        torch.save(state, tmp_path / f"{classes}.pt")
        options = ("--mean", 0.5, 0.5, 0.5, "--std", 0.25, 0.25, 0.25)
        output = tmp_path / f"model{classes}"
        _, out, _ = cli(
            "import", tmp_path / f"{classes}.pt", "--model", "resnet8", "--output", output, *options
        )
        last = out.splitlines()[-1]
        if classes == 10:
            assert last.startswith("next: ")
            arguments = last[last.index("evaluate") :].split()
            assert cli(*arguments, "--data-dir", tmp_path / "data")[0] == 0
        else:
            assert "no known data set has 7 classes" in last
            code, _, err = cli("evaluate", output)
            assert code == 2
            assert "--data" in err
            assert "which is not a known data set" in err
