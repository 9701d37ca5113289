"""Other projects' checkpoints: the same function after import, on made-up weights and on published ones."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import residual
from residual.errors import UsageError
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
    [("resnet20-12fca82f.th", "resnet20", 8.27), ("resnet44-014dd654.th", "resnet44", 6.90)],
)
def test_published_checkpoints_score_what_they_are_known_to_score(
    tmp_path, akamaster, cifar10_root, file, name, error
):
    residual.import_checkpoint(akamaster / file, model=name, output=tmp_path / "model")
    found = residual.evaluate(tmp_path / "model", data_dir=cifar10_root)
    assert found.images == 10_000
    assert found.error == pytest.approx(error, abs=0.005)
