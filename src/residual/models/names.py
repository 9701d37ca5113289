"""Names of networks, such as `resnet20`, `plain56`, `resnet47_bottleneck`; does not load torch."""

import difflib
import re
from dataclasses import dataclass
from fnmatch import fnmatch

from ..errors import UsageError

SHORTCUTS = ("A", "B", "C")  # section 3.3
# Section 4.2 and Table 6; the bottleneck net is the 9n+2 one with n = 5.
PAPER_NETWORKS = (
    *(f"plain{depth}" for depth in (20, 32, 44, 56, 110)),
    *(f"resnet{depth}" for depth in (20, 32, 44, 56, 110, 1202)),
    "resnet47_bottleneck",
)
IMAGENET_DEPTHS = (18, 34, 50, 101, 152)
MAX_LAYERS = 2000  # far beyond the paper's 1202, and still built in seconds
MAX_CLASSES = 100_000  # both are limits because a name or a corrupted file may ask for anything


@dataclass(frozen=True)
class NetworkName:
    """A parsed network name: its family, its number of weighted layers and its kind of block."""

    family: str
    layers: int
    bottleneck: bool

    @property
    def layers_per_block(self) -> int:
        """Weighted layers added by one more block in each of the three stages."""
        return 9 if self.bottleneck else 6

    @property
    def blocks_per_stage(self) -> int:
        """The paper's n."""
        return (self.layers - 2) // self.layers_per_block

    def __str__(self) -> str:
        return f"{self.family}{self.layers}{'_bottleneck' if self.bottleneck else ''}"


def parse_name(name: str) -> NetworkName:
    """Parse a network's name.

    Raises:
        UsageError: there is no such network; the message gives the nearest names.
    """
    match = re.fullmatch(r"(resnet|plain)([1-9][0-9]{0,4})(_bottleneck)?", name)
    if match is None or (match[1] == "plain" and match[3]):
        near = difflib.get_close_matches(name, PAPER_NETWORKS, n=2) or ["resnet20", "plain20"]
        raise UsageError(f"unknown network '{name}': {_NAMES}; nearest: {', '.join(near)}")
    parsed = NetworkName(match[1], int(match[2]), match[3] is not None)
    if parsed.layers > MAX_LAYERS:
        raise UsageError(f"'{name}' has more than {MAX_LAYERS:,} layers: choose a depth up to that")
    near = _nearest(parsed)
    if parsed.layers in IMAGENET_DEPTHS and not parsed.bottleneck:
        raise UsageError(
            f"'{name}' is reserved for the paper's ImageNet networks, which are not available yet; "
            f"{_NAMES}; nearest: {', '.join(near)}"
        )
    if not _fits(parsed):
        raise UsageError(f"no network '{name}': {_NAMES}; nearest: {', '.join(near)}")
    return parsed


_NAMES = "the networks are resnet{6n+2}, plain{6n+2} and resnet{9n+2}_bottleneck"


def _fits(name: NetworkName) -> bool:
    return name.blocks_per_stage > 0 and (name.layers - 2) % name.layers_per_block == 0


def _nearest(wrong: NetworkName) -> list[str]:
    """Return the valid names next to a depth that is not one, and the bottleneck network of that depth."""
    unit = wrong.layers_per_block
    depths = (unit * n + 2 for n in range(1, max(2, wrong.layers // unit + 3)))
    valid = [depth for depth in depths if wrong.bottleneck or depth not in IMAGENET_DEPTHS]
    two = sorted(sorted(valid, key=lambda depth: abs(depth - wrong.layers))[:2])
    names = [NetworkName(wrong.family, depth, wrong.bottleneck) for depth in two]
    other = NetworkName("resnet", wrong.layers, bottleneck=True)
    return [str(name) for name in ([other] if _fits(other) else []) + names]


def resolve_shortcut(name: str, shortcut: str | None) -> str | None:
    """Return the shortcut option that is used: A by default, None for plain networks."""
    if shortcut is not None and shortcut not in SHORTCUTS:
        raise UsageError(f"unknown shortcut option '{shortcut}': the options are {', '.join(SHORTCUTS)}")
    if parse_name(name).family == "plain":
        if shortcut is not None:
            raise UsageError(f"'{name}' is a plain network: it has no shortcuts, so it takes no option")
        return None
    return shortcut or "A"


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the paper's networks that match a shell pattern, such as "plain*"."""
    return [name for name in PAPER_NETWORKS if fnmatch(name, pattern)]
