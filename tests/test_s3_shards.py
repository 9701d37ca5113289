"""Shards in S3, played by moto: the folder's batches, a run that goes on in mid-epoch, refusals by name."""

import pytest

import residual
from conftest import comparable
from residual.data.folder import load_folder
from residual.data.photos import SourceError
from residual.data.shards import store
from residual.data.shards.verify import verify_shards
from residual.data.shards.write import write_shards
from residual.errors import DataError, InterruptedRunError
from test_shards import batches
from test_train_photographs import small

fsspec = pytest.importorskip("fsspec")
pytestmark = pytest.mark.slow  # the libraries take seconds to import
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
AT = "s3://bucket/pets"


@pytest.fixture(scope="module")
def endpoint():
    """Run a server that plays S3."""
    pytest.importorskip("s3fs")
    running = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    running.start()
    yield "http://{}:{}".format(*running.get_host_and_port())
    running.stop()


@pytest.fixture(autouse=True)
def credentials(endpoint, tmp_path, monkeypatch):
    """Give credentials in the environment, and let the libraries look for none elsewhere."""
    for name in KEYS:
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setattr(store, "WAIT", 0.0)


@pytest.fixture
def files(photographs, tmp_path, credentials):
    """Put the shared photographs as shards into a bucket; give the file system."""
    write_shards(photographs, tmp_path / "out", size=60_000)
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    if not files.exists("bucket"):
        files.mkdir("bucket")
    for path in (tmp_path / "out").iterdir():
        files.pipe_file(f"bucket/pets/{path.name}", path.read_bytes())
    return files


@pytest.mark.parametrize(("workers", "order"), [(2, "shuffle"), (1, "blocks")])
def test_batches_are_those_of_the_folder(workers, order, photographs, files):
    found = batches(load_folder(AT).train, workers, order)
    assert found == batches(load_folder(photographs).train, 0, order)


def test_what_is_not_there_or_not_for_us_is_said_at_once(files, monkeypatch):
    def refused():
        with pytest.raises(SourceError) as caught:
            load_folder(AT).train.content(0)
        return str(caught.value)

    monkeypatch.setattr(store.time, "sleep", lambda _: pytest.fail("another try would not help"))
    files.rm("bucket/pets/train-000000.tar")
    assert refused() == f"cannot read {AT}/train-000000.tar at byte 512: it is not there"
    files.pipe_file("bucket/pets/train-000000.tar", b"short")
    assert f"{AT}/train-000000.tar at byte 512: " in refused()
    with pytest.raises(
        SourceError, match=r"cannot read s3://nowhere/pets/shards\.json: there is no such bucket"
    ):
        load_folder("s3://nowhere/pets")
    core = pytest.importorskip("moto.core")
    with_credentials_checked = core.set_initial_no_auth_action_count(0)
    assert (
        "shards.json: The AWS Access Key Id you provided does not exist"
        in with_credentials_checked(refused)()
    )
    for name in KEYS:
        monkeypatch.delenv(name)
    assert refused() == f"cannot read {AT}/shards.json: Unable to locate credentials"


def test_shards_are_verified_where_they_are(files):
    assert len(list(verify_shards(AT))) == 5
    content = files.cat_file("bucket/pets/val-000000.tar")
    files.pipe_file("bucket/pets/val-000000.tar", content[:600] + bytes([content[600] ^ 1]) + content[601:])
    with pytest.raises(DataError, match=r"s3://bucket/pets/val-000000\.tar is corrupted: its SHA-256"):
        list(verify_shards(AT))


@pytest.mark.parametrize("order", ["shuffle", "blocks"])
def test_a_run_is_that_on_the_folder_and_resumes_in_mid_epoch(
    order, photographs, files, tmp_path, stop_at, cli
):
    recipe = small("imagenet-modern", iterations=6, checkpoint_every=2, order=order)
    residual.train(recipe, data_dir=photographs, output=tmp_path / "whole", workers=0)

    def stop(_):
        raise InterruptedRunError("stopped", 15)

    restore = stop_at(3, stop)
    with pytest.raises(InterruptedRunError):
        residual.train(recipe, data_dir=AT, output=tmp_path / "cut", workers=1)
    restore()
    residual.resume(tmp_path / "cut", workers=0)
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")
    code, printed, err = cli("evaluate", tmp_path / "cut", "--data", AT, "--workers", 0)
    assert code == 0, err
    assert f"data        {AT}, the test set of the run" in printed


def test_an_object_that_goes_in_mid_run_ends_the_run_by_name_and_it_goes_on_when_it_is_back(
    photographs, files, tmp_path, stop_at
):
    recipe = small("imagenet-modern", iterations=6, checkpoint_every=2)
    residual.train(recipe, data_dir=photographs, output=tmp_path / "whole", workers=0)
    gone = {name: files.cat_file(f"bucket/pets/{name}") for name in ("train-000000.tar", "train-000001.tar")}
    restore = stop_at(3, lambda _: [files.rm(f"bucket/pets/{name}") for name in gone])
    with pytest.raises(
        SourceError, match=r"cannot read s3://bucket/pets/train-00000[01]\.tar at byte .*not there"
    ):
        residual.train(recipe, data_dir=AT, output=tmp_path / "run", workers=0)
    restore()
    for name, content in gone.items():
        files.pipe_file(f"bucket/pets/{name}", content)
    residual.resume(tmp_path / "run", workers=0)
    assert comparable(tmp_path / "run") == comparable(tmp_path / "whole")
