"""Shards on a Google Cloud Storage endpoint: built, verified, read, exported and read again."""

import importlib.util

import numpy as np
import pytest

from shards.bank.reader import load_manifest
from shards.bank.splits import load_splits
from shards.building.build import build
from shards.building.request import Request
from shards.datasets import open_dataset
from shards.export import export
from shards.support import storage
from shards.verify import verify

pytestmark = pytest.mark.store

for name in ("gcsfs", "gcp_storage_emulator"):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install '.[dev]'", allow_module_level=True)


@pytest.fixture(scope="module")
def bucket():
    """gs://sweep on a server of Google's protocol, in memory."""
    from gcp_storage_emulator.server import create_server

    patch = pytest.MonkeyPatch()
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="sweep")
    server.start()
    host, port = server._api._httpd.server_address
    patch.setenv("STORAGE_EMULATOR_HOST", f"http://{host}:{port}")
    patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks gRPC, which it does not speak
    yield "gs://sweep"
    server.stop()
    patch.undo()


def test_files_on_gcs(bucket):
    place = storage.join(bucket, "a", "b.bin")
    data = bytes(range(256)) * 40_000 + b"\r\n--end"
    storage.write(place, data)
    assert storage.read(place) == data
    assert storage.read_ranges(place, [(300, 310), (5, 9)]) == [data[300:310], data[5:9]]
    assert storage.names(storage.join(bucket, "a")) == ["b.bin"]
    assert storage.glob(storage.join(bucket, "*", "b.*")) == [place]
    before = storage.state(place)
    storage.write(place, data[::-1])
    assert storage.state(place) != before
    storage.delete(storage.join(bucket, "a"))
    assert not storage.exists(place)
    with pytest.raises(FileNotFoundError):
        storage.read(place)


def test_a_bank_on_gcs_equals_the_one_on_disk(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTIL_CACHE", str(tmp_path / "cache"))
    request = Request(
        dataset="digits",
        teachers=("embedded",),
        train_samples=60,
        test_samples=20,
        test_arms=("noise:0.1",),
        shard_samples=25,
    )
    banks = [storage.join(bucket, "bank"), str(tmp_path / "bank")]
    for bank in banks:
        build(request, bank)
        assert verify(bank).good
    manifests = [load_manifest(bank) for bank in banks]
    assert manifests[0].shards == manifests[1].shards
    remote, local = (
        load_splits(bank, manifest, "test", ("noise:0.1",))["noise:0.1"]
        for bank, manifest in zip(banks, manifests, strict=True)
    )
    assert remote.keys == local.keys
    assert np.array_equal(remote.embedding_NVD[:], local.embedding_NVD[:])
    build(request, banks[0])
    assert load_manifest(banks[0]) == manifests[0]

    export(banks[0], storage.join(bucket, "wds"), shard_samples=25)
    data = open_dataset(f"wds:{bucket}/wds/{{split}}-*.tar")
    assert np.array_equal(data.read("test", 0, 20).images_NHWC, local.images_NHWC[:])
