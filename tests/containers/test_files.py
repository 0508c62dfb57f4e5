"""The Dockerfile and the compose files agree with the code, with each other, and with what production asks for."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import grimp
import pytest

from services.api.following import QUIET_S
from services.api.waiting import LONGEST_WAIT_S
from shared.settings import Settings
from shared.version import VERSION
from stack.credentials import FOLDERS, create
from tests.containers.described import BIN, COMPOSE_FILES, DOCKERFILE, ROOT, copied, instructions, services

COMBINATIONS = pytest.mark.parametrize("combination", COMPOSE_FILES)
FIRST_PARTY = ("migrations", "services", "shared", "stack")

ENTRIES = {
    "api": ["services.api.server"],
    "orchestrator": ["services.orchestrator.orchestrator", "migrations", "stack.policies", "stack.credentials"],
    "worker": ["services.generator.serving", "services.prm.serving"],
    "worker-vllm": ["services.generator.serving", "services.prm.serving"],
}
"""What each image runs."""

PAGE = (ROOT / "docs" / "operations" / "compose.md").read_text()

SERVERS = {"postgres", "rabbitmq"}


def _once(service: dict[str, Any]) -> bool:
    return bool(service.get("restart") == "no")


def _seconds(duration: str) -> float:
    """Read a duration such as `1m0s`."""
    return sum(
        float(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in re.findall(r"([\d.]+)([hms])", duration)
    )


@COMBINATIONS
def test_every_service_is_hardened_limited_and_watched(combination: str) -> None:
    for name, service in services(combination).items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name
        assert "cap_add" not in service or name in SERVERS, name
        if _once(service):
            assert service["healthcheck"] == {"disable": True}, name
        else:
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"][0] == "CMD", name


@COMBINATIONS
def test_images_are_pinned_and_ours_have_the_version_of_the_code(combination: str) -> None:
    for name, service in services(combination).items():
        repository, _, tag = service["image"].partition(":")
        if "build" in service:
            assert tag == VERSION, name
            assert repository == f"trim-{service['build']['target']}", name
        else:
            assert re.match(r"v?\d", tag), f"{name}: {service['image']}"


@COMBINATIONS
def test_settings_exist(combination: str) -> None:
    known = {f"TRIM_{name.upper()}{end}" for name in Settings.model_fields for end in ("", "_FILE")}
    for name, service in services(combination).items():
        named = {each for each in service.get("environment", {}) if each.startswith("TRIM_")}
        assert named <= known, name


@COMBINATIONS
def test_variables_choose_what_happens_while_a_role_is_away_with_the_defaults_of_the_code(combination: str) -> None:
    given = {
        "api": ("when_prm_away", "when_large_away", "when_small_away", "away_patience_s"),
        **dict.fromkeys(("small", "prm", "large"), ("stall_s", "stretch_s")),
    }
    for name, fields in given.items():
        variables = services(combination)[name]["environment"]
        for field in fields:
            default = Settings.model_fields[field].default
            assert type(default)(variables[f"TRIM_{field.upper()}"]) == default


@COMBINATIONS
def test_a_role_starts_with_what_the_files_set_by_default(combination: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for service in services(combination).values():
        with monkeypatch.context() as patch:
            for variable, value in service.get("environment", {}).items():
                if variable.startswith("TRIM_") and not variable.endswith("_FILE"):
                    patch.setenv(variable, value)
            Settings()


def test_settings_of_the_images_exist() -> None:
    known = {f"TRIM_{name.upper()}" for name in Settings.model_fields}
    named = {each for name, rest in instructions() if name == "ENV" for each in re.findall(r"\bTRIM_\w+", rest)}
    assert named
    assert named <= known


@COMBINATIONS
def test_only_the_port_with_tls_is_open_to_others(combination: str) -> None:
    for name, service in services(combination).items():
        for port in service.get("ports", []):
            assert port.get("host_ip") == "127.0.0.1" or name == "nginx", name


@COMBINATIONS
def test_workers_can_be_scaled_and_stop_in_peace(combination: str) -> None:
    for role in ("small", "prm", "large", "orchestrator"):
        service = services(combination)[role]
        assert "container_name" not in service
        assert "ports" not in service
        assert _seconds(service["stop_grace_period"]) > Settings.model_fields["stop_grace_s"].default


def test_workers_reach_no_database_and_the_api_no_broker() -> None:
    """The servers have a network each."""
    found = services("cpu")
    assert {name for name, each in found.items() if "database" in each.get("networks", {})} == {
        "postgres", "migrate", "policies", "api", "orchestrator",
    }  # fmt: skip
    assert {name for name, each in found.items() if "broker" in each.get("networks", {})} == {
        "rabbitmq", "orchestrator", "small", "prm", "large", "prometheus",
    }  # fmt: skip
    assert set(found["postgres"]["networks"]) == {"database"}
    assert set(found["rabbitmq"]["networks"]) == {"broker"}


def test_each_container_has_the_passwords_that_its_settings_name_and_no_others(tmp_path: Path) -> None:
    folders = {
        mount["source"]: tmp_path / Path(mount["target"]).relative_to(FOLDERS)
        for mount in services("cpu")["credentials"]["volumes"]
    }
    for folder in folders.values():
        folder.mkdir()
    create(tmp_path)
    for name, service in services("cpu").items():
        files = [value for value in service.get("environment", {}).values() if value.startswith("/run/credentials/")]
        mounts = [each for each in service.get("volumes", []) if each["target"] == "/run/credentials"]
        assert len(mounts) <= 1
        assert all(mount["read_only"] for mount in mounts)
        for file in files:
            assert (folders[mounts[0]["source"]] / Path(file).name).is_file(), f"{name}: {file}"


def test_nginx_agrees_with_the_api() -> None:
    conf = (ROOT / "docker" / "nginx" / "templates" / "trim.conf.template").read_text()

    def value(directive: str) -> str:
        found = re.search(rf"^\s*{directive} (.*);", conf, re.MULTILINE)
        assert found, directive
        return found[1]

    assert int(value("client_max_body_size")) == Settings.model_fields["max_stream_bytes"].default
    assert value("proxy_request_buffering") == "off"
    assert float(value("keepalive_timeout").removesuffix("s")) < Settings.model_fields["api_keep_alive_s"].default
    assert value("proxy_buffering") == "off"
    assert float(value("proxy_read_timeout").removesuffix("s")) > max(LONGEST_WAIT_S, QUIET_S)
    assert value("server") == f"api:{Settings.model_fields['api_port'].default} resolve"
    assert value("listen").startswith(f"{services('cpu')['nginx']['ports'][0]['target']} ")


@pytest.mark.parametrize(("keys", "status"), [("required", 0), ("none", 1)])
def test_the_port_that_is_open_to_others_opens_only_if_the_api_requires_keys(keys: str, status: int) -> None:
    nginx = services("cpu")["nginx"]
    assert nginx["environment"]["API_KEYS"] == services("cpu")["api"]["environment"]["TRIM_API_KEYS"]
    [script] = [each["source"] for each in nginx["volumes"] if each["target"].startswith("/docker-entrypoint.d/14-")]
    done = subprocess.run([script], env={"API_KEYS": keys}, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert ("set API_KEYS=required" in done.stderr) == bool(status)


def test_prometheus_asks_the_port_that_the_images_serve() -> None:
    served = {
        port for name, rest in instructions() if name == "ENV" for port in re.findall(r"METRICS_PORT=(\d+)", rest)
    }
    asked = set(re.findall(r"port: (\d+)", (ROOT / "docker" / "prometheus" / "prometheus.yml").read_text()))
    assert served == asked


@pytest.mark.parametrize("file", ["postgres/10-trim.sh", "nginx/14-keys-required.sh", "nginx/16-first-resolver.envsh",
                                  "run-role", "install-locked"])  # fmt: skip
def test_scripts_are_executable(file: str) -> None:
    """The servers' images read a script that is not into their own shell, or pass it over."""
    assert os.access(ROOT / "docker" / file, os.X_OK)


def test_mounted_files_exist() -> None:
    for name, service in services("cpu").items():
        for mount in service.get("volumes", []):
            assert mount["type"] != "bind" or Path(mount["source"]).exists(), name


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([BIN / "hadolint", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("image", ENTRIES)
def test_an_image_has_what_its_role_imports_and_no_other_package(image: str) -> None:
    graph = grimp.build_graph(*FIRST_PARTY)
    needed = set(ENTRIES[image]) | {"shared.observe.probe"}
    for entry in ENTRIES[image]:
        needed |= graph.find_upstream_modules(entry)
    files = {_file(module) for module in needed}
    sources = copied(image)
    assert not {file for file in files if not any(_holds(each, file) for each in sources)}
    packages = {each for each in sources if each.startswith(FIRST_PARTY) and (ROOT / each).is_dir()}
    assert not {each for each in packages if not any(_holds(each, file) for file in files)}


def _holds(source: str, file: str) -> bool:
    return fnmatch(file, source) or file.startswith(f"{source}/")


def _file(module: str) -> str:
    path = module.replace(".", "/")
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"


def test_the_builder_sends_every_file_that_is_copied() -> None:
    """`.dockerignore` lists what is sent."""
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = {
        source
        for name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert sources
    for source in sources:
        assert list(ROOT.glob(source)), source
        assert any(source == each or source.startswith(f"{each}/") for each in sent), source


def test_the_image_for_gpus_has_the_vllm_that_the_engine_is_written_for() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = re.search(r"vllm-openai:v(\d+\.\d+)\.\d+", DOCKERFILE.read_text())
    assert found
    assert extras["vllm"] == [f"vllm>={found[1]},<0.{int(found[1].split('.')[1]) + 1}"]


def test_the_page_explains_every_variable_of_the_compose_files() -> None:
    files = {file for combination in COMPOSE_FILES.values() for file in combination}
    used = {name for file in files for name in re.findall(r"\$\{(\w+)", (ROOT / file).read_text())}
    assert used
    assert not {name for name in used if name not in PAGE}


@pytest.mark.parametrize("text", [PAGE, (ROOT / "README.md").read_text()], ids=["compose.md", "README.md"])
def test_commands_name_services_profiles_and_files_that_exist(text: str) -> None:
    commands = re.findall(r"docker compose .*", text.replace("\\\n", " "))
    named = {
        name for each in commands for name in re.findall(r"(?:exec|restart|logs|run --rm|--follow) ([a-z]+)", each)
    }
    named |= {name for each in commands for name in re.findall(r"--scale ([a-z]+)=", each)}
    assert named
    assert named <= set(services("cpu"))
    profiles = {name for each in services("cpu").values() for name in each.get("profiles", [])}
    assert {name for each in commands for name in re.findall(r"--profile (\S+)", each)} <= profiles
    for file in {name for each in commands for name in re.findall(r"-f (\S+)", each)}:
        assert (ROOT / file).is_file(), file
