"""A release from this checkout: what a user downloads works without this checkout and without Python."""

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import release
from kubectl_serve import __version__
from support.paths import ROOT
from support.programs import program

URL = "https://example.com/kubectl-serve/releases/download/v1"
MODEL = """apiVersion: apps/v1
kind: Deployment
metadata:
  name: iris
  annotations: {kubectl-serve.dev/model: "s3://models/iris/model.joblib"}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("release")
    release.release(__version__, out, release.PARTS, URL)
    return out


@pytest.fixture(scope="module")
def unpacked(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(made / f"{release.archive_name()}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "kubectl-serve"


def output(*command: str | Path, stdin: str = "", path: str = "") -> str:
    """What a program prints. ``path``: where it finds other programs, such as Python: nowhere."""
    environment = {"PATH": path, "HOME": "/nonexistent"}
    done = subprocess.run(
        list(map(str, command)), input=stdin, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_command_runs_without_python(unpacked: Path) -> None:
    serve = unpacked / "kubectl-serve"
    assert output(serve, "version", "--client") == f"kubectl-serve {__version__}\n"
    assert "kubectl serve create" in output(serve, "--help")
    assert "model-loader" in output(serve, "render", "-f", "-", stdin=MODEL), "it has its manifests and the core"
    assert "ServingPolicy" in output(serve, "install", "--dry-run", "-o", "yaml", "--registry", "example.com/images")
    assert "create" in output(unpacked / "kubectl_complete-serve", "cre", path="/usr/bin:/bin")


@pytest.mark.slow
def test_the_command_brings_nothing_of_the_tests_or_the_server(unpacked: Path) -> None:
    names = {path.name.partition(".")[0] for path in (unpacked / "_internal").iterdir()}
    assert not names & {"hypothesis", "mypy", "numpy", "sklearn", "_awscrt", "orjson", "grpc"}


@pytest.mark.slow
def test_krew_installs_the_command(made: Path, tmp_path: Path) -> None:
    archive = made / f"{release.archive_name()}.tar.gz"
    command = [program("krew"), "install", f"--manifest={made / 'serve.yaml'}", f"--archive={archive}"]
    subprocess.run(command, check=True, env=os.environ | {"KREW_ROOT": str(tmp_path)}, capture_output=True)
    assert output(tmp_path / "bin/kubectl-serve", "version", "--client") == f"kubectl-serve {__version__}\n"


@pytest.mark.slow
def test_the_checksums_are_those_of_every_file(made: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=made, check=True, capture_output=True)
    listed = {line.split()[1] for line in (made / "SHA256SUMS").read_text().splitlines()}
    assert listed == {path.name for path in made.iterdir()} - {"SHA256SUMS"}


@pytest.mark.slow
def test_the_wheel_asks_a_user_of_the_command_for_nothing_of_the_server(made: Path) -> None:
    (wheel,) = made.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        required = re.findall(r"^Requires-Dist: ([\w.-]+)(?!.*extra ==).*$", archive.read(name).decode(), re.MULTILINE)
        assert "kubectl_serve/manifests/base/50-webhooks.yaml" in archive.namelist()
    assert "pydantic" in required
    assert not {"orjson", "prometheus-client", "awscrt", "grpcio"} & set(required)


@pytest.mark.slow
@pytest.mark.parametrize("image", release.LOCKS)
def test_the_sbom_names_every_locked_distribution(made: Path, image: str) -> None:
    locked = set(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / release.LOCKS[image]).read_text(), re.MULTILINE))
    components = json.loads((made / f"{image}.cdx.json").read_text())["components"]
    assert locked
    assert locked <= {(each["name"], each["version"]) for each in components}


def test_an_archive_depends_on_its_content_alone(tmp_path: Path) -> None:
    archives = []
    for number, mode in enumerate((0o700, 0o755)):
        folder = tmp_path / str(number) / "kubectl-serve"
        folder.mkdir(parents=True)
        for name in ("b", "a") if number else ("a", "b"):
            (folder / name).write_text(name)
            os.utime(folder / name, (number, number))
        (folder / "a").chmod(mode)
        (folder / "link").symlink_to("a")
        release.write_archive(tmp_path / f"{number}.tar.gz", folder, 1_700_000_000)
        archives.append((tmp_path / f"{number}.tar.gz").read_bytes())
    assert archives[0] == archives[1]


def test_the_manifest_for_krew_names_each_archive(tmp_path: Path) -> None:
    for name in ("linux-amd64", "linux-arm64", "darwin-arm64", "windows-amd64"):
        (tmp_path / f"kubectl-serve-{name}.tar.gz").write_bytes(name.encode())
    release.krew_manifest(tmp_path, URL)
    platforms = yaml.safe_load((tmp_path / "serve.yaml").read_text())["spec"]["platforms"]
    assert [tuple(each["selector"]["matchLabels"].values()) for each in platforms] == [
        ("darwin", "arm64"), ("linux", "amd64"), ("linux", "arm64"), ("windows", "amd64")
    ]  # fmt: skip
    assert platforms[0]["uri"] == f"{URL}/kubectl-serve-darwin-arm64.tar.gz"
    assert platforms[3]["bin"] == "kubectl-serve.exe"


def test_another_version_than_the_checkouts_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts/release.py"), "9.9.9", "--out", str(tmp_path / "dist")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: this is {__version__}, not 9.9.9: change plugin/kubectl_serve/__init__.py\n"
    assert not (tmp_path / "dist").exists()
