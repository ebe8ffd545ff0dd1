"""The operator's settings in files."""

import asyncio
import os
from pathlib import Path

import pytest

from model_uri import Store
from serve_core.context.cluster import PRIVATE_NETWORKS
from serve_webhook import __main__, settings
from serve_webhook.settings import Configuration, SettingsError, load
from support.paths import ROOT

RUNTIMES = ROOT / "manifests" / "runtimes"


def write(folder: Path, text: str) -> Path:
    (file := folder / "settings.yaml").write_text(text)
    return file


def faults(folder: Path, text: str, runtimes: Path | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(write(folder, text), runtimes or folder / "none")
    return str(caught.value).splitlines()


def test_what_is_installed_is_valid(tmp_path: Path) -> None:
    import yaml

    (config_map,) = yaml.safe_load_all((ROOT / "manifests/base/20-settings.yaml").read_text())
    configuration = load(write(tmp_path, config_map["data"]["settings.yaml"]), RUNTIMES)
    assert configuration.loader.allow_networks == PRIVATE_NETWORKS
    assert "mlserver-sklearn" in {runtime.name for runtime in configuration.runtimes}


def test_stores_are_read(tmp_path: Path) -> None:
    text = "{loader: {image: a}, stores: [{place: 's3://models', endpoint: 'https://minio.example.com'}]}"
    assert load(write(tmp_path, text), tmp_path / "none").stores == (Store("s3://models", "https://minio.example.com"),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "it is not a mapping."),
        ("a: [", "it is not YAML (line 1)."),
        ("loader: {}", "loader.image: Field required."),
        ("loader: {image: a, imgae: b}", "loader.imgae: Extra inputs are not permitted."),
        ("loader: {image: a, allowNetworks: [10.0.0.1/8]}", "loader.allowNetworks[0]: Value error, 10.0.0.1/8"),
        (
            "{loader: {image: a}, callers: {certificateAuthority: x}}",
            "callers.certificateAuthority: Value error, it holds no certificate in PEM.",
        ),
        (
            "{loader: {image: a}, stores: [{place: 's3://a1b', endpoint: 'ftp://x'}]}",
            "stores[0]: Value error, the endpoint is not a plain http or https URL",
        ),
        ("{loader: {image: a}, stores: [{place: 's3://a1b', url: x}]}", "stores[0]"),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    (fault,) = faults(tmp_path, text)
    assert fault.startswith(f"{tmp_path / 'settings.yaml'}: {expected}")


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: Pod")
    (tmp_path / "b.yaml").write_text("[")
    (folder := tmp_path / "settings").mkdir()
    assert len(faults(folder, "{}", tmp_path)) == 3


def test_the_server_does_not_start_with_broken_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, "loader: {}")
    assert __main__.main(["--settings", str(file), "--runtimes", str(tmp_path / "none")]) == 2
    assert "loader.image" in capsys.readouterr().err


async def test_a_change_is_read_and_a_broken_one_leaves_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "POLL_SECONDS", 0.01)
    file = write(tmp_path, "loader: {image: one}")
    seen: asyncio.Queue[Configuration] = asyncio.Queue()
    valid: asyncio.Queue[bool] = asyncio.Queue()
    follower = asyncio.create_task(settings.follow(file, tmp_path / "none", seen.put_nowait, valid.put_nowait))
    async with asyncio.timeout(5):
        assert (await seen.get()).loader.image == "one"
        assert await valid.get()
        # As the kubelet changes a mounted ConfigMap: by a rename.
        for text, is_valid in (("loader: {}", False), ("loader: {image: two}", True)):
            (fresh := tmp_path / "fresh").write_text(text)
            os.replace(fresh, file)
            assert await valid.get() is is_valid
        assert (await seen.get()).loader.image == "two"
    follower.cancel()
