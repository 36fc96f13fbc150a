"""deploy/: manifests that hang together, checked as far as that can be done without a cluster."""

from __future__ import annotations

import configparser
import functools
import json
import re
import shlex
import subprocess
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from tune.cli.__main__ import parser
from tune.sweep.config import load_sweep

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:mlflow")

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = "\n---\n".join(path.read_text() for path in (DEPLOY / "kubernetes").glob("*.yaml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGING = PROJECT["tool"]["setuptools"]
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()
PODS = "spec.template.spec.containers"
NEEDED = {  # version, what the API server demands, and what we rely on
    "ConfigMap": ("v1", "data"),
    "PersistentVolumeClaim": ("v1", "spec.accessModes", "spec.resources.requests.storage"),
    "Deployment": ("apps/v1", "spec.selector.matchLabels", "spec.template.metadata.labels", PODS),
    "Service": ("v1", "spec.selector", "spec.ports"),
    "RayJob": ("ray.io/v1", "spec.entrypoint", f"spec.rayClusterSpec.headGroupSpec.{PODS[5:]}"),
}


def by_kind() -> dict[str, dict[str, Any]]:
    """Kind -> name -> object, of all Kubernetes manifests."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for made in filter(None, yaml.safe_load_all(MANIFESTS)):
        found[made["kind"]][made["metadata"]["name"]] = made
    return found


OBJECTS = by_kind()
JOB = OBJECTS["RayJob"]["rbnn-sweep"]["spec"]
CLUSTER = JOB["rayClusterSpec"]
GROUPS = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]
TEMPLATES = [made["spec"]["template"] for made in OBJECTS["Deployment"].values()]
POD_SPECS = [made["spec"] for made in (*TEMPLATES, *(group["template"] for group in GROUPS))]
CONTAINERS = [container for pod in POD_SPECS for container in pod["containers"]]


def test_the_cluster_file_fits_rays_own_schema_and_commands() -> None:
    from ray.scripts.scripts import start

    config = yaml.safe_load((DEPLOY / "cluster.yaml").read_text())
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    assert config["max_workers"] == len(config["provider"]["worker_ips"])
    for source in config["file_mounts"].values():
        assert source.startswith("~") or (ROOT / source).exists()
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    begun = [command for command in commands if "ray start " in command]
    assert len(begun) == 2 and all("RAY_AUTH_MODE=token" in command for command in begun)
    for command in begun:
        start.make_context("start", shlex.split(command.partition("ray start ")[2]))


@pytest.mark.parametrize("kind", sorted(OBJECTS))
def test_an_object_has_what_its_kind_needs(kind: str) -> None:
    version, *paths = NEEDED[kind]
    for name, made in OBJECTS[kind].items():
        assert made["apiVersion"] == version
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name)
        for path in paths:
            assert functools.reduce(lambda tree, key: tree[key], path.split("."), made), path


def test_services_reach_the_pods_they_select_on_ports_that_are_open() -> None:
    for made in OBJECTS["Deployment"].values():
        labels = made["spec"]["template"]["metadata"]["labels"]
        assert made["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for name, service in OBJECTS["Service"].items():
        wanted = service["spec"]["selector"].items()
        selected = [pod for pod in TEMPLATES if wanted <= pod["metadata"]["labels"].items()]
        assert len(selected) == 1, name
        opened = selected[0]["spec"]["containers"][0]["ports"]
        ports = {port["name"]: port["containerPort"] for port in opened}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]


def test_hosts_that_are_named_are_services_with_that_port() -> None:
    named = re.findall(r"(?:@|http://)(rbnn-[a-z]+):(\d+)", MANIFESTS)
    assert {name for name, _ in named} == set(OBJECTS["Service"])
    for name, number in named:
        ports = [port["port"] for port in OBJECTS["Service"][name]["spec"]["ports"]]
        assert int(number) in ports


def test_secrets_that_are_referred_to_are_made_and_none_stands_in_a_manifest() -> None:
    script = DEPLOY / "kubernetes" / "secrets.sh"
    made = set(re.findall(r"random >\"\$folder/([a-z-]+/[a-z-]+)\"", script.read_text()))
    created = set(re.findall(r"^create ([a-z-]+)$", script.read_text(), re.MULTILINE))
    assert {name.partition("/")[0] for name in made} == created
    values = [value for container in CONTAINERS for value in container.get("env", [])]
    given = [value["valueFrom"]["secretKeyRef"] for value in values if "valueFrom" in value]
    assert {f"{secret['name']}/{secret['key']}" for secret in given} == made
    for value in values:
        assert "valueFrom" in value or not re.search("PASSWORD|SECRET|TOKEN", value["name"])
    for path in DEPLOY.rglob("*"):
        assert path.is_dir() or not re.search(r"://[^/@\s]+:[^@\s]+@", path.read_text())
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_volumes_that_are_mounted_exist() -> None:
    kinds = {
        "persistentVolumeClaim": ("claimName", OBJECTS["PersistentVolumeClaim"]),
        "configMap": ("name", OBJECTS["ConfigMap"]),
    }
    for pod in POD_SPECS:
        mounts = [mount for container in pod["containers"] for mount in container["volumeMounts"]]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in mounts} == set(volumes)
        for volume in volumes.values():
            for kind in kinds.keys() & volume.keys():
                key, known = kinds[kind]
                assert volume[kind][key] in known


def test_images_and_versions_are_the_pinned_ones() -> None:
    images = {container["image"] for container in CONTAINERS}
    assert all(re.search(r":[0-9]+\.[0-9.]+[a-z0-9.-]*$", image) for image in images), images
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={CLUSTER['rayVersion']}" in constraints
    ours = {image for image in images if "rbnn-tune" in image}
    assert ours == {f"registry.example.com/rbnn-tune:{PROJECT['project']['version']}"}


def test_the_container_file_copies_what_exists_and_pins_its_base() -> None:
    assert re.search(r"^FROM \S+:\d+\.\d+\.\d+\S*$", CONTAINERFILE, re.MULTILINE)
    copies = re.findall(r"^COPY \S+ (.+) \S+$", CONTAINERFILE, re.MULTILINE)
    copied = " ".join(copies).split()
    assert {"rbnn", "tune", "experiments", "constraints.txt"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    assert re.search("apt-get install.* wget", CONTAINERFILE), "KubeRay's probes call it"


def test_the_sweep_of_the_job_is_one_that_the_command_line_takes() -> None:
    command = shlex.split(JOB["entrypoint"])[-1].rpartition("exec rbnn ")[2]
    args = parser().parse_args(shlex.split(command))
    assert load_sweep(args.file).trials > 0
    mounts = CLUSTER["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert any(args.storage_path.startswith(mount["mountPath"] + "/") for mount in mounts)
    for group in CLUSTER["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


def test_the_server_is_one_that_mlflow_takes_with_logins_of_its_own_database() -> None:
    from mlflow.cli import server

    deployment = OBJECTS["Deployment"]["rbnn-mlflow"]["spec"]["template"]["spec"]
    container = deployment["containers"][0]
    assert container["command"][:2] == ["mlflow", "server"]
    params = server.make_context("server", list(container["command"][2:])).params
    environment = {value["name"]: value.get("value") for value in container["env"]}
    assert params["app_name"] == "basic-auth"
    assert environment["MLFLOW_SERVE_ARTIFACTS"] == "true"
    assert {port["containerPort"] for port in container["ports"]} == {params["port"]}
    login = configparser.ConfigParser()
    login.read_string(OBJECTS["ConfigMap"]["rbnn-mlflow"]["data"]["basic_auth.ini"])
    users = login["mlflow"]["database_uri"]
    assert users != environment["MLFLOW_BACKEND_STORE_URI"]
    made = OBJECTS["ConfigMap"]["rbnn-postgres-init"]["data"]["users.sql"]
    assert f"CREATE DATABASE {users.rpartition('/')[2]};" in made


def test_the_image_installs_the_stack_before_the_code_is_there() -> None:
    """setuptools refuses to install while the folder of a package is missing."""
    made = re.search(r"mkdir -p ((?:[\w/]+ )+)", CONTAINERFILE)
    assert made
    for name in PACKAGING["packages"]:
        folder = PACKAGING["package-dir"].get(name, name.replace(".", "/"))
        assert any(f"{path}/".startswith(f"{folder}/") for path in made[1].split()), folder


def test_an_installed_package_brings_every_recipe_sweep_file_and_module() -> None:
    folder = ROOT / PACKAGING["package-dir"]["rbnn.experiments"]
    patterns = PACKAGING["package-data"]["rbnn.experiments"]
    taken = {file for pattern in patterns for file in folder.glob(pattern)}
    assert taken == set(folder.rglob("*.yaml"))
    modules = [*(ROOT / "rbnn").rglob("*.py"), *(ROOT / "tune").rglob("*.py")]
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in modules}
    assert packages == set(PACKAGING["packages"]) - set(PACKAGING["package-dir"])
