"""Files that carry code, lead elsewhere or ask for all memory: refused; nothing runs, nothing is outside."""

import io
import json
import pickle
import random
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from faults import record
from readers import Reader, readers
from residual.data.archive import extract
from residual.data.shards.index import HEAD
from residual.errors import DataError
from test_archive import FOLDER, GOOD, HOSTILE, everything, member, pack

pytestmark = pytest.mark.faults
CALLS = {  # the name of a function and its argument, as pickles have them
    "os.mkdir": "cposix\nmkdir\n(V{trace}\ntR",
    "system": "cposix\nsystem\n(Vmkdir {trace}\ntR",
    "exec": "cbuiltins\nexec\n(Vimport os; os.mkdir('{trace}')\ntR",
    "eval": "cbuiltins\neval\n(V__import__('os').mkdir('{trace}')\ntR",
    "instance": "(V{trace}\niposix\nmkdir\n",
    "object": "(cposix\nmkdir\nV{trace}\no",
    "getattr": "cbuiltins\ngetattr\n(cbuiltins\n__import__\n(Vos\ntRVmkdir\ntR(V{trace}\ntR",
    "through torch": "ctorch._utils\n_import_dotted_name\n(Vos.mkdir\ntR(V{trace}\ntR",
    "through numpy": "cnumpy.f2py.capi_maps\ngetinit\n(V__import__('os').mkdir('{trace}')\ntR",
    "through codecs": "c_codecs\nencode\n(cposix\nmkdir\n(V{trace}\ntRVlatin1\ntR",
}


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readers")


def pickles(trace: Path) -> dict[str, bytes]:
    """Pickles that make a folder: alone, in a dictionary, as its key, and in every protocol."""
    found = {}
    for name, call in CALLS.items():
        code = call.format(trace=trace).encode()
        found[name] = code + b"."
        found[f"{name} in a dictionary"] = b"(dVnetwork\n" + code + b"s."
        found[f"{name} as a key"] = b"(d" + code + b"I1\ns."
        found[f"{name} in protocol 2"] = b"\x80\x02}X\x01\x00\x00\x00a" + code + b"s."
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        found[f"protocol {protocol}"] = pickle.dumps({b"data": Evil(trace)}, protocol)
    return found


class Evil:
    """Unpickled, it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (str(self.trace),)


def wrapped(code: bytes) -> dict[str, bytes]:
    """Put a pickle where the formats have one: alone, in a file of torch, in arrays of NumPy."""
    saved, zipped = io.BytesIO(), io.BytesIO()
    torch.save({"w": torch.zeros(2)}, saved)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(zipped, "w") as new:
        for name in old.namelist():
            new.writestr(name, code if name.endswith("data.pkl") else old.read(name))
    legacy = io.BytesIO()
    torch.save({"w": torch.zeros(2)}, legacy, _use_new_zipfile_serialization=False)
    header = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    npy, npz = array.getvalue() + code, io.BytesIO()
    with zipfile.ZipFile(npz, "w") as file:
        for name in ("train_shards", "text", "ends", "sizes", "times", "keys", "hashes", "copies"):
            file.writestr(f"{name}.npy", npy)
    return {
        "alone": code,
        "torch": zipped.getvalue(),
        "legacy torch": header + code,
        "npy": npy,
        "npz": npz.getvalue(),
    }


CARRIERS = {
    **dict.fromkeys(
        ("checkpoint with its digest", "foreign weights w.pth"), ("alone", "torch", "legacy torch")
    ),
    **dict.fromkeys(("foreign weights w.safetensors", "model weights"), ("alone", "torch")),
    **dict.fromkeys(("pickled batch", "pickled names"), ("alone",)),
    **dict.fromkeys(
        ("arrays of shards", "index of a folder", "hashes of photographs"), ("npz", "npy", "alone")
    ),
    **dict.fromkeys(("decoded photographs: ends.npy", "decoded photographs: sizes.npy"), ("npy", "alone")),
    **dict.fromkeys(
        ("recipe.json", "model config", "metrics.jsonl", "image PNG", "meta.mat of ILSVRC"), ("alone",)
    ),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_any_file_is_not_run(scratch, tmp_path):
    trace, tries = tmp_path / "trace", 0
    payloads = pickles(trace)
    for kind, forms in CARRIERS.items():
        reader: Reader = readers(scratch)[kind]
        folder = tmp_path / kind.replace(" ", "-").replace(":", "")
        reader.prepare(folder)
        for code in payloads.values():
            content = wrapped(code)
            for form in forms:
                assert reader.check(folder, content[form]) or reader.silent, (kind, form)
                assert not trace.exists(), (kind, form, code)
                tries += 1
    for name in ("os.mkdir", "exec", "object", "protocol 2"):  # they do run where they are not refused
        pickle.loads(payloads[name])
        trace.rmdir()
    record(
        6,
        "code in checkpoints, weights, batches, arrays and texts",
        tries,
        "refused by name, nothing was run",
    )


def test_archives_that_lead_elsewhere_write_nothing(tmp_path):
    draw, tries = random.Random(0), 400
    destination = tmp_path / "destination"
    destination.mkdir()
    for number in range(tries):
        kind = sorted(HOSTILE)[number % len(HOSTILE)]
        members = [member(f"{FOLDER}/{name}.bin") for name in range(draw.randrange(4))] + [member(GOOD[0])]
        members.insert(draw.randrange(len(members) + 1), HOSTILE[kind])
        path = pack(tmp_path / "evil.tar", members, draw.choice(("w", "w:gz", "w:bz2", "w:xz")))
        before = everything(tmp_path)
        with pytest.raises(DataError, match=r"evil\.tar holds '.*evil'.*refused"):
            extract(path, FOLDER, destination)
        assert everything(tmp_path) == before, kind
    assert not Path("/tmp/evil").exists()
    record(
        6, "an archive with a path outside, a link or a device", tries, "refused by name, nothing was written"
    )


PLACES = (
    "../x",
    "../../x.tar",
    "/etc/passwd",
    "a/../../x.tar",
    "..",
    "~/x.tar",
    "x\\..\\y.tar",
    "C:\\x.tar",
    "file:///x",
)


def test_names_that_lead_elsewhere_are_refused_or_only_names(scratch, tmp_path):
    tries = 0
    shards = readers(scratch)["index of shards"]
    shards.prepare(tmp_path / "shards")
    recipe, config = (readers(scratch)[kind] for kind in ("recipe.json", "model config"))
    for reader in (recipe, config):
        reader.prepare(tmp_path / reader.name)
    for place in PLACES:
        head = json.loads(shards.files[HEAD])
        head["shards"][0]["name"] = place
        assert shards.check(tmp_path / "shards", json.dumps(head).encode())
        for reader in (recipe, config):
            values = json.loads(reader.valid)
            for key in sorted(values):
                changed = json.dumps({**values, key: place}).encode()
                reader.check(tmp_path / reader.name, changed)  # which looks that nothing is left
                tries += 1
        tries += 1
    record(
        6,
        "paths elsewhere in recipes, configs and indexes of shards",
        tries,
        "refused, or names that nothing opens",
    )


def test_links_in_a_tar_of_shards_and_in_place_of_files(scratch, tmp_path):
    tries = 0
    reader = readers(scratch)["tar file of others"]
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        for target in ("/etc/passwd", "../../x", "0.jpg", "/dev/zero"):
            buffer = io.BytesIO(reader.valid)
            with tarfile.open(fileobj=buffer, mode="a") as tar:
                link = tarfile.TarInfo("7.jpg")
                link.type, link.linkname = kind, target
                tar.addfile(link)
            folder = tmp_path / f"tar-{tries}"
            reader.prepare(folder)
            reader.check(folder, buffer.getvalue())
            tries += 1
    for name, reader in readers(scratch).items():
        for target in ("/dev/zero", "/dev/null", str(tmp_path), "/nowhere"):
            folder = tmp_path / f"link-{tries}"
            reader.prepare(folder)
            path = folder / reader.spoiled
            path.unlink()
            path.symlink_to(target)
            fault = reader.outcome(folder)
            assert fault is None or reader.silent or any(each in fault for each in reader.names), (
                name,
                fault,
            )
            tries += 1
    record(
        6,
        "links to devices, folders and nowhere in place of files",
        tries,
        "refused by name, never read without end",
    )


HOSTILE_CONFIGS = """
import json, resource, sys
from pathlib import Path
import numpy as np
import residual
from residual.data.decode import decode
from residual.data.folder import load_folder
from residual.errors import ResidualError
from residual.recipes.schema import load_recipe
from residual.zoo.convert.importing import load_foreign
from residual.zoo.convert.source import Options
from residual.zoo.model_folder import load_model

folder = Path(sys.argv[1])
config = json.loads((folder / "config.json").read_text())
cases = {}
for name in ("resnet99998", "plain99998", "resnet2006", "resnet99998_bottleneck", "resnet" + "9" * 30):
    cases[name] = lambda name=name: residual.create_model(name)
    cases["recipe " + name] = lambda name=name: (
        (folder / "r.json").write_text(json.dumps({"network": name})), load_recipe(folder / "r.json"))
    cases["config " + name] = lambda name=name: with_config(network=name)
for count in (100_001, 10**6, 10**9, 10**18):
    cases[f"{count} classes"] = lambda count=count: residual.create_model("resnet152", num_classes=count)
    cases[f"{count} channels"] = lambda count=count: residual.create_model("resnet152", in_channels=count)
for count in (100_001, 10**6):
    cases[f"config of {count} classes"] = lambda count=count: with_config(class_names=["a"] * count)
sizes = config["preprocessing"]
for size in (10**5, 10**9, 10**18):
    cases[f"image of {size}"] = lambda size=size: with_config(
        preprocessing={**sizes, "image_size": [size, size]})
    cases[f"recipe of {size}"] = lambda size=size: (
        (folder / "r.json").write_text(json.dumps({"image_size": size})), load_recipe(folder / "r.json"))
for claim in (2**40, 2**62):
    def weights(claim=claim):
        tensor = {"dtype": "F32", "shape": [claim], "data_offsets": [0, 4 * claim]}
        head = json.dumps({"fc.weight": tensor}).encode()
        (folder / "w.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(64))
        load_foreign(folder / "w.safetensors", Options())
    cases[f"weights of {claim}"] = weights
for width, height in ((60_000, 60_000), (2**31 - 1, 2**31 - 1)):
    def picture(width=width, height=height):
        head = b"BM" + bytes(8) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
        head += width.to_bytes(4, "little") + height.to_bytes(4, "little") + b"\\1\\0\\x18\\0" + bytes(24)
        (folder / "x.bmp").write_bytes(head)
        decode(folder / "x.bmp")
    cases[f"picture of {width}"] = picture

def with_config(**changes):
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    load_model(folder)

residual.create_model("resnet8")
load_model(folder)
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) << 10
resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000,) * 2)
for name, case in cases.items():
    try:
        case()
        print(json.dumps([name, None]))
    except ResidualError as error:
        print(json.dumps([name, str(error)]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux")
def test_configs_that_ask_for_all_memory_are_refused_before_it_is_taken(scratch, tmp_path):
    readers(scratch)["model config"].prepare(tmp_path)
    command = [sys.executable, "-c", HOSTILE_CONFIGS, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr  # MemoryError would end it
    found = dict(map(json.loads, done.stdout.splitlines()))
    assert len(found) > 30
    for name, message in found.items():
        assert message is not None, name
        words = (
            "layers",
            "no network",
            "unknown network",
            "at most",
            "image_size",
            "truncated or corrupted",
            "million pixels",
            "missing",
        )
        assert any(word in message for word in words), (name, message)
        assert "MemoryError" not in message, (name, message)
        assert "allocate" not in message, (name, message)
    record(
        14,
        "hostile configs under a limit of 200 MB more",
        len(found),
        "refused by their values, before memory is taken",
    )
