"""Memory that a process may still take: the device's, or the computer's within a container's limit."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
# of the two versions of Linux's control groups: the limit, what is used, and what of that can be dropped
FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process can still take, of a GPU or of the computer."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return min(int(psutil.virtual_memory().available), *group_room())


def group_room(own: Path = OWN_GROUPS, groups: Path = GROUPS) -> Iterator[int]:
    """Yield how many bytes each control group that this process is in has left; none without a limit.

    Args:
        own: the file that names this process's groups.
        groups: where their folders are. A container may see its own group as the topmost one.
    """
    for folder in _folders(own, groups):
        for limit, used, droppable in FILES:
            try:
                most = int((folder / limit).read_text())
                taken = int((folder / used).read_text())
                lines = (folder / "memory.stat").read_text().splitlines()
            except (OSError, ValueError):  # no such file, or the limit is "max"
                continue
            counts = dict(line.split(maxsplit=1) for line in lines)
            yield max(0, most - taken + int(counts.get(droppable, 0)))


def _folders(own: Path, groups: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups and of those above, whose limits count too."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", maxsplit=2)
        if controllers in ("", "memory"):
            top = groups / controllers
            path = top / name.strip("/")
            yield path
            yield from (above for above in path.parents if above.is_relative_to(top))
