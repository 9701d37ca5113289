"""Spoiled content in place of each file that the program reads: an error of ours with its name."""

import io
import json
import pickle
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import make_engine
from faults import record
from readers import Reader, readers
from residual.errors import CheckpointError
from residual.recipes.catalog import get_recipe

EXAMPLES = 2000  # for each reader
HANG = 60  # seconds
LIMIT = 3_000_000_000  # bytes that reading may add to the memory: an image of 178 million pixels takes most
GROUPS = {
    "recipes": ("recipe.json", "recipe.toml"),
    "files of a run": (
        *(
            "environment.json",
            "metrics.jsonl",
            "result.json",
            "loggers.json",
            "a model's figures",
            "result file",
        ),
    ),
    "checkpoints": ("checkpoint", "checkpoint with its digest", "digest of a checkpoint"),
    "model folders": ("model config", "model weights"),
    "weights of others": (
        "foreign weights w.pth",
        "foreign weights old.pth",
        "foreign weights w.safetensors",
    ),
    "configs of others": (*("config of timm", "config of transformers", "preprocessor of transformers"),),
    "images": (
        *(
            "image JPEG",
            "image progressive JPEG",
            "image JPEG in grey",
            "image PNG",
            "image PNG with a palette",
        ),
        *("image WEBP", "image BMP", "image TIFF", "image GIF", "image PPM"),
    ),
    "shards": (
        *("index of shards", "arrays of shards", "shard", "tar file of others", "class names of a tar file"),
    ),
    "lists": ("CSV list", "ground truth of ILSVRC", "names of ILSVRC", "meta.mat of ILSVRC"),
    "CIFAR": (
        *(
            "binary records",
            "class names of CIFAR-100",
            "recorded MD5 sums",
            "pickled batch",
            "pickled names",
        ),
    ),
    "archives": ("archive p.tar", "archive p.tar.gz"),
    "caches": (
        *("index of a folder", "hashes of photographs", "decoded photographs: bad.json"),
        *("decoded photographs: ends.npy", "decoded photographs: pixels", "decoded photographs: sizes.npy"),
    ),
}
ODD = (  # JSON that no file of ours holds in most places
    *(
        "null",
        "true",
        "-1",
        "0",
        "0.5",
        "1e999",
        "NaN",
        "1e-400",
        "9" * 400,
        "9" * 5000,
        str(2**63),
        str(2**64),
    ),
    *('""', '"\\ud800"', '"a\\nb"', '"\\u0000"', '"../x"', '"' + "x" * 5000 + '"', "[]", "{}", "[1, 2, 3]"),
    *(
        '{"a": 1}',
        "[" * 500 + "]" * 500,
        '{"a":' * 400 + "1" + "}" * 400,
        '[["a"]]',
        '"nan"',
        '"9" ',
        "[null]",
    ),
)
MARK = "\ue000"  # in place of which odd JSON is put
ARRAYS = (
    *(
        np.array([], np.int64),
        np.array(5),
        np.array([-1, -5]),
        np.array([2**62] * 3),
        np.zeros((2, 3), np.uint8),
    ),
    *(
        np.array([np.nan]),
        np.array(["a"]),
        np.zeros(3, bool),
        np.zeros(40, np.uint8),
        np.arange(3),
        np.arange(8),
    ),
    np.zeros(3, np.uint64),
)


def spoiled(valid: bytes, seed: int) -> bytes:
    """Random bytes, or valid ones that are changed in a few places, cut, or changed in their values."""
    draw = random.Random(seed)
    kind = draw.choice(("random", "bytes", "bytes", "bytes", "cut", "values", "values"))
    if kind == "random":
        return draw.randbytes(draw.choice((0, 1, 10, 300)))
    if kind == "cut":
        return valid[: draw.randint(0, len(valid))]
    if kind == "values" and valid[:1] == b"{":
        return _odd_json(draw, valid)
    if kind == "values" and valid[:2] == b"PK" and b".npy" in valid:
        return _odd_arrays(draw, valid)
    content = bytearray(valid)
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = _place(draw, len(content))
        how = draw.choice(("flip", "flip", "set", "insert", "delete", "splice"))
        if how == "flip" and at < len(content):
            content[at] ^= 1 << draw.randrange(8)
        elif how == "set":
            new = draw.choice((draw.randbytes(draw.randint(1, 20)), b"\xff" * 8, bytes(8), b"9" * 11))
            content[at : at + len(new)] = new
        elif how == "insert":
            content[at:at] = draw.randbytes(draw.randint(1, 20))
        elif how == "delete":
            del content[at : at + draw.randint(1, 100)]
        else:
            start = _place(draw, len(content))
            content[at : at + 50] = content[start : start + draw.randint(0, 300)]
    return bytes(content)


def _place(draw: random.Random, length: int) -> int:
    """Choose a place anywhere, or where headers are, or the directories of archives."""
    places = (0, length), (0, min(length, 600)), (max(0, length - 600), length)
    return draw.randint(*draw.choice(places))


def _odd_json(draw: random.Random, valid: bytes) -> bytes:
    """Replace values anywhere in JSON, or in its lines, or drop keys."""
    text = valid.decode()
    try:
        lines = [json.loads(text)]
    except ValueError:
        lines = [json.loads(line) for line in text.splitlines()]
    new = []
    for _ in range(draw.choice((1, 1, 2))):
        where, key = lines, draw.randrange(len(lines))
        while isinstance(where[key], dict | list) and where[key] and draw.randrange(5):
            where = where[key]
            key = draw.choice(list(where) if isinstance(where, dict) else range(len(where)))
        if isinstance(where, dict) and not draw.randrange(6):
            del where[key]
        else:
            where[key] = MARK
            new.append(draw.choice(ODD))
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n"
    for value in new:
        text = text.replace(f'"{MARK}"', value, 1)
    return text.encode()


def _odd_arrays(draw: random.Random, valid: bytes) -> bytes:
    """Replace arrays of an .npz file, or drop one."""
    with np.load(io.BytesIO(valid)) as file:
        arrays = dict(file)
    for _ in range(draw.randint(1, 2)):
        name = draw.choice(sorted(arrays))
        array = arrays[name]
        changed = array.copy()
        if changed.size:
            changed.flat[draw.randrange(changed.size)] = draw.randrange(256)
        arrays[name] = draw.choice((*ARRAYS, changed, array.reshape(-1)[:-1], array.reshape(-1)[::-1]))
    if not draw.randrange(5):
        del arrays[draw.choice(sorted(arrays))]
    buffer = io.BytesIO()
    draw.choice((np.savez_compressed, np.savez))(buffer, **arrays)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readers")


def peak() -> int:
    """Return the largest memory that this process has had, in bytes."""
    resource = pytest.importorskip("resource")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def spoil(reader: Reader, folder: Path, examples: int) -> int:
    """Read so much spoiled content; return how often it was refused."""
    reader.prepare(folder)
    assert reader.stub or reader.fault(folder, reader.valid) is None, "the valid file is read"
    reader.prepare(folder)
    refused = 0

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**62))
    def check(seed: int) -> None:
        nonlocal refused
        signal.alarm(HANG)
        refused += reader.check(folder, spoiled(reader.valid, seed))
        signal.alarm(0)

    check()
    return refused


def hang(*_: object) -> None:
    raise AssertionError(f"reading took more than {HANG} seconds")


@pytest.fixture
def watched() -> Iterator[None]:
    """Let reading that takes too long, or too much memory, fail the test."""
    handler, before = signal.signal(signal.SIGALRM, hang), peak()
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, handler)
    assert peak() - before < LIMIT


needs_alarm = pytest.mark.skipif(not hasattr(signal, "alarm"), reason="needs SIGALRM")


@pytest.mark.faults
@needs_alarm
@pytest.mark.parametrize("group", GROUPS)
def test_spoiled_content_is_refused_by_name_or_read(group, scratch, tmp_path, watched):
    tries, refused = 0, 0
    for kind in GROUPS[group]:
        reader, folder = readers(scratch)[kind], tmp_path / kind.replace(" ", "-")
        found = spoil(reader, folder, EXAMPLES)
        assert found or reader.silent, kind
        tries, refused = tries + EXAMPLES, refused + found
    said = (
        "made anew where they do not fit"
        if group == "caches"
        else f"{refused:,} refused by name, others read"
    )
    record(14, f"spoiled content: {group} ({len(GROUPS[group])} readers)", tries, said)


@pytest.mark.slow
@needs_alarm
def test_every_reader_meets_a_few_spoiled_files(scratch, tmp_path, watched):
    assert {kind for group in GROUPS.values() for kind in group} == set(readers(scratch))
    for number, reader in enumerate(readers(scratch).values()):
        spoil(reader, tmp_path / str(number), 3)


TENSORS = (torch.ones(2), torch.zeros(0), torch.ones(3, 3, 3, 3), torch.ones(16, 3, 3, 3, dtype=torch.int64))
LEAVES = (*(None, True, -1, 10**30, float("nan"), "x", [], {}, (), {"a": 1}), *TENSORS)


@pytest.mark.faults
@needs_alarm
def test_a_checkpoint_whose_values_are_odd_is_refused_or_taken(watched):
    changes = {"batch_size": 8, "ema.span": 0.5, "ema.every": 1}
    engine = make_engine(get_recipe("demo", "resnet8").replace(changes))
    for _ in range(2):
        engine.take_step()
    good = pickle.dumps(engine.state())
    counts = [0, 0]

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        where, state = None, pickle.loads(good)
        key, inner = None, state
        while isinstance(inner, dict | list) and inner and (where is None or data.draw(st.integers(0, 5))):
            keys = list(inner) if isinstance(inner, dict) else range(len(inner))
            where, key = inner, data.draw(st.sampled_from(keys))
            inner = where[key]
        if data.draw(st.integers(0, 5)):
            where[key] = data.draw(st.sampled_from(LEAVES))
        else:
            del where[key]
        signal.alarm(HANG)
        fault = None
        try:
            engine.restore(state, "last.pt")
        except CheckpointError as error:
            fault = str(error)
        signal.alarm(0)
        assert fault is None or ("last.pt" in fault and len(fault.splitlines()) == 1)
        counts[0] += fault is not None
        counts[1] += 1

    check()
    engine.restore(pickle.loads(good), "last.pt")
    record(
        14,
        "odd values in the state of a checkpoint",
        counts[1],
        f"{counts[0]:,} refused by name, others taken",
    )
