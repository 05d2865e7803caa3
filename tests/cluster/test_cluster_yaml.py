"""cluster.yaml is valid and safe, and every rule that says so can fail. Nothing calls AWS."""

import base64
import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sweep.cluster import main
from sweep.clusters.ec2 import NODE_CONFIG
from sweep.clusters.rules import RULES, TOKEN, check, not_ready
from tests.cluster.mutations import GONE, put
from tests.s3_server import serve_bucket

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster.yaml").read_text()
COMMENTS = "".join(line for line in TEXT.splitlines(keepends=True) if line.startswith("#"))
HEAD, WORKER = ("available_node_types", "head"), ("available_node_types", "spot_gpu")
HEAD_START, WORKER_START = ("head_start_ray_commands", 1), ("worker_start_ray_commands", 1)
PROVIDER, SETUP = ("provider",), ("setup_commands",)
HEAD_NODE, WORKER_NODE = (*HEAD, "node_config"), (*WORKER, "node_config")
ON_DEMAND, WATCH = ("available_node_types", "on_demand_gpu"), ("worker_start_ray_commands", 3)
MARKET, MOUNTS = (*WORKER_NODE, "InstanceMarketOptions"), ("file_mounts",)


@pytest.fixture
def config():
    # Dumped and loaded: no anchors, so that a change to one node is not a change to the other.
    return yaml.safe_load(_dump(yaml.safe_load(TEXT)))


@pytest.fixture
def repository(tmp_path):
    """A repository in which every mounted file exists, whatever this one lacks today."""
    for local in yaml.safe_load(TEXT)["file_mounts"].values():
        if not local.startswith("~"):
            (tmp_path / local).touch()
    return tmp_path


def _dump(config):
    return yaml.dump(copy.deepcopy(config), Dumper=_NoAliases)


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


def _prepared(config):
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_ray_prepares_and_validates_it(config, repository):
    prepared = _prepared(config)
    # Ray fills what is left out from its own template: nothing of it may have come in.
    assert set(prepared) - set(config) <= {
        *("docker", "cluster_synced_files", "file_mounts_sync_continuously", "rsync_filter")
    }
    assert prepared["head_setup_commands"] == config["setup_commands"]
    last = config["worker_setup_commands"]
    assert prepared["worker_setup_commands"] == config["setup_commands"] + last
    assert check(COMMENTS + _dump(prepared), repository) == []


def test_rays_validation_is_not_skipped(config):
    import jsonschema

    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute"):
        _prepared({**config, "idle_timeout_minute": 5})


def test_lint_finds_nothing():
    assert check(TEXT, ROOT) == []


def test_ec2_knows_every_parameter(config):
    """Against EC2's own service model, nested keys and types too, where botocore is installed."""
    pytest.importorskip("botocore")
    from botocore.loaders import Loader
    from botocore.model import ServiceModel
    from botocore.validate import ParamValidator

    ec2 = ServiceModel(Loader().load_service_model("ec2", "service-2"))
    shape = ec2.operation_model("RunInstances").input_shape
    assert set(NODE_CONFIG) - {"SubnetIds"} <= set(shape.members)
    for node in config["available_node_types"].values():
        parameters = {**node["node_config"], "MinCount": 1, "MaxCount": 1}
        assert not ParamValidator().validate(parameters, shape).has_errors()


@pytest.mark.store
def test_a_worker_is_started_with_the_script_that_ends_it(config):
    """By Ray's own provider, on a server of EC2's protocol."""
    boto3 = pytest.importorskip("boto3")
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    node = config["available_node_types"]["spot_gpu"]["node_config"]
    with serve_bucket("any"):
        ec2 = boto3.client("ec2", region_name=config["provider"]["region"])
        group = ec2.describe_security_groups()["SecurityGroups"][0]
        subnet = ec2.describe_subnets()["Subnets"][0]
        node["ImageId"] = ec2.register_image(Name="any", Architecture="x86_64")["ImageId"]
        node |= {"SecurityGroupIds": [group["GroupId"]], "SubnetIds": [subnet["SubnetId"]]}
        del node["IamInstanceProfile"]
        (made,) = AWSNodeProvider(config["provider"], "distilsweep").create_node(node, {}, 1)
        request = {
            name: ec2.describe_instance_attribute(InstanceId=made, Attribute=name)
            for name in ("userData", "instanceInitiatedShutdownBehavior")
        }
    script = base64.b64decode(request["userData"]["UserData"]["Value"]).decode()
    assert script.splitlines()[0] == "#!/bin/sh"
    assert script == node["UserData"]
    behaviour = request["instanceInitiatedShutdownBehavior"]["InstanceInitiatedShutdownBehavior"]
    assert behaviour["Value"] == "terminate"


def test_store_must_be_filled_in_before_anything_is_installed(config):
    """The check that stops the head's setup: only a bucket name, in lower case, passes."""
    write, check = config["setup_commands"][:2]
    pattern = re.search(r"grep -q '([^']+)'", check).group(1)
    store = re.search(r"s3://[^/]+", write).group()
    assert re.search(pattern, write.replace(store, "s3://my-bucket"))
    assert not re.search(pattern, write.replace(store, "s3://FILL-IN"))


def test_what_pyproject_needs_is_mounted(config):
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    needed = {*(name.rstrip("*") for name in packages), project["project"]["readme"]}
    assert needed | set(project["project"]["license-files"]) <= set(config["file_mounts"].values())
    assert {"deepspeed", "aws"} <= set(project["project"]["optional-dependencies"])


def test_what_is_left_to_fill_in_is_listed(tmp_path):
    token = tmp_path / "auth_token"
    left = list(not_ready(f"# FILL-IN\nimage: ami-FILL-IN\nmount: {TOKEN}\n", token))
    assert left[0].startswith("line 2")
    assert "missing" in left[1]
    token.touch(0o644)
    assert "chmod 600" in next(not_ready(TOKEN, token))
    token.chmod(0o600)
    assert list(not_ready(TOKEN, token)) == []


# (rule that must object, where in the file, what stands there instead). GONE removes it; a function
# is applied to what stands there.
MUTATIONS = [
    ("node_config_keys", (*WORKER_NODE, "InstanceMarketOption"), {"MarketType": "spot"}),
    ("node_config_keys", (*MARKET, "SpotOptions", "InterruptionBehavior"), "terminate"),
    ("node_config_keys", (*HEAD_NODE, "BlockDeviceMappings", 0, "Ebs", "Size"), 9),
    ("spot", MARKET, GONE),
    ("spot", MARKET, {"MarketType": "capacity-block"}),
    ("spot", (*WORKER, "priority"), GONE),
    ("spot", (*ON_DEMAND, "priority"), 10),
    ("spot", (*ON_DEMAND, "resources"), {"CPU": 4, "GPU": 2}),
    ("spot", WORKER, GONE),
    ("launch_order", HEAD_START, lambda line: line.replace("RAY_enable_autoscaler_v2=0", "")),
    ("launch_order", HEAD_START, lambda line: line.replace("UTILIZATION_SCORER", "SCORER")),
    ("launch_order", HEAD_START, lambda line: line.replace("FAILURES=1000000", "FAILURES=5")),
    ("shutdown", (*WORKER_NODE, "InstanceInitiatedShutdownBehavior"), GONE),
    ("shutdown", (*ON_DEMAND, "node_config", "InstanceInitiatedShutdownBehavior"), "stop"),
    ("shutdown", (*WORKER_NODE, "UserData"), GONE),
    ("shutdown", (*WORKER_NODE, "UserData"), lambda script: script.removeprefix("#!/bin/sh\n")),
    ("shutdown", (*WORKER_NODE, "UserData"), lambda script: script.replace("[.]", ".")),
    ("shutdown", (*WORKER_NODE, "UserData"), lambda script: script.replace("--on-", "--")),
    ("shutdown", (*ON_DEMAND, "node_config", "UserData"), "#!/bin/sh\n"),
    ("shutdown", (*HEAD_NODE, "UserData"), "#!/bin/sh\nshutdown -h +45\n"),
    ("watchdog", ("worker_start_ray_commands",), lambda lines: lines[:2]),
    ("notices", WORKER_START, lambda line: line.replace("export DISTIL_SPOT_NOTICE=aws;", "")),
    ("watchdog", WATCH, lambda line: line.replace("shutdown", "echo")),
    ("sees_gpu", ("worker_setup_commands",), []),
    ("tags", (*HEAD_NODE, "TagSpecifications"), GONE),
    ("tags", (*WORKER_NODE, "TagSpecifications"), lambda tags: tags[:1]),
    ("spot", (*HEAD_NODE, "InstanceMarketOptions"), {"MarketType": "spot"}),
    ("image", (*HEAD_NODE, "ImageId"), GONE),
    ("image", (*WORKER_NODE, "ImageId"), "latest_dlami"),
    ("image", (*WORKER_NODE, "ImageId"), "ami-another"),
    ("ssh_user", ("auth", "ssh_user"), GONE),
    ("ssh_user", ("auth",), GONE),
    ("ssh_rule", (*HEAD_NODE, "SecurityGroupIds"), GONE),
    ("ssh_rule", (*WORKER_NODE, "SecurityGroupIds"), []),
    ("ssh_rule", (*HEAD_NODE, "NetworkInterfaces"), [{"Groups": ["sg-1"]}]),
    ("ssh_rule", (*PROVIDER, "security_group"), {"IpPermissions": []}),
    ("everywhere", (*PROVIDER, "note"), "0.0.0.0/0"),
    ("everywhere", (*PROVIDER, "note"), "::/0"),
    ("file_mounts", (*MOUNTS, "~/data"), "no-such-file"),
    ("file_mounts", (*MOUNTS, "~/all"), "."),
    ("file_mounts", (*MOUNTS, "~/above"), "../elsewhere"),
    ("file_mounts", (*MOUNTS, "~/.aws/credentials"), "~/.aws/credentials"),
    ("file_mounts", (*MOUNTS, "~/distilsweep/constraints.txt"), GONE),
    ("head_runs_no_trial", (*HEAD, "resources"), {}),
    ("head_runs_no_trial", (*HEAD, "resources"), {"CPU": 2}),
    ("head_runs_no_trial", (*HEAD, "max_workers"), 1),
    ("workers", (*WORKER, "min_workers"), 1),
    ("workers", (*WORKER, "max_workers"), 0),
    ("workers", (*WORKER, "max_workers"), 1000),
    ("workers", (*WORKER, "resources"), {"CPU": 4}),
    ("workers", ("max_workers",), 0),
    ("workers", ("available_node_types",), lambda types: {"head": types["head"]}),
    ("zones", (*PROVIDER, "availability_zone"), "us-west-2a"),
    ("zones", (*PROVIDER, "availability_zone"), GONE),
    ("zones", (*PROVIDER, "region"), "eu-west-1"),
    ("no_stopped_nodes", (*PROVIDER, "cache_stopped_nodes"), GONE),
    ("no_stopped_nodes", (*PROVIDER, "cache_stopped_nodes"), True),
    ("idle_timeout", ("idle_timeout_minutes",), GONE),
    ("idle_timeout", ("idle_timeout_minutes",), 600),
    ("token", HEAD_START, lambda line: line.replace("RAY_AUTH_MODE=token", "")),
    ("token", WORKER_START, lambda line: line.replace("=token", "=disabled")),
    ("token", WORKER_START, lambda line: line.replace("export", "echo")),
    ("token", (*MOUNTS, TOKEN), GONE),
    ("token", SETUP, lambda lines: [line for line in lines if "chmod" not in line]),
    ("token", SETUP, lambda lines: [line.replace("chmod 600", "chmod 644") for line in lines]),
    ("telemetry", HEAD_START, lambda line: line.replace("STATS_ENABLED=0", "STATS_ENABLED=1")),
    ("telemetry", WORKER_START, lambda line: line.replace("RAY_USAGE_STATS_ENABLED=0", "")),
    ("loopback", HEAD_START, lambda line: line.replace("127.0.0.1", "10.0.0.1")),
    ("loopback", HEAD_START, lambda line: line.replace("--dashboard-host=127.0.0.1", "")),
    ("loopback", HEAD_START, lambda line: line + " --dashboard-host ::"),
    ("starts", HEAD_START, lambda line: re.sub(r"--autoscaling-config\S+", "", line)),
    ("starts", HEAD_START, lambda line: line.replace("--head ", "")),
    ("starts", WORKER_START, lambda line: re.sub(r"--address\S+", "", line)),
    ("starts", WORKER_START, lambda line: line.replace("unset OMP_NUM_THREADS;", "")),
    ("starts", ("worker_start_ray_commands",), GONE),
    ("pinned", SETUP, lambda lines: [line.replace("-c constraints.txt", "") for line in lines]),
    ("pinned", SETUP, lambda lines: [line.replace("deepspeed,", "") for line in lines]),
    ("pinned", SETUP, lambda lines: [*lines, "pip install boto3"]),
    ("pinned", SETUP, lambda lines: [*lines, "curl -O http://x/ray-3.0.0.dev0-cp310.whl"]),
    ("pinned", SETUP, lambda lines: [*lines, "pip install -c constraints.txt https://x/y.whl"]),
    ("pinned", SETUP, lambda lines: lines[:-1]),
    ("pinned", SETUP, GONE),
    ("pinned", ("head_setup_commands",), GONE),
    ("isolation", ("docker",), {"image": "rayproject/ray", "container_name": "ray"}),
    ("isolation", SETUP, lambda lines: [*lines, "chmod 666 /var/run/docker.sock"]),
    ("roles", (*WORKER_NODE, "MetadataOptions"), GONE),
    ("roles", (*HEAD_NODE, "IamInstanceProfile"), GONE),
    ("disks", (*HEAD_NODE, "BlockDeviceMappings", 0, "Ebs", "DeleteOnTermination"), False),
    ("secrets", (*PROVIDER, "aws_credentials"), {"aws_access_key_id": "x"}),
    ("secrets", (*PROVIDER, "note"), "AKIA" + "A" * 16),
]


@pytest.mark.parametrize(("rule", "path", "value"), MUTATIONS)
def test_each_lint_rule_finds_its_mutation(rule, path, value, config, repository):
    assert check(COMMENTS + _dump(config), repository) == []
    put(config, path, value)
    assert rule in {name for name, _ in check(COMMENTS + _dump(config), repository)}


# The same for the commands in the comments, which the user pastes.
TEXT_MUTATIONS = [
    ("ssh_rule", "--protocol tcp --port 22", "--protocol tcp --port 8265"),
    ("ssh_rule", "--port 22", "--port 0-65535"),
    ("ssh_rule", '/32"', '/8"'),
    ("ssh_rule", "--source-group sg-...", "--cidr 10.0.0.0/8"),
    ("everywhere", '/32"', '/0"'),
    ("everywhere", "--source-group sg-...", "--cidr 0.0.0.0/0"),
]


@pytest.mark.parametrize(("rule", "old", "new"), TEXT_MUTATIONS)
def test_each_rule_objects_to_the_comments(rule, old, new, repository):
    assert old in COMMENTS
    assert rule in {name for name, _ in check(TEXT.replace(old, new), repository)}


def test_every_rule_is_mutated():
    mutated = {rule for rule, *_ in MUTATIONS}
    assert mutated == {rule.__name__ for rule in RULES["aws"]}


def test_the_command_exits_nonzero_on_what_is_wrong(tmp_path, capsys, monkeypatch):
    shutil.copy(ROOT / "cluster.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)  # a folder that lacks every mounted file
    with pytest.raises(SystemExit) as exit:
        main(["check", str(tmp_path / "cluster.yaml")])
    assert exit.value.code == 1
    assert "file_mounts constraints.txt: no such file" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    ["", "a: [", "provider: {}", "provider: {}\nhead_node_type: h\navailable_node_types: {}"],
)
def test_a_file_that_is_no_cluster_file_is_one_line(tmp_path, capsys, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(SystemExit) as exit:
        main(["check", str(tmp_path / "c.yaml")])
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'c.yaml'}: ")


def test_the_command_starts_without_ray_and_torch():
    code = "import sys, sweep.cluster; print({'ray', 'torch', 'mlflow'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout.strip() == "set()", ran.stderr
