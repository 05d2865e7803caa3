"""Shards, a trial's checkpoints and its result on an S3 endpoint, as cluster.yaml uses them."""

import pytest

from shards import storage
from shards.build import Request, build
from shards.verify import verify
from trainers.checkpoint import Checkpoints
from trainers.config import make_config
from trainers.trial import finished, run_trial

FIELDS = {
    "dataset": "digits",
    "teacher": "embedded",
    "student": "width:0.5",
    "train_samples": 128,
    "test_samples": 40,
    "epochs": 3,
    "test_arms": ["noise:0.1"],
    "test_views": 1,
}


@pytest.fixture(scope="module")
def bucket():
    """s3://sweep on a real server of the S3 protocol."""
    import boto3
    from moto.server import ThreadedMotoServer

    patch = pytest.MonkeyPatch()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3").create_bucket(Bucket="sweep")
    yield "s3://sweep"
    server.stop()
    patch.undo()


def test_a_bank_and_a_trial_on_s3_equal_those_on_disk(bucket, tmp_path):
    request = Request(
        dataset="digits",
        teacher="embedded",
        train_samples=128,
        test_samples=40,
        test_arms=("noise:0.1",),
        shard_samples=100,
    )
    config = make_config(FIELDS)
    results = []
    for root in (bucket + "/run", str(tmp_path / "run")):
        bank = storage.join(root, "banks", "one")
        build(request, bank)
        assert len(verify(bank).shards) == 3
        results.append(run_trial(config, bank, root, device="cpu", save_seconds=0))
        assert finished(root, config) == results[-1]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert storage.names(storage.join(bucket, "run", "trials", config.identity, "student")) == [
        "student.json",
        "student.safetensors",
    ]


def test_an_interrupted_trial_goes_on_from_s3(bucket, tmp_path):
    bank = str(tmp_path / "bank")
    build(
        Request(
            dataset="digits",
            teacher="embedded",
            train_samples=128,
            test_samples=40,
            test_arms=("noise:0.1",),
        ),
        bank,
    )
    config = make_config(FIELDS)
    whole = run_trial(config, bank, str(tmp_path / "whole"), device="cpu")

    def stop(values):
        if values["epoch"] == 2:
            raise KeyboardInterrupt

    root = bucket + "/resumed"
    with pytest.raises(KeyboardInterrupt):
        run_trial(config, bank, root, stop, device="cpu", save_seconds=0)
    place = storage.join(root, "trials", config.identity, "checkpoints")
    assert Checkpoints(place, config.identity).steps() == [2, 4]
    assert finished(root, config) is None
    seen = []
    resumed = run_trial(config, bank, root, lambda v: seen.append(v["epoch"]), device="cpu")
    assert seen == [3]
    assert resumed["metrics"] == whole["metrics"]
    assert not storage.exists(place)
