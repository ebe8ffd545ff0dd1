"""Models of an MLflow tracking server: versions, aliases, logged models, and where their files are."""

import json
from collections.abc import Iterator

import pytest

from support import loader_harness as harness
from support.loader_harness import Loader, MLflow, Reply, Request, Store, WebServer

FILES = {"MLmodel": b"flavors: {}\n", "data/model 1.pkl": b"weights", "code/a=b+%.txt": b"text"}


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflow]:
    with harness.mlflow(tmp_path_factory.mktemp("mlflow")) as running:
        running.put("models/iris", FILES)
        running.register("iris", "mlflow-artifacts:/models/iris")
        running.put("models/other", {"MLmodel": b"second"})
        running.register("iris", "mlflow-artifacts:/models/other", alias="champion")
        running.register("credit risk", "mlflow-artifacts:/models/iris")
        running.register("stored", "s3://models/iris")
        running.register("azure", "wasbs://models@acme.blob.core.windows.net/iris")
        running.register("volume", "dbfs:/databricks/mlflow-registry/abc")
        yield running


@pytest.fixture
def mlflow(tracking: MLflow, load: Loader) -> str:
    """The URI of the server, with the loader's Secret for it."""
    load.credentials(MLFLOW_TRACKING_URI=f"{tracking.url}/\n")
    return f"mlflow://{tracking.authority}"


def test_a_version_an_alias_and_a_path(load: Loader, mlflow: str) -> None:
    run = load(f"{mlflow}/iris/1")
    assert run.files() == FILES, run.output
    assert run.message["resolved"] == "iris version 1"

    run = load(f"{mlflow}/iris@champion")
    assert run.files() == {"MLmodel": b"second"}
    assert run.message["resolved"] == "iris version 2"

    assert load(f"{mlflow}/credit%20risk/1/data").files() == {"model 1.pkl": b"weights"}
    assert load(f"{mlflow}/iris/1/data/model%201.pkl").files() == {"model 1.pkl": b"weights"}


@pytest.mark.parametrize(
    "absent", ["iris/9", "iris@nobody", "absent/1", "absent@champion", "iris/1/absent", "m-" + "0" * 32]
)
def test_what_the_server_does_not_have(load: Loader, mlflow: str, absent: str) -> None:
    run = load(f"{mlflow}/{absent}")
    assert run.code == "NotFound", run.output


def test_files_in_a_store_with_the_same_secret(load: Loader, mlflow: str, s3: Store) -> None:
    s3.put("models", {"iris/MLmodel": b"stored", "iris/data/a": b"1", "iris-2/b": b"2"})

    assert load(f"{mlflow}/stored/1").files() == {"MLmodel": b"stored", "data/a": b"1"}


@pytest.mark.attack(33)
def test_a_policys_stores_hold_for_where_the_server_leads(
    load: Loader, mlflow: str, tracking: MLflow, s3: Store
) -> None:
    s3.put("models", {"iris/MLmodel": b"stored"})
    server = ("--store", f"mlflow://{tracking.authority} {tracking.url}")

    run = load(f"{mlflow}/stored/1", options=server)
    assert run.code == "Refused"
    assert "s3://models/iris" in str(run.message["message"])
    assert "--serve-artifacts" in str(run.message["hint"])
    run = load(f"{mlflow}/stored/1", options=(*server, "--store", f"s3://models/other {s3.endpoint}"))
    assert run.code == "Refused"

    assert load(f"{mlflow}/iris/1", options=server).code == "Loaded"
    assert load(f"{mlflow}/stored/1", options=(*server, "--store", f"s3://models {s3.endpoint}")).code == "Loaded"


def test_a_server_without_tls_must_be_named_in_the_secret(load: Loader, tracking: MLflow) -> None:
    run = load(f"mlflow://{tracking.authority}/iris/1")
    assert run.code == "Unreachable"
    assert f"MLFLOW_TRACKING_URI in the Secret: http://{tracking.authority}" in str(run.message["hint"])


@pytest.mark.parametrize("name", ["azure", "volume"])
def test_places_that_the_loader_does_not_read(load: Loader, mlflow: str, name: str) -> None:
    run = load(f"{mlflow}/{name}/1")
    assert run.code == "Refused", run.output
    assert "--serve-artifacts" in str(run.message["hint"])


@pytest.mark.attack(33)
def test_the_secret_cannot_lead_to_another_server(load: Loader, tracking: MLflow, web: WebServer) -> None:
    load.credentials(MLFLOW_TRACKING_URI=tracking.url, MLFLOW_TRACKING_TOKEN="the-token")
    run = load(f"mlflow://{web.url.removeprefix('http://')}/iris/1")
    assert run.code == "Refused"
    assert not web.requests


@pytest.mark.parametrize(
    ("keys", "header"),
    [
        ({"MLFLOW_TRACKING_TOKEN": "the-token\n"}, "Bearer the-token"),
        ({"MLFLOW_TRACKING_USERNAME": "user", "MLFLOW_TRACKING_PASSWORD": "pässword"}, "Basic dXNlcjpww6Rzc3dvcmQ="),
    ],
)
def test_credentials(load: Loader, web: WebServer, keys: dict[str, str], header: str) -> None:
    def answer(request: Request, number: int) -> Reply:
        if request.headers.get("Authorization") != header:
            return Reply(401)
        path = request.path.partition("/api/2.0/")[2].partition("?")[0]
        known = {
            "mlflow/model-versions/get": {"model_version": {"version": "1", "run_id": "abc\n"}},
            "mlflow/model-versions/get-download-uri": {"artifact_uri": "mlflow-artifacts:/a"},
            "mlflow-artifacts/artifacts": {"files": [{"path": "MLmodel", "is_dir": False, "file_size": 1}]},
        }
        return Reply(body=json.dumps(known[path]).encode() if path in known else b"1")

    web.fault = answer
    server = f"mlflow://{web.url.removeprefix('http://')}"
    load.credentials(MLFLOW_TRACKING_URI=f"{web.url}/ml")
    assert load(f"{server}/iris/1").code == "Unauthorized"
    load.credentials(**keys)
    run = load(f"{server}/iris/1")
    assert run.files() == {"MLmodel": b"1"}, run.output
    assert all(request.path.startswith("/ml/api/2.0/") for request in web.requests)
    assert run.message["resolved"] == "iris version 1", "an ID of the server with a line break is not repeated"


@pytest.mark.parametrize(
    "found",
    [
        {"model_version": []},
        {"artifact_uri": "mlflow-artifacts://other.example.com/a"},
        {"artifact_uri": "nothing"},
        {"artifact_uri": "file:///etc"},
        {"artifact_uri": "s3://../x"},
        {"artifact_uri": "s3://user:secret@models/x"},
        {"artifact_uri": "mlflow-artifacts:/a", "files": [{"path": "../../etc/passwd", "file_size": 1}]},
        {"artifact_uri": "mlflow-artifacts:/a", "files": [{"path": "a/b", "file_size": -1}]},
        {"artifact_uri": "mlflow-artifacts:/a", "files": [{"path": "again", "is_dir": True}]},
        {"artifact_uri": "mlflow-artifacts:/a", "files": {}},
    ],
)
@pytest.mark.attack(35)
def test_a_hostile_server(load: Loader, web: WebServer, found: dict[str, object]) -> None:
    whole = {"model_version": {"version": "1"}} | found
    web.fault = lambda request, number: Reply(body=json.dumps(whole).encode())
    load.credentials(MLFLOW_TRACKING_URI=web.url)
    run = load(f"mlflow://{web.url.removeprefix('http://')}/iris/1")
    assert run.code in ("Refused", "ServerError", "InvalidSource"), run.output
    assert "secret" not in run.output
    assert not run.files()
