"""The files in clusters/ are what their engines expect, and every rule about them can fail.

Ray's own functions read those for `ray up`. The schemas of KubeRay and SkyPilot are copies, see
`$comment` in them: neither engine, nor any cloud, is called.
"""

import copy
import json
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from sweep.clusters.rules import RULES, check
from sweep.options import parse_arguments
from tests.cluster.mutations import GONE, put

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
SCHEMAS = Path(__file__).with_name("schemas")
TEXTS = {path.stem: path.read_text() for path in (ROOT / "clusters").glob("*.yaml")}


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


def load(name):
    # Dumped and loaded: no anchors, so that a change to one node is not a change to the other.
    return yaml.safe_load(yaml.dump(yaml.safe_load(TEXTS[name]), Dumper=_NoAliases))


def test_there_is_one_for_each_engine():
    assert set(TEXTS) == set(RULES) - {"aws"}


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_lint_finds_nothing(name):
    assert check(TEXTS[name], ROOT) == []


@pytest.mark.parametrize("name", ["gcp", "local"])
def test_ray_prepares_and_validates_it(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load(name)
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    # Ray fills what is left out from its own template: no command of it may have come in.
    for key in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        shared = config["setup_commands"] if key != "setup_commands" else []
        assert prepared[key] == shared + config[key]
    for key in ("initialization_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        assert prepared[key] == config[key]
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute"):
        validate_config(prepare_config({**config, "idle_timeout_minute": 5}))


def test_ray_uses_every_address_of_the_local_file():
    from ray.autoscaler._private.util import prepare_config

    config = load("local")
    config["provider"]["worker_ips"] = ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    prepared = prepare_config(config)
    (node,) = prepared["available_node_types"].values()
    assert (node["min_workers"], node["max_workers"], prepared["max_workers"]) == (3, 3, 3)


@pytest.mark.parametrize("name", ["rayjob", "skypilot"])
def test_it_has_the_schema_of_its_engine(name):
    schema = closed(json.loads((SCHEMAS / f"{name}.json").read_text()))
    config = load(name)
    jsonschema.validate(config, schema)
    misspelt = {"rayjob": ("spec", "backOffLimit"), "skypilot": ("resources", "use_spots")}[name]
    config[misspelt[0]][misspelt[1]] = 1
    with pytest.raises(jsonschema.ValidationError, match=misspelt[1]):
        jsonschema.validate(config, schema)


WORDS = shlex.join([sys.executable, "-c", "import sys, json; print(json.dumps(sys.argv[1:]))"])


def on_the_head(entrypoint, **environment):
    """What an entrypoint prints on the head, whose environment is given.

    The submitter's bash, with nothing of that environment, makes words of it, and `ray job submit`
    (ray.dashboard.modules.job.cli) joins them to a line for the head's shell.
    """
    script = ["bash", "-ec", f"{WORDS} {entrypoint.strip()} ;"]
    words = subprocess.run(script, check=True, capture_output=True, text=True, env={}).stdout
    line = shlex.join(json.loads(words))
    ran = subprocess.run(
        line, shell=True, check=True, capture_output=True, text=True, env=environment
    )
    return ran.stdout


def test_the_entrypoint_of_a_rayjob_reaches_the_head_as_it_stands():
    job = load("rayjob")
    command = job["spec"]["entrypoint"].removeprefix("python -m sweep.run ")
    options = parse_arguments(json.loads(on_the_head(f"{WORDS} {command}")))
    assert (options.store, options.gpus_per_trial) == ("s3://FILL-IN/distilsweep", 1)
    assert on_the_head(r"echo \$STORE", STORE="s3://a") == "$STORE\n"  # escaping is no way
    job["spec"]["entrypoint"] = f"sh -c 'true && echo \"$STORE\"' {command} sweep.run"
    assert on_the_head(job["spec"]["entrypoint"], STORE="s3://a") == "s3://a\n"
    assert check(yaml.dump(job, Dumper=_NoAliases), ROOT) == []


def closed(schema):
    """`schema` with every object closed whose properties it names.

    Kubernetes drops a field it does not know without a word. `metadata` is described elsewhere.
    """
    if isinstance(schema, dict):
        schema = {key: closed(value) for key, value in schema.items()}
        if "properties" in schema and "additionalProperties" not in schema:
            schema["additionalProperties"] = False
    return [closed(item) for item in schema] if isinstance(schema, list) else schema


START, SPOT = "head_start_ray_commands", load("gcp")["available_node_types"]["spot_gpu"]
GPU = ("available_node_types", "spot_gpu")
ENDS = {"key": "startup-script", "value": "#!/bin/sh\nshutdown -h +45\n"}
HEAD_NODE = ("available_node_types", "head", "node_config")
CLUSTER = ("spec", "rayClusterSpec")
HEAD, GROUP = (*CLUSTER, "headGroupSpec"), (*CLUSTER, "workerGroupSpecs", 0)
BOX = (*GROUP, "template", "spec", "containers", 0)


def without(text):
    return lambda value: json.loads(json.dumps(value).replace(text, ""))


# (file, rule that must object, where, what stands there instead); see test_cluster_yaml.py.
MUTATIONS = [
    ("gcp", "node_config_keys", (*GPU, "node_config", "schedulings"), {}),
    ("gcp", "node_config_keys", (*GPU, "node_config", "scheduling", "provisionModel"), "SPOT"),
    ("gcp", "place", ("provider", "project_id"), GONE),
    ("gcp", "place", ("provider", "availability_zone"), "us-central1-a,us-central1-b"),
    ("gcp", "place", ("provider", "region"), "europe-west4"),
    ("gcp", "spot", (*GPU, "node_config", "scheduling"), GONE),
    ("gcp", "spot", (*GPU, "node_config", "scheduling"), [{"preemptible": True}]),
    ("gcp", "spot", (*GPU, "node_config", "scheduling", "instanceTerminationAction"), "STOP"),
    ("gcp", "one_worker_type", ("available_node_types", "another"), SPOT),
    ("gcp", "maintenance", (*GPU, "node_config", "scheduling", "onHostMaintenance"), "MIGRATE"),
    ("gcp", "shutdown", (*GPU, "node_config", "metadata"), GONE),
    ("gcp", "shutdown", (*GPU, "node_config", "metadata", "items", 0, "key"), "startup"),
    ("gcp", "shutdown", (*HEAD_NODE, "metadata"), {"items": [ENDS]}),
    ("gcp", "disks", (*GPU, "node_config", "disks", 0, "autoDelete"), False),
    ("gcp", "disks", (*GPU, "node_config", "disks", 0, "initializeParams", "sourceImage"), "x"),
    ("gcp", "network", (*GPU, "node_config", "networkInterfaces"), GONE),
    ("gcp", "network", (*GPU, "node_config", "networkInterfaces", 0, "subnetwork"), "a/default"),
    ("gcp", "account", (*GPU, "node_config", "serviceAccounts"), GONE),
    ("gcp", "labels", (*GPU, "node_config", "labels"), GONE),
    ("gcp", "notices", ("worker_start_ray_commands", 1), without("NOTICE=gcp")),
    ("gcp", "watchdog", ("worker_start_ray_commands",), lambda lines: lines[:2]),
    ("gcp", "pinned", ("setup_commands",), without("deepspeed,gcp")),
    ("gcp", "token", ("file_mounts",), {}),
    ("local", "addresses", ("provider", "worker_ips"), []),
    ("local", "addresses", ("provider", "worker_ips"), ["10.0.0.2", "10.0.0.2"]),
    ("local", "addresses", ("provider", "worker_ips"), ["FILL-IN-HEAD"]),
    ("local", "addresses", ("provider", "head_ip"), "127.0.0.1"),
    ("local", "addresses", ("provider", "head_ip"), GONE),
    ("local", "all_used", ("max_workers",), 0),
    ("local", "all_used", ("min_workers",), 0),
    ("local", "autoscaler", (START,), without("RAY_enable_autoscaler_v2=0")),
    ("local", "ssh_key", ("auth", "ssh_private_key"), GONE),
    ("local", "ssh_user", ("auth", "ssh_user"), GONE),
    ("local", "token", (START,), without("RAY_AUTH_MODE=token")),
    ("local", "loopback", (START,), without("--dashboard-host=127.0.0.1")),
    ("local", "sees_gpu", ("setup_commands",), without("torch.cuda.is_available()")),
    ("rayjob", "kind", ("kind",), "RayCluster"),
    ("rayjob", "token", (*CLUSTER, "authOptions"), GONE),
    ("rayjob", "token", (*CLUSTER, "authOptions", "mode"), "disabled"),
    ("rayjob", "closed", (*HEAD, "serviceType"), "LoadBalancer"),
    ("rayjob", "closed", (*HEAD, "enableIngress"), True),
    ("rayjob", "scales", (*CLUSTER, "enableInTreeAutoscaling"), GONE),
    ("rayjob", "scales", (*GROUP, "minReplicas"), 1),
    ("rayjob", "scales", (*GROUP, "maxReplicas"), GONE),
    ("rayjob", "ends", ("spec", "shutdownAfterJobFinishes"), False),
    ("rayjob", "head_runs_no_trial", (*HEAD, "rayStartParams"), {}),
    ("rayjob", "gpus", (*BOX, "resources", "limits"), {"memory": "24Gi"}),
    ("rayjob", "image", (*BOX, "image"), "rayproject/ray:latest"),
    ("rayjob", "image", (*BOX, "image"), "another:1"),
    ("rayjob", "telemetry", (*BOX, "env"), []),
    ("rayjob", "sweep", ("spec", "entrypoint"), without("--store")),
    ("rayjob", "submitted", ("spec", "entrypoint"), lambda line: line + " --seed $SEED"),
    ("rayjob", "submitted", ("spec", "entrypoint"), lambda line: line + r" --seed \$SEED"),
    ("rayjob", "submitted", ("spec", "entrypoint"), lambda line: line + ' --seed "${SEED}"'),
    ("rayjob", "submitted", ("spec", "entrypoint"), lambda line: "cd /tmp && " + line),
    ("rayjob", "submitted", ("spec", "entrypoint"), lambda line: line + "\necho done"),
    ("rayjob", "secrets", ("metadata", "annotations"), {"auth_token": "x"}),
    ("skypilot", "one_machine", ("num_nodes",), 4),
    ("skypilot", "gpus", ("resources", "accelerators"), GONE),
    ("skypilot", "gpus", ("resources", "accelerators"), {"L4": 1, "T4": 1}),
    ("skypilot", "spot", ("resources", "any_of"), GONE),
    ("skypilot", "closed", ("resources", "ports"), 8265),
    ("skypilot", "pinned", ("setup",), without("-c constraints.txt")),
    ("skypilot", "sees_gpu", ("setup",), without("torch.cuda.is_available()")),
    ("skypilot", "sees_gpu", ("setup",), without("set -e")),
    ("skypilot", "sweep", ("run",), without("--join")),
    ("skypilot", "secrets", ("envs", "KEY"), "AKIA" + "A" * 16),
]


@pytest.mark.parametrize(("name", "rule", "path", "value"), MUTATIONS)
def test_each_lint_rule_finds_its_mutation(name, rule, path, value):
    config = load(name)
    put(config, path, value)
    text = yaml.dump(config, Dumper=_NoAliases)
    assert rule in {found for found, _ in check(text, ROOT)}


def test_every_rule_of_its_own_is_mutated():
    shared = {rule.__name__ for rule in RULES["aws"]}
    for name in TEXTS:
        own = {rule.__name__ for rule in RULES[name]}
        if name in ("gcp", "local"):
            own -= shared
        assert own <= {rule for file, rule, *_ in MUTATIONS if file == name}
