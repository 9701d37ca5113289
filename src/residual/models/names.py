"""Names of networks, such as `resnet20`, `plain56`, `resnet50`, `vgg19_bn`; does not load torch."""

import difflib
import re
from dataclasses import dataclass
from fnmatch import fnmatch

from ..errors import UsageError

SHORTCUTS = ("A", "B", "C")  # section 3.3
VARIANTS = ("v1", "v1.5")  # a bottleneck's stride on its first 1x1 convolution, or on its 3x3
# Section 4.2 and Table 6; the bottleneck net is the 9n+2 one with n = 5.
CIFAR_NETWORKS = (
    *(f"plain{depth}" for depth in (20, 32, 44, 56, 110)),
    *(f"resnet{depth}" for depth in (20, 32, 44, 56, 110, 1202)),
    "resnet47_bottleneck",
)
IMAGENET_DEPTHS = (18, 34, 50, 101, 152)  # Table 1; bottlenecks from 50 layers on
IMAGENET_NETWORKS = (
    *("plain18", "plain34"),
    *(f"resnet{depth}" for depth in IMAGENET_DEPTHS),
    *("vgg19", "vgg19_bn"),
)
PAPER_NETWORKS = CIFAR_NETWORKS + IMAGENET_NETWORKS
MAX_LAYERS = 2000  # far beyond the paper's 1202, and still built in seconds
MAX_CLASSES = 100_000  # both are limits because a name or a corrupted file may ask for anything


@dataclass(frozen=True)
class NetworkName:
    """A parsed network name: its family, its number of weighted layers, its kind of block, its data."""

    family: str  # "resnet", "plain" or "vgg"
    layers: int
    bottleneck: bool
    imagenet: bool = False  # a network of Table 1 or Figure 3, not of section 4.2
    bn: bool = True

    @property
    def layers_per_block(self) -> int:
        """Weighted layers added by one more block in each of the three stages of a CIFAR network."""
        return 9 if self.bottleneck else 6

    @property
    def blocks_per_stage(self) -> int:
        """The paper's n, for a CIFAR network."""
        return (self.layers - 2) // self.layers_per_block

    def __str__(self) -> str:
        suffix = "_bn" if self.family == "vgg" and self.bn else ""
        if self.bottleneck and not self.imagenet:
            suffix = "_bottleneck"
        return f"{self.family}{self.layers}{suffix}"


def parse_name(name: str) -> NetworkName:
    """Parse a network's name. `resnet50` and `resnet152` are the ImageNet networks, though 6n+2 fits too.

    Raises:
        UsageError: there is no such network; the message gives the nearest names.
    """
    if name in IMAGENET_NETWORKS:
        return _imagenet_network(name)
    match = re.fullmatch(r"(resnet|plain)([1-9][0-9]{0,4})(_bottleneck)?", name)
    if match is None or (match[1] == "plain" and match[3]):
        near = difflib.get_close_matches(name, PAPER_NETWORKS, n=2) or ["resnet20", "plain20"]
        raise UsageError(f"unknown network '{_shown(name)}': {_NAMES}; nearest: {', '.join(near)}")
    parsed = NetworkName(match[1], int(match[2]), match[3] is not None)
    if parsed.layers > MAX_LAYERS:
        raise UsageError(f"'{_shown(name)}' has more than {MAX_LAYERS:,} layers: choose a depth up to that")
    taken = parsed.layers in IMAGENET_DEPTHS and not parsed.bottleneck
    if taken or not _fits(parsed):
        raise UsageError(f"no network '{_shown(name)}': {_NAMES}; nearest: {', '.join(_nearest(parsed))}")
    return parsed


def _shown(name: str) -> str:
    """Show a name that a file holds, which may be of any length."""
    return " ".join(name[:80].split())


_NAMES = (
    "the networks are resnet{6n+2}, plain{6n+2} and resnet{9n+2}_bottleneck for CIFAR, and for ImageNet "
    "resnet18, 34, 50, 101, 152, plain18, plain34, vgg19 and vgg19_bn"
)


def _imagenet_network(name: str) -> NetworkName:
    family, depth = re.findall(r"[a-z]+|[0-9]+", name)[:2]
    layers = int(depth)
    bottleneck = family == "resnet" and layers >= 50
    return NetworkName(family, layers, bottleneck, imagenet=True, bn=name != "vgg19")


def _fits(name: NetworkName) -> bool:
    return name.blocks_per_stage > 0 and (name.layers - 2) % name.layers_per_block == 0


def _nearest(wrong: NetworkName) -> list[str]:
    """Return the valid names next to a depth that is not one: CIFAR networks, then ImageNet networks."""
    unit = wrong.layers_per_block
    depths = (unit * n + 2 for n in range(1, max(2, wrong.layers // unit + 3)))
    valid = [depth for depth in depths if wrong.bottleneck or depth not in IMAGENET_DEPTHS]
    two = sorted(sorted(valid, key=lambda depth: abs(depth - wrong.layers))[:2])
    names = [NetworkName(wrong.family, depth, wrong.bottleneck) for depth in two]
    other = NetworkName("resnet", wrong.layers, bottleneck=True)
    near = [depth for depth in IMAGENET_DEPTHS if abs(depth - wrong.layers) < unit and not wrong.bottleneck]
    imagenet = [f"resnet{depth} (ImageNet)" for depth in near]
    return [str(name) for name in ([other] if _fits(other) else []) + names] + imagenet


def resolve_shortcut(name: str, shortcut: str | None) -> str | None:
    """Return the shortcut option that is used; None for plain networks and VGG.

    The default is the paper's: A on CIFAR, B on ImageNet (sections 4.2 and 4.1).

    Raises:
        UsageError: there is no such option or network, or the network has no shortcuts.
    """
    if shortcut is not None and shortcut not in SHORTCUTS:
        raise UsageError(
            f"unknown shortcut option '{_shown(shortcut)}': the options are {', '.join(SHORTCUTS)}"
        )
    parsed = parse_name(name)
    if parsed.family == "resnet":
        return shortcut or ("B" if parsed.imagenet else "A")
    if shortcut is not None:
        raise UsageError(f"'{_shown(name)}' is a plain network: it has no shortcuts, so it takes no option")
    return None


def resolve_variant(name: str, variant: str | None) -> str | None:
    """Return where an ImageNet bottleneck network has its strides: "v1" or "v1.5"; None for other networks.

    In v1, as the authors released their models, the first 1x1 convolution of a block has the stride; in
    v1.5, the default and the choice of most later implementations, the 3x3 convolution.

    Raises:
        UsageError: there is no such variant or network, or the network has no variants.
    """
    if variant is not None and variant not in VARIANTS:
        raise UsageError(f"unknown variant '{_shown(variant)}': the variants are {', '.join(VARIANTS)}")
    parsed = parse_name(name)
    if parsed.imagenet and parsed.bottleneck:
        return variant or "v1.5"
    if variant is not None:
        raise UsageError(f"'{name}' has no variants: only resnet50, resnet101 and resnet152 have")
    return None


def default_classes(name: str) -> int:
    """Return the number of classes of the data set that a network was designed for: 1,000 or 10."""
    return 1000 if parse_name(name).imagenet else 10


def default_size(name: str) -> int:
    """Return the height and width in pixels of the images that a network was designed for: 224 or 32."""
    return 224 if parse_name(name).imagenet else 32


def for_small_images(name: str) -> list[str]:
    """Return the CIFAR networks nearest in depth to an ImageNet network; plain ones for VGG."""
    parsed = parse_name(name)
    family = "plain" if parsed.family == "vgg" else parsed.family
    return _nearest(NetworkName(family, parsed.layers, bottleneck=False))[:2]


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the paper's networks that match a shell pattern, such as "plain*"."""
    return [name for name in PAPER_NETWORKS if fnmatch(name, pattern)]
