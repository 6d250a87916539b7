"""`Dockerfile.cuda` and its locks: what they name exists, and is what the tests ran with."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from server.settings import Settings
from tests.support.deployed import DEPLOY, ROOT, VARIABLES, dockerfile, image, routes
from tools.container import lock
from tools.container.check_image import sha256, without_cuda
from tools.container.dockerfile import DockerfileError, Ignore, context, read


@cache
def seen() -> list[str]:
    """The files that a build gets."""
    return context(ROOT, Ignore((ROOT / "Dockerfile.cuda.dockerignore").read_text("utf-8")))


def test_everything_that_is_copied_is_there_and_seen() -> None:
    """A build that ends at COPY has wasted a quarter of an hour."""
    stages = read(dockerfile())
    scope = dict(pair for i in stages[0].instructions if i.name == "ARG" for pair in i.pairs())
    copied = [i for s in stages for i in s.instructions if i.name == "COPY" and "from" not in i.flags]
    assert len(copied) >= 5
    for instruction in copied:
        *sources, _ = instruction.value.replace("${REQUIREMENTS}", scope["REQUIREMENTS"]).split()
        for source in sources:
            assert any(name == source or name.startswith(f"{source}/") for name in seen()), source


def test_a_build_sees_no_secret_and_no_leavings() -> None:
    """The context goes to a builder that may be another machine, and COPY takes whole folders."""
    tops = {name.split("/")[0] for name in seen()}
    assert tops == {
        "LICENSE",
        "NOTICE",
        "README.md",
        "docs",
        "inpaint",
        "pyproject.toml",
        "server",
        "weights.lock",
    }
    assert not [name for name in seen() if "__pycache__" in name or ".env" in name]
    assert {name for name in seen() if name.startswith("docs/")} <= {
        f"docs/deploy/{path.name}" for path in DEPLOY.glob("requirements-*.txt")
    }


def test_the_image_runs_as_an_unprivileged_user() -> None:
    """By number, so that Kubernetes can tell that it is not root."""
    assert re.fullmatch(r"1\d{4}:1\d{4}", image().last("USER").value)


def test_bases_are_pinned() -> None:
    """No tag that its owner moves by habit."""
    assert all(re.search(r":\d+\.\d+\.\d+-base-ubuntu\d", stage.base) for stage in read(dockerfile()))


def test_the_base_has_the_cuda_of_the_locked_torch() -> None:
    """Two CUDAs in an image are 3 GB too many, and sometimes the wrong one is loaded."""
    (version,) = lock.pins(lock.RUN.read_text("utf-8"))["cuda-toolkit"]
    base = re.search(r"cuda:(\d+\.\d+)", image().base)
    assert base is not None
    assert version.startswith(f"{base[1]}.")


def test_the_health_check_asks_a_route_of_ours_on_the_port_that_is_served() -> None:
    """A check of a path that is gone would have every container restarted for ever."""
    check = image().last("HEALTHCHECK").value.removeprefix("CMD").strip()
    code = json.loads(check)[-1]
    compile(code, "HEALTHCHECK", "exec")
    asked = re.search(r"'(/\w+)'", code)
    assert asked is not None
    assert asked[1] == "/readyz"
    assert asked[1] in routes()
    assert image().environment()["INPAINT_PORT"] == image().last("EXPOSE").value
    assert Settings.model_validate({"host": image().environment()["INPAINT_HOST"]}).on_loopback is False


def test_docker_waits_for_the_drain() -> None:
    """Docker's default of ten seconds would stop every painting."""
    assert image().last("STOPSIGNAL").value == "SIGTERM"
    documented = re.search(r"docker stop -t (\d+)", dockerfile())
    assert documented is not None
    assert int(documented[1]) > Settings.model_fields["drain_s"].default


@pytest.mark.parametrize(
    "text", ["ONBUILD RUN x", "FROM a\nRUN <<E\nE", "FROM a\nADD x y", "# syntax=x\nFROM a"]
)
def test_the_reader_refuses_what_it_does_not_know(text: str) -> None:
    """Else a check would pass over half of a file."""
    with pytest.raises(DockerfileError):
        read(text)


def test_an_ignore_file_is_read_as_docker_reads_it() -> None:
    """The last pattern that fits decides, and a folder takes its files along."""
    ignore = Ignore("*\n!kept\n**/__pycache__\nkept/secret*\n!kept/secret.pub\n")
    expected = {"other": True, "kept/a": False, "kept/b/__pycache__/c": True, "kept/secret/d": True}
    expected |= {"kept/secret.pub": False, "keptnot": True}
    assert {name: ignore(name) for name in expected} == expected


def test_every_variable_of_the_image_is_a_setting() -> None:
    """A misspelt variable would be ignored without a message."""
    assert {name for name in image().environment() if name.startswith("INPAINT_")} <= VARIABLES


def test_what_compiles_code_in_the_image_is_told_its_limits() -> None:
    """Else compiling is off where ldconfig's cache is missing, and takes 16 GB of memory where it is not."""
    environment = image().environment()
    assert environment["TRITON_LIBCUDA_PATH"].startswith("/usr/lib")
    assert int(environment["TORCHINDUCTOR_COMPILE_THREADS"]) <= 4


# The lock.


@pytest.mark.parametrize("path", [lock.RUN, lock.BUILD], ids=lambda path: path.name)
def test_the_lock_is_whole(path: Path) -> None:
    """Each row one version, at least one hash; no index is named."""
    rows = list(lock.entries(path.read_text("utf-8")))
    assert len(rows) > 5
    for name, version, hashes in rows:
        assert Version(version)
        assert hashes, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes)
    assert "://" not in path.read_text("utf-8")


@pytest.mark.parametrize("path", [lock.RUN, lock.BUILD], ids=lambda path: path.name)
def test_the_lock_has_the_versions_that_the_tests_ran_with(path: Path) -> None:
    """constraints.txt has them; `python -m tools.container.lock` after it changes."""
    tested = lock.pins(lock.CONSTRAINTS.read_text("utf-8"))
    locked = lock.pins(path.read_text("utf-8"))
    both = locked.keys() & tested.keys()
    assert len(both) > 4
    assert {name: locked[name] for name in both} == {name: tested[name] for name in both}


@pytest.mark.parametrize("wanted", [*lock.server_requirements(), *lock.build_requirements()])
def test_what_pyproject_asks_for_is_locked(wanted: str) -> None:
    """A dependency that is new, or newer than its lock: `python -m tools.container.lock`."""
    pins = lock.pins(lock.RUN.read_text("utf-8")) | lock.pins(lock.BUILD.read_text("utf-8"))
    requirement = Requirement(wanted)
    assert all(requirement.specifier.contains(version) for version in pins[requirement.name])


def test_torch_is_locked_as_the_index_has_it() -> None:
    """A CPU build, with its +cpu, is what some machines' pip takes; it would paint in minutes on a GPU."""
    pins = lock.pins(lock.RUN.read_text("utf-8"))
    assert not any("+" in version for version in pins["torch"])
    assert {"triton", "nvidia-cudnn-cu13", "nvidia-cublas"} <= pins.keys()


def test_a_version_that_some_pythons_want_says_which() -> None:
    """pip reads the marker; what all of them want has none."""
    both = lock.merged(
        {
            "3.11": [lock.Locked("a", "1", {"x"}, {"3.11"}), lock.Locked("b", "1", {"y"}, {"3.11"})],
            "3.12": [lock.Locked("a", "1", {"z"}, {"3.12"})],
            "3.13": [lock.Locked("a", "1", {"z"}, {"3.13"})],
        }
    )
    assert [str(one) for one in both] == [
        "a==1 \\\n    --hash=sha256:x \\\n    --hash=sha256:z",
        'b==1 ; python_version == "3.11" \\\n    --hash=sha256:y',
    ]


def test_the_check_changes_torch_and_nothing_else(tmp_path: Path) -> None:
    """What it leaves out is what only a CUDA build needs; all other rows keep their hashes."""
    wheel = tmp_path / "torch.whl"
    wheel.write_bytes(b"another build")
    whole = lock.RUN.read_text("utf-8")
    changed = list(lock.entries(without_cuda(whole, wheel)))
    kept = [row for row in lock.entries(whole) if not row[0].startswith(("nvidia-", "cuda-", "triton"))]
    assert [row for row in changed if row[0] != "torch"] == [row for row in kept if row[0] != "torch"]
    assert [hashes for name, _, hashes in changed if name == "torch"] == [[f"--hash=sha256:{sha256(wheel)}"]]
