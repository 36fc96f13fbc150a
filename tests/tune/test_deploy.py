"""deploy/: manifests that hang together, checked as far as that can be done without a cluster."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from tune.cli.__main__ import parser
from tune.sweep.config import load_sweep

# MLflow's own code uses what newer versions of its dependencies deprecate.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
CONSTRAINTS = dict(
    line.lower().split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line.count("==") == 1
)
NEEDED = {  # what the API server demands, and what we rely on
    "ConfigMap": ("data",),
    "PersistentVolumeClaim": ("spec.accessModes", "spec.resources.requests.storage"),
    "Deployment": (
        "spec.selector.matchLabels",
        "spec.template.metadata.labels",
        "spec.template.spec.containers",
    ),
    "Service": ("spec.selector", "spec.ports"),
    "RayJob": ("spec.entrypoint", "spec.rayClusterSpec.headGroupSpec.template.spec.containers"),
}
VERSIONS = {
    "ConfigMap": "v1",
    "PersistentVolumeClaim": "v1",
    "Service": "v1",
    "Deployment": "apps/v1",
    "RayJob": "ray.io/v1",
}


def objects(kind: str = "") -> list[dict[str, Any]]:
    """The objects of all Kubernetes manifests."""
    found = [made for path in KUBERNETES for made in yaml.safe_load_all(path.read_text()) if made]
    return [made for made in found if kind in ("", made["kind"])]


def names(kind: str) -> set[str]:
    return {made["metadata"]["name"] for made in objects(kind)}


def at(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree[key]
    return tree


def packaging() -> dict[str, Any]:
    """What pyproject.toml says of the packages."""
    settings: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"][
        "setuptools"
    ]
    return settings


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """(whose, pod spec) of every pod that the manifests make."""
    for made in objects("Deployment"):
        yield made["metadata"]["name"], made["spec"]["template"]["spec"]
    for made in objects("RayJob"):
        cluster = made["spec"]["rayClusterSpec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            yield made["metadata"]["name"], group["template"]["spec"]


def containers() -> list[dict[str, Any]]:
    return [container for _, pod in pods() for container in pod["containers"]]


def test_the_cluster_file_fits_rays_own_schema() -> None:
    config = yaml.safe_load((DEPLOY / "cluster.yaml").read_text())
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    assert config["max_workers"] == len(config["provider"]["worker_ips"])
    for source in config["file_mounts"].values():
        assert source.startswith("~") or (ROOT / source).exists()


def test_the_commands_of_the_cluster_file_are_ones_that_ray_takes() -> None:
    from ray.scripts.scripts import start

    config = yaml.safe_load((DEPLOY / "cluster.yaml").read_text())
    begun = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    lines = [command.partition("ray start ")[2] for command in begun if "ray start " in command]
    assert len(lines) == 2 and all(
        "RAY_AUTH_MODE=token" in command for command in begun if "ray start" in command
    )
    for line in lines:
        start.make_context("start", shlex.split(line))


@pytest.mark.parametrize(
    "made", objects(), ids=lambda made: f"{made['kind']}-{made['metadata']['name']}"
)
def test_an_object_has_what_its_kind_needs(made: dict[str, Any]) -> None:
    assert made["apiVersion"] == VERSIONS[made["kind"]]
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", made["metadata"]["name"])
    for path in NEEDED[made["kind"]]:
        assert at(made, path), path


def test_services_reach_the_pods_they_select_on_ports_that_are_open() -> None:
    for service in objects("Service"):
        selected = [
            made
            for made in objects("Deployment")
            if service["spec"]["selector"].items()
            <= made["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert len(selected) == 1, service["metadata"]["name"]
        spec = selected[0]["spec"]
        assert (
            spec["selector"]["matchLabels"].items()
            <= spec["template"]["metadata"]["labels"].items()
        )
        opened = {
            port["name"]: port["containerPort"]
            for port in spec["template"]["spec"]["containers"][0]["ports"]
        }
        for port in service["spec"]["ports"]:
            assert opened[port["targetPort"]] == port["port"]


def test_hosts_that_are_named_are_services_with_that_port() -> None:
    ports = {
        made["metadata"]["name"]: {port["port"] for port in made["spec"]["ports"]}
        for made in objects("Service")
    }
    text = "\n".join(path.read_text() for path in KUBERNETES)
    named = re.findall(r"(?:@|http://)(rbnn-[a-z]+):(\d+)", text)
    assert {name for name, _ in named} == set(ports)
    assert all(int(port) in ports[name] for name, port in named)


def test_secrets_that_are_referred_to_are_made_and_none_stands_in_a_manifest() -> None:
    script = (DEPLOY / "kubernetes" / "secrets.sh").read_text()
    made = set(re.findall(r"random >\"\$folder/([a-z-]+/[a-z-]+)\"", script))
    values = [value for container in containers() for value in container.get("env", [])]
    used = {
        "{name}/{key}".format(**value["valueFrom"]["secretKeyRef"])
        for value in values
        if "valueFrom" in value
    }
    assert used == made
    assert {name.partition("/")[0] for name in made} == set(
        re.findall(r"^create ([a-z-]+)$", script, re.MULTILINE)
    )
    secret = re.compile("PASSWORD|SECRET|TOKEN")
    assert all("valueFrom" in value for value in values if secret.search(value["name"]))
    assert not re.search(
        r"://[^/@\s]+:[^@\s]+@",
        "\n".join(path.read_text() for path in DEPLOY.rglob("*") if path.is_file()),
    )
    assert (
        subprocess.run(
            ["bash", "-n", str(DEPLOY / "kubernetes" / "secrets.sh")], timeout=20
        ).returncode
        == 0
    )


def test_volumes_that_are_mounted_exist() -> None:
    kinds = {
        "persistentVolumeClaim": ("claimName", names("PersistentVolumeClaim")),
        "configMap": ("name", names("ConfigMap")),
    }
    for owner, pod in pods():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounted = {
            mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]
        }
        assert mounted == set(volumes), owner
        for volume in volumes.values():
            for kind, (key, known) in kinds.items():
                assert kind not in volume or volume[kind][key] in known


def test_images_and_versions_are_the_pinned_ones() -> None:
    images = {container["image"] for container in containers()}
    assert all(re.search(r":[0-9]+\.[0-9.]+[a-z0-9.-]*$", image) for image in images), images
    job = objects("RayJob")[0]
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == CONSTRAINTS["ray"]
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version and {image for image in images if "rbnn-tune" in image} == {
        f"registry.example.com/rbnn-tune:{version[1]}"
    }


def test_the_container_file_copies_what_exists_and_pins_its_base() -> None:
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    assert [line for line in lines if re.fullmatch(r"FROM \S+:\d+\.\d+\.\d+\S*", line)]
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[2:-1]]
    assert {"rbnn", "tune", "experiments", "constraints.txt"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    assert "wget" in "".join(line for line in lines if "apt-get install" in line), (
        "KubeRay's probes call it"
    )


def test_the_sweep_of_the_job_is_one_that_the_command_line_takes() -> None:
    job = objects("RayJob")[0]["spec"]
    command = shlex.split(job["entrypoint"])[-1].rpartition("exec rbnn ")[2]
    args = parser().parse_args(shlex.split(command))
    assert load_sweep(args.file).trials > 0
    mounts = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0][
        "volumeMounts"
    ]
    assert any(args.storage_path.startswith(mount["mountPath"] + "/") for mount in mounts)
    groups = job["rayClusterSpec"]["workerGroupSpecs"]
    assert all(
        group["replicas"] == group["minReplicas"] == group["maxReplicas"] for group in groups
    )


@pytest.mark.filterwarnings("ignore::UserWarning:mlflow")
def test_the_server_is_one_that_mlflow_takes_with_logins_of_its_own_database() -> None:
    from mlflow.cli import server

    deployment = next(
        made for made in objects("Deployment") if made["metadata"]["name"] == "rbnn-mlflow"
    )
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["command"][:2] == ["mlflow", "server"]
    context = server.make_context("server", list(container["command"][2:]))
    environment = {value["name"]: value.get("value") for value in container["env"]}
    assert (
        context.params["app_name"] == "basic-auth"
        and environment["MLFLOW_SERVE_ARTIFACTS"] == "true"
    )
    assert {port["containerPort"] for port in container["ports"]} == {context.params["port"]}
    login = configparser.ConfigParser()
    login.read_string(
        next(made for made in objects("ConfigMap") if made["metadata"]["name"] == "rbnn-mlflow")[
            "data"
        ]["basic_auth.ini"]
    )
    users = login["mlflow"]["database_uri"]
    assert users != environment["MLFLOW_BACKEND_STORE_URI"]
    init = next(
        made for made in objects("ConfigMap") if made["metadata"]["name"] == "rbnn-postgres-init"
    )["data"]["users.sql"]
    assert f"CREATE DATABASE {users.rpartition('/')[2]};" in init


def test_the_image_installs_the_stack_before_the_code_is_there() -> None:
    """setuptools refuses to install while the folder of a package is missing."""
    settings = packaging()
    folders = [
        settings["package-dir"].get(name, name.replace(".", "/")) for name in settings["packages"]
    ]
    made = re.search(r"mkdir -p ((?:[\w/]+ )+)", (DEPLOY / "Containerfile").read_text())
    assert made
    for folder in folders:
        assert any(f"{path}/".startswith(f"{folder}/") for path in made[1].split()), folder


def test_an_installed_package_brings_every_recipe_and_sweep_file() -> None:
    settings = packaging()
    folder = ROOT / settings["package-dir"]["rbnn.experiments"]
    taken = {
        path
        for pattern in settings["package-data"]["rbnn.experiments"]
        for path in folder.glob(pattern)
    }
    assert taken == set(folder.rglob("*.yaml"))


def test_the_packages_listed_are_those_that_are_there() -> None:
    settings = packaging()
    there = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for name in ("rbnn", "tune")
        for path in (ROOT / name).rglob("*.py")
    }
    assert there == set(settings["packages"]) - set(settings["package-dir"])
