"""Every file that the program reads, with its reader: for tests that put spoiled content in its place."""

import contextlib
import gzip
import hashlib
import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

import residual
from conftest import _fake
from residual.data import cifar, decoded, hashes, index, python_release
from residual.data.archive import extract
from residual.data.decode import decode, image_size
from residual.data.folder import load_folder
from residual.data.ilsvrc import flat_rows
from residual.data.photo_list import read_list
from residual.data.photos import Photos
from residual.data.region import whole
from residual.data.scan import scan
from residual.data.shards.foreign import index_shards
from residual.data.shards.index import HEAD, SAMPLES, read_index
from residual.data.shards.store import open_store
from residual.data.shards.write import write_shards
from residual.errors import ResidualError
from residual.recipes.schema import load_recipe
from residual.reproduce.results import load_results
from residual.runtime.progress import Reporter
from residual.training.checkpoint import load_checkpoint, save_checkpoint
from residual.training.loggers.tracker import Tracker
from residual.training.run_folder import Run
from residual.training.run_list import list_runs
from residual.zoo.convert.importing import load_foreign
from residual.zoo.convert.source import Options
from residual.zoo.facts import model_facts
from residual.zoo.model_folder import load_model
from small_models import small_model

Files = Mapping[str, bytes]
IMAGES = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "BMP": "bmp",
    "TIFF": "tif",
    "GIF": "gif",
    "PPM": "ppm",
}


@dataclass(frozen=True)
class Reader:
    """What reads a file in a folder.

    Args:
        name: the kind of file.
        files: the valid content of all files of the folder.
        spoiled: which of them is replaced.
        read: reads it, given the folder.
        forge: makes digests fit after a file was replaced, which whoever means harm can do too.
        clean: removes what reading left.
        silent: a file that does not fit is as one that is missing, so that no error names it.
        stub: the valid files are refused too, in the end, since weights that fit would be too large.
    """

    name: str
    files: Files
    spoiled: str
    read: Callable[[Path], object]
    forge: Callable[[Path], None] = lambda _: None
    clean: Callable[[Path], None] = lambda _: None
    silent: bool = False
    stub: bool = False

    @property
    def names(self) -> set[str]:
        """The names of files, or of the folder that is read as a whole, one of which an error must hold."""
        parts = {part for name in self.files for part in Path(name).parts}
        return {part for part in parts if "." in part or part.endswith("-folder") or part in self.files}

    @property
    def valid(self) -> bytes:
        """The valid content of the file that is replaced."""
        return self.files[self.spoiled]

    def prepare(self, folder: Path) -> None:
        """Write the valid files."""
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    def fault(self, folder: Path, content: bytes) -> str | None:
        """Read the folder with this content in place of the valid one, see `outcome`."""
        (folder / self.spoiled).write_bytes(content)
        self.forge(folder)
        return self.outcome(folder)

    def outcome(self, folder: Path) -> str | None:
        """Read the folder; return our error, if there is one. Whatever is no error of ours is passed on."""
        try:
            self.read(folder)
        except ResidualError as error:
            return str(error)
        finally:
            self.clean(folder)
        return None

    def check(self, folder: Path, content: bytes) -> bool:
        """Read spoiled content; tell whether it was refused, which must be by one line with a file's name."""
        before = set(folder.iterdir())
        fault = self.fault(folder, content)
        assert set(folder.iterdir()) == before, "something was left behind"
        if fault is None:
            return False
        assert not self.silent, fault
        assert len(fault.splitlines()) == 1, fault
        assert len(fault) < 3000, fault
        assert any(name in fault for name in self.names), fault
        return True


def _picture(number: int, kind: str = "JPEG", **options: Any) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def _content(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _tar(members: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _saved(values: Any, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(values, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


# a run


def _recipes() -> Iterator[Reader]:
    values = {"format": 2, **residual.get_recipe("demo", "resnet8").as_dict()}
    toml = "".join(
        f"\n[{key}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in value.items())
        for key, value in values.items()
        if isinstance(value, dict)
    )
    flat = "".join(
        f"{key} = {json.dumps(value)}\n"
        for key, value in values.items()
        if value is not None and not isinstance(value, dict)
    )
    yield Reader(
        "recipe.json", {"r.json": json.dumps(values).encode()}, "r.json", lambda f: load_recipe(f / "r.json")
    )
    yield Reader(
        "recipe.toml", {"r.toml": (flat + toml).encode()}, "r.toml", lambda f: load_recipe(f / "r.toml")
    )


def _runs(scratch: Path) -> Iterator[Reader]:
    began = {
        "date": "2026-01-01T00:00:00",
        "command": "residual train",
        "commit": None,
        "precision": "float32",
    }
    began |= {"hardware": {"device": "cpu", "threads": 1}, "versions": {"torch": "2.9"}, "dataset": "digits"}
    run = Run.create(scratch / "run", residual.get_recipe("demo", "resnet8"), began)
    for step in (1, 2):
        run.log({"step": step, "kind": "train", "error": 50.0, "loss": 0.5})
        run.log({"step": step, "kind": "validation", "error": 40.0})
    figures = dict.fromkeys(("error", "training_error", "seconds", "images_per_second"), 5.0)
    counts = {"seed": 0, "iterations": 2, "images": 100, "error_interval": [4.0, 6.0]}
    names = {"network": "resnet8", "data": "digits", "recipe": "demo"}
    run.write_result({**figures, **counts, **names, "validation_best": None})
    kept = ("recipe.json", "environment.json", "metrics.jsonl", "result.json")
    files = {f"run/{name}": (scratch / "run" / name).read_bytes() for name in kept}
    files["run/loggers.json"] = b'{"wandb": "abc", "mlflow": "def"}'
    unfinished = {name: content for name, content in files.items() if name != "run/result.json"}

    def read(folder: Path) -> None:
        list_runs(folder)  # which shows broken runs as such
        run = Run.open(folder / "run")
        run.metrics(), run.result, run.environment, run.own_network, run.how_to_resume

    for name in ("environment.json", "metrics.jsonl", "result.json"):
        yield Reader(name, files if name == "result.json" else unfinished, f"run/{name}", read)
    ids = lambda folder: Tracker(Run(folder / "run"), (), Reporter(False))._ids()  # noqa: E731
    yield Reader("loggers.json", files, "run/loggers.json", ids, silent=True)
    facts = lambda folder: model_facts(folder / "run")  # noqa: E731
    yield Reader("a model's figures", files, "run/result.json", facts, silent=True)


def _results() -> Iterator[Reader]:
    recipe = residual.get_recipe("demo", "resnet8").as_dict()
    files = {
        "results/figures.json": json.dumps(
            {"recipe": "demo", "recipe_in_full": recipe, "error": 5.0}
        ).encode()
    }
    yield Reader(
        "result file", files, "results/figures.json", lambda folder: load_results(folder / "results")
    )


def _checkpoints(scratch: Path) -> Iterator[Reader]:
    state = {"network": {"a": torch.ones(3, 4)}, "optimizer": {"state": {0: {"m": torch.ones(2)}}}, "step": 5}
    path = save_checkpoint(scratch / "checkpoints", "last", 5, state)
    files = _content(scratch / "checkpoints")

    def forge(folder: Path) -> None:
        digest = hashlib.sha256((folder / path.name).read_bytes()).hexdigest()
        (folder / f"{path.name}.sha256").write_text(digest)

    read = lambda folder: load_checkpoint(folder / path.name)  # noqa: E731
    yield Reader("checkpoint", files, path.name, read)
    yield Reader("checkpoint with its digest", files, path.name, read, forge)
    yield Reader("digest of a checkpoint", files, f"{path.name}.sha256", read)


# models


def _models(scratch: Path) -> Iterator[Reader]:
    files = {f"model/{name}": content for name, content in _content(small_model(scratch / "model")).items()}
    config = json.loads(files["model/config.json"])
    del config["weights_sha256"]
    undated = {**files, "model/config.json": json.dumps(config).encode()}
    read = lambda folder: load_model(folder / "model")  # noqa: E731
    yield Reader("model config", files, "model/config.json", read)
    yield Reader("model weights", undated, "model/model.safetensors", read)
    state = residual.create_model("resnet8").state_dict()
    options = Options(model="resnet8", mean=(0.5,) * 3, std=(0.2,) * 3)
    weights = {
        "w.pth": _saved({"state_dict": state, "epoch": 3}),
        "old.pth": _saved({"state_dict": state, "epoch": 3}, zipped=False),
        "w.safetensors": save(state),
    }
    for name, content in weights.items():
        foreign = lambda folder, name=name: load_foreign(folder / name, options)  # noqa: E731
        yield Reader(f"foreign weights {name}", {name: content}, name, foreign)
    yield from _hub_folders()


def _hub_folders() -> Iterator[Reader]:
    state = {"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.weight": torch.zeros(10, 512)}
    timm = {"architecture": "resnet18", "num_classes": 10, "label_names": list("abcdefghij")}
    timm["pretrained_cfg"] = {
        "input_size": [3, 224, 224],
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
        "crop_pct": 0.9,
    }
    theirs = {"embedder.embedder.convolution.weight": torch.zeros(64, 3, 7, 7)}
    config = {"model_type": "resnet", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]}
    config |= {"layer_type": "basic", "hidden_act": "relu", "id2label": {"0": "a", "1": "b"}}
    preprocessor = {
        "size": {"shortest_edge": 224},
        "crop_pct": 0.875,
        "image_mean": [0.5] * 3,
        "image_std": [0.2] * 3,
    }
    hugging = {
        "hub-folder/model.safetensors": save(theirs),
        "hub-folder/config.json": json.dumps(config).encode(),
        "hub-folder/preprocessor_config.json": json.dumps(preprocessor).encode(),
    }
    read = lambda folder: load_foreign(folder / "hub-folder", Options())  # noqa: E731
    yield Reader(
        "config of timm",
        {"hub-folder/model.safetensors": save(state), "hub-folder/config.json": json.dumps(timm).encode()},
        "hub-folder/config.json",
        read,
        stub=True,
    )
    yield Reader("config of transformers", hugging, "hub-folder/config.json", read, stub=True)
    place = "hub-folder/preprocessor_config.json"
    yield Reader("preprocessor of transformers", hugging, place, read, stub=True)


# images


def _images() -> Iterator[Reader]:
    def read(folder: Path, name: str) -> None:
        image_size(folder / name)
        decode(folder / name, whole)

    odd = {
        "progressive JPEG": ("p.jpg", _picture(1, progressive=True)),
        "JPEG in grey": ("g.jpg", _picture(1, quality=20, subsampling=2)),
        "PNG with a palette": ("q.png", _paletted()),
    }
    plain = {kind: (f"a.{suffix}", _picture(1, kind)) for kind, suffix in IMAGES.items()}
    for kind, (name, content) in {**plain, **odd}.items():
        yield Reader(f"image {kind}", {name: content}, name, partial(read, name=name))


def _paletted() -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(_picture(1))).quantize(8).save(buffer, "PNG", transparency=3)
    return buffer.getvalue()


# data sets


def _shards(scratch: Path) -> Iterator[Reader]:
    source = scratch / "photos"
    for number in range(12):
        folder = source / ("train" if number < 8 else "val") / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(_picture(number))
    write_shards(source, scratch / "shards", size=8000)
    files = _content(scratch / "shards")
    tar = next(name for name in files if name.endswith(".tar"))

    def forge(folder: Path) -> None:
        head = json.loads(files[HEAD])
        head["samples_sha256"] = hashlib.sha256((folder / SAMPLES).read_bytes()).hexdigest()
        (folder / HEAD).write_text(json.dumps(head))

    def read(folder: Path) -> None:
        photos = load_folder(folder).train
        for number in range(len(photos)):
            photos[number]

    yield Reader("index of shards", files, HEAD, lambda folder: read_index(open_store(folder)))
    yield Reader("arrays of shards", files, SAMPLES, lambda folder: read_index(open_store(folder)), forge)
    yield Reader("shard", files, tar, read)
    pairs = [(f"{n}.jpg", _picture(n)) for n in range(4)], [(f"{n}.cls", b"%d" % (n % 2)) for n in range(4)]
    members = {name: content for pair in zip(*pairs, strict=True) for name, content in pair}
    members |= {"9.jpg": _picture(9), "9.json": b'{"label": 1}'}
    theirs = {"tar-folder/t.tar": _tar(members), "names.txt": b"ant\nbee\n"}

    def index_them(folder: Path) -> None:
        index_shards(folder / "tar-folder", classes=folder / "names.txt")
        read_index(open_store(folder / "tar-folder"))

    def remove_index(folder: Path) -> None:
        for name in (HEAD, SAMPLES):
            (folder / "tar-folder" / name).unlink(missing_ok=True)

    yield Reader("tar file of others", theirs, "tar-folder/t.tar", index_them, clean=remove_index)
    yield Reader("class names of a tar file", theirs, "names.txt", index_them, clean=remove_index)


def _photo_lists() -> Iterator[Reader]:
    rows = [f"{number}.jpg,{'ab'[number % 2]},{('train', 'val')[number // 4]}" for number in range(6)]
    pictures = {f"{number}.jpg": _picture(number) for number in range(6)}
    files = {"list.csv": "\n".join(["path,label,split", *rows, ""]).encode(), **pictures}
    yield Reader("CSV list", files, "list.csv", lambda folder: read_list(folder / "list.csv", "split"))


def _kit() -> Iterator[Reader]:
    from scipy.io import savemat

    names = [f"n{number:08}" for number in (7, 3, 5)]
    images = {f"val/ILSVRC2012_val_{number:08}.JPEG": _picture(number) for number in range(1, 4)}
    truth, words = "ILSVRC2012_validation_ground_truth.txt", "synset_words.txt"
    files = {**images, truth: b"2\n1\n3\n", words: "".join(f"{name} a thing\n" for name in names).encode()}
    buffer = io.BytesIO()
    kinds = [("ILSVRC2012_ID", "i4"), ("WNID", "U9")]
    savemat(buffer, {"synsets": np.array([(n + 1, name) for n, name in enumerate(names)], kinds)})
    with_meta = {name: content for name, content in files.items() if name != words}

    def read(folder: Path) -> None:
        flat_rows(folder, scan(folder), "val/")

    yield Reader("ground truth of ILSVRC", files, truth, read)
    yield Reader("names of ILSVRC", files, words, read)
    yield Reader("meta.mat of ILSVRC", {**with_meta, "meta.mat": buffer.getvalue()}, "meta.mat", read)


def _cifar() -> Iterator[Reader]:
    names = "".join(f"thing_{label}\n" for label in range(100)).encode()
    fake = _fake(
        cifar.CIFAR100,
        {"train.bin": 6, "test.bin": 4},
        {cifar.CIFAR100.class_names_file: names},
        published=False,
    )
    release, folder = fake.release, fake.release.folder
    files = {f"{folder}/{name}": content for name, content in fake.files.items()}
    sums = {name: hashlib.md5(content).hexdigest() for name, content in fake.files.items()}
    files[f"{folder}/{cifar.MD5_FILE}"] = json.dumps(sums).encode()

    def forge(root: Path) -> None:
        (root / folder / cifar.MD5_FILE).unlink(missing_ok=True)

    read = lambda root: cifar.load(release, root)  # noqa: E731
    unsummed = {name: content for name, content in files.items() if not name.endswith(cifar.MD5_FILE)}
    yield Reader("binary records", unsummed, f"{folder}/train.bin", read)
    yield Reader("class names of CIFAR-100", unsummed, f"{folder}/{release.class_names_file}", read)
    yield Reader("recorded MD5 sums", files, f"{folder}/{cifar.MD5_FILE}", read)
    records = np.frombuffer(fake.files["train.bin"], np.uint8).reshape(-1, 2 + cifar.PIXELS)
    batch = {b"labels": records[:, 1].tolist(), b"data": records[:, 2:].copy()}
    pickled = {"batch": pickle.dumps(batch, 2), "meta": pickle.dumps({b"names": [b"a", b"b"]}, 2)}
    arguments = (len(records), cifar.PIXELS, ("labels",))
    yield Reader(
        "pickled batch", pickled, "batch", lambda f: python_release.read_batch(f / "batch", *arguments)
    )
    yield Reader("pickled names", pickled, "meta", lambda f: python_release.read_names(f / "meta", "names"))


def _archives() -> Iterator[Reader]:
    random = np.random.default_rng(0)
    members = {f"pictures/{name}": random.bytes(700) for name in ("a.bin", "inner/b.bin")}
    members[f"pictures/{'long' * 40}.bin"] = b"abc"  # a header of its own

    def read(folder: Path, name: str) -> None:
        (folder / "out").mkdir()
        extract(folder / name, "pictures", folder / "out")
        assert {path.name for path in (folder / "out").iterdir()} == {"pictures"}

    def clean(folder: Path) -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)

    tar = _tar(members)
    for name, content in {"p.tar": tar, "p.tar.gz": gzip.compress(tar)}.items():
        yield Reader(f"archive {name}", {name: content}, name, partial(read, name=name), clean=clean)


# what is kept in the user's cache: whatever does not fit is made anew


@contextlib.contextmanager
def _cache(folder: Path) -> Iterator[None]:
    with mock.patch.object(index, "index_folder", return_value=folder / "cache"):
        yield


def _caches(scratch: Path) -> Iterator[Reader]:
    photos = {f"photos/{number}.png": _picture(number, "PNG") for number in range(3)}
    for name, content in photos.items():
        (scratch / "kept" / name).parent.mkdir(parents=True, exist_ok=True)
        (scratch / "kept" / name).write_bytes(content)
    root = scratch / "kept" / "photos"
    listing = scan(root)
    with _cache(scratch / "kept"):
        index.check_index(root, listing)
        expected = hashes.make_prints(root, root, listing, [0, 1, 2])
        kept = {ending: index.kept_file(root, ending).read_bytes() for ending in (".npz", "-hashes.npz")}

    def read_listing(folder: Path) -> None:
        found = index._read(folder / "i.npz")
        if found is not None:
            list(found.paths)
            index._difference(root, found, listing)

    yield Reader("index of a folder", {"i.npz": kept[".npz"]}, "i.npz", read_listing, silent=True)

    def read_hashes(folder: Path) -> None:
        found = hashes._known(folder / "h.npz", hashes._keys(listing, [0, 1, 2]))
        assert found.hashes.shape == expected.hashes.shape
        assert found.sizes.shape == expected.sizes.shape

    yield Reader("hashes of photographs", {"h.npz": kept["-hashes.npz"]}, "h.npz", read_hashes, silent=True)
    small = Photos(root, [f"{n}.png" for n in range(3)], torch.arange(3), tuple("abc"))
    decoded.keep_decoded(small, 16, 10**6, scratch / "kept" / "decoded")
    folder = next(path for path in (scratch / "kept" / "decoded").iterdir() if path.is_dir())
    store = {f"store/{name}": content for name, content in _content(folder).items()}

    def read_store(folder: Path) -> None:
        found = decoded._Store(folder / "store")
        if found.is_whole(3):
            for number in range(3):
                found.image(number)
                assert str(found.bad.get(str(number)))

    for name in sorted(store):
        yield Reader(f"decoded photographs: {Path(name).name}", store, name, read_store, silent=True)


@cache
def readers(scratch: Path) -> dict[str, Reader]:
    """Return all readers by their names; their valid files are made in a folder."""
    made = [
        *_recipes(),
        *_runs(scratch),
        *_results(),
        *_checkpoints(scratch),
        *_models(scratch),
        *_images(),
        *_shards(scratch),
        *_photo_lists(),
        *_kit(),
        *_cifar(),
        *_archives(),
        *_caches(scratch),
    ]
    return {reader.name: reader for reader in made}
