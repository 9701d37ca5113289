"""Photographs in the layouts in which people keep them, as a `PhotoDataset`."""

from pathlib import Path

import torch

from .photos import OnBadImage, PhotoDataset, Photos

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".mpo")


def load_folder(root: str | Path, *, on_bad_image: OnBadImage = "stop") -> PhotoDataset:
    """Load a folder with `train/` and `val/`, each with a folder for each class."""
    root = Path(root)
    names = tuple(sorted(path.name for path in (root / "train").iterdir() if path.is_dir()))
    train, test = (_split(root / part, names, on_bad_image) for part in ("train", "val"))
    return PhotoDataset(root.resolve().name, train, test, names)


def load_photos(root: str | Path, *, on_bad_image: OnBadImage = "stop") -> Photos:
    """Load one set of photographs to evaluate on: a folder with a folder for each class."""
    root = Path(root)
    return _split(root, tuple(sorted(path.name for path in root.iterdir() if path.is_dir())), on_bad_image)


def _split(root: Path, names: tuple[str, ...], on_bad_image: OnBadImage) -> Photos:
    found = [
        (path.relative_to(root).as_posix(), label)
        for label, name in enumerate(names)
        for path in sorted((root / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    labels = torch.tensor([label for _, label in found], dtype=torch.int64)
    return Photos(root, [file for file, _ in found], labels, names, on_bad_image)
