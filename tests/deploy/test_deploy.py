"""What the files in `docs/deploy` name exists: settings, routes, flags, paths; and everybody waits enough."""

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer import Context
from typer.main import get_command

from inpaint.cli.app import app as command_line
from server.settings import Settings
from tests.support.deployed import (
    DEPLOY,
    FILES,
    ROOT,
    VARIABLES,
    YAML,
    documents,
    image,
    routes,
    seconds,
    text,
    walk,
)
from tools.container import lock


@pytest.mark.parametrize("name", FILES)
def test_every_variable_is_a_setting(name: str) -> None:
    """A misspelt variable would be ignored without a message."""
    assert set(re.findall(r"\bINPAINT_[A-Z_]+[A-Z]", text(name))) <= VARIABLES


# Compose and Kubernetes.


@pytest.mark.parametrize("name", YAML)
def test_images_are_pinned_and_files_exist(name: str) -> None:
    """No `latest`, no image without a version; a file that is mounted from its folder exists."""
    tags = [v["image"] for v in walk(documents(name)) if isinstance(v, dict) and "image" in v]
    assert tags
    for tag in tags:
        assert re.search(r"(:\d+\.\d+[\w.-]*|@sha256:[0-9a-f]{64})$", tag), tag
    for value in walk(documents(name)):
        if isinstance(value, str) and value.startswith("./"):
            assert (DEPLOY / value.split(":")[0]).exists(), value


def test_compose_gives_no_service_more_than_it_needs() -> None:
    """Read-only, no capability, no way to get one; the database's network leads nowhere."""
    (compose,) = documents("compose.yaml")
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert [name for name, service in compose["services"].items() if service.get("ports")] == ["proxy"]
    assert compose["networks"]["back"] == {"internal": True}
    assert compose["services"]["postgres"]["networks"] == ["back"]


def test_compose_finds_what_it_asks_of_its_env_file() -> None:
    """Every ``${NAME}`` without a default is in the example."""
    example = re.findall(r"^([A-Z_]+)=", text("env.example"), re.MULTILINE)
    assert set(re.findall(r"\$\{([A-Z_]+)[:?}]", text("compose.yaml"))) <= set(example)


def test_everybody_waits_longer_than_the_server() -> None:
    """The server answers a late request with 504 itself, and finishes what it began before it goes."""
    (compose,) = documents("compose.yaml")
    server = compose["services"]["server"]
    assert seconds(server["stop_grace_period"]) > float(server["environment"]["INPAINT_DRAIN_S"])
    nginx = text("nginx.conf")
    reads = re.search(r"proxy_read_timeout (\d+)s;", nginx)
    assert reads is not None
    assert float(reads[1]) > float(server["environment"]["INPAINT_DEADLINE_S"])
    (pod,) = (
        one["spec"]["template"]["spec"] for one in documents("kubernetes.yaml") if one["kind"] == "Deployment"
    )
    drain = next(v["value"] for v in pod["containers"][0]["env"] if v["name"] == "INPAINT_DRAIN_S")
    pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > float(drain) + pause
    (ray,) = documents("kuberay.yaml")
    serve = yaml.safe_load(ray["spec"]["serveConfigV2"])
    assert serve["http_options"]["request_timeout_s"] is None


def test_nginx_takes_what_the_server_takes() -> None:
    """The server's limit is met first; events are not held back; Ray's header is the operator's."""
    nginx = text("nginx.conf")
    size = re.search(r"client_max_body_size (\d+)m;", nginx)
    assert size is not None
    assert int(size[1]) << 20 > Settings.model_fields["max_body_bytes"].default
    events = re.search(r"location ~ (\S+) \{\s+proxy_buffering off;", nginx)
    assert events is not None
    assert re.match(events[1], "/v2/requests/0123/events")
    assert 'proxy_set_header X-Request-Timeout-Seconds "";' in nginx


@pytest.mark.parametrize("name", ["kubernetes.yaml", "kuberay.yaml"])
def test_pods_are_careful(name: str) -> None:
    """As the image is meant to be run; a Service's INPAINT_ variables stay out; probes ask what is there."""
    specs = [v for v in walk(documents(name)) if isinstance(v, dict) and "containers" in v]
    assert specs
    for pod in specs:
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert f"{pod['securityContext']['runAsUser']}" in image().last("USER").value
        mounted = {mount["name"] for one in pod["containers"] for mount in one["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        for one in pod["containers"]:
            assert one["securityContext"]["readOnlyRootFilesystem"] is True
            assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            ports = {port["name"] for port in one["ports"]}
            for probe in (one[key] for key in one if key.endswith("Probe") and "httpGet" in one[key]):
                assert probe["httpGet"]["path"] in routes()
                assert probe["httpGet"]["port"] in ports


def test_a_gpu_paints_and_ray_is_the_locked_one() -> None:
    """The head has no GPU and takes no work; a worker has one."""
    (ray,) = documents("kuberay.yaml")
    cluster = ray["spec"]["rayClusterConfig"]
    assert {cluster["rayVersion"]} == lock.pins(lock.RUN.read_text("utf-8"))["ray"]
    assert cluster["authOptions"] == {"mode": "token"}
    head = cluster["headGroupSpec"]["rayStartParams"]
    assert head["num-cpus"] == "0"
    assert "dashboard-host" not in head, "KubeRay deploys through the dashboard, from another pod"
    for group in cluster["workerGroupSpecs"]:
        assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_the_config_of_ray_serve_names_what_exists() -> None:
    """Names that only Ray imports, in a cluster, minutes after `kubectl apply`."""
    (ray,) = documents("kuberay.yaml")
    (application,) = yaml.safe_load(ray["spec"]["serveConfigV2"])["applications"]
    paths = {application["import_path"], *re.findall(r"server\.ray\.\w+:\w+", text("kuberay.yaml"))}
    assert len(paths) == 2
    for module, name in (path.split(":") for path in paths):
        code = (ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8")
        assert re.search(rf"^def {name}\(", code, re.MULTILINE), f"{module}:{name}"
    assert application["args"].keys() <= Settings.model_fields.keys()
    (group,) = ray["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert application["args"]["workers"] == group["replicas"]


def test_serve_deploy_takes_what_kubernetes_does() -> None:
    """One configuration without Kubernetes: the same application, with names of settings, as Ray reads it."""
    from ray.serve.schema import ServeDeploySchema

    (ray,) = documents("kuberay.yaml")
    theirs = yaml.safe_load(ray["spec"]["serveConfigV2"])
    (ours,) = documents("serve.yaml")
    schema = ServeDeploySchema.model_validate(ours)
    assert schema.applications[0].import_path == theirs["applications"][0]["import_path"]
    assert ours["http_options"] == theirs["http_options"]
    assert ours["applications"][0]["args"].keys() <= Settings.model_fields.keys()


# systemd.


def unit() -> configparser.RawConfigParser:
    """The unit's sections; of a key that is there several times, the last."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "inpaint.service", "utf-8")
    return parser


def test_the_unit_starts_what_there_is() -> None:
    """Each flag is one of `inpaint serve`'s."""
    program, command, *arguments = shlex.split(unit()["Service"]["ExecStart"])
    assert Path(program).name == "inpaint"
    group = get_command(command_line)
    _, serve, _ = group.resolve_command(Context(group), [command])  # type: ignore[attr-defined]
    flags = {flag for parameter in serve.params for flag in parameter.opts}
    assert {word for word in arguments if word.startswith("--")} <= flags
    assert seconds(unit()["Service"]["TimeoutStopSec"]) > Settings.model_fields["drain_s"].default


def test_the_unit_is_valid(tmp_path: Path) -> None:
    """By systemd's own verdict where it is there, against a root with the programs that the unit names."""
    service = unit()["Service"]
    assert (service["ProtectSystem"], service["NoNewPrivileges"], service["PrivateTmp"]) == (
        "strict",
        "yes",
        "yes",
    )
    assert "DeviceAllow" in service
    if shutil.which("systemd-analyze") is None:
        return  # what is above is all that can be said without it
    program = Path(shlex.split(service["ExecStart"])[0])
    (tmp_path / "inpaint").write_text("#!/bin/sh\n")
    (tmp_path / "inpaint").chmod(0o755)
    mended = text("inpaint.service").replace(str(program), str(tmp_path / "inpaint"))
    (tmp_path / "inpaint.service").write_text(mended)
    verify = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "inpaint.service")]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "inpaint.service" in line]
    assert (done.returncode, ours) == (0, []), done.stderr
