"""The command line: help, verbs, flags as in kubectl, errors and exit codes."""

import subprocess
import sys

import pytest

from kubectl_serve.cli import options
from kubectl_serve.cli.flags import FLAGS
from kubectl_serve.cli.verbs import BY_NAME, VALUE_FLAGS, VERBS, help_text
from kubectl_serve.errors import UsageError
from support.fake_cluster import FakeCluster, at_the_end
from unit.kubectl_serve.conftest import Run


def test_help_lists_every_verb() -> None:
    assert all(f"  {verb.name} " in help_text() and verb.summary in help_text() for verb in VERBS)


def test_help_fits_the_screen() -> None:
    assert max(map(len, help_text().splitlines())) <= 120


@pytest.mark.parametrize("name", BY_NAME)
def test_every_verb_has_help(run: Run, name: str) -> None:
    screen = run(name, "--help")
    assert screen.code == 0
    assert f"usage: kubectl serve {name}" in screen.out
    assert screen.err == ""
    assert run("help", name) == screen


@pytest.mark.parametrize("name", [verb.name for verb in VERBS if verb.online])
def test_whatever_asks_a_cluster_takes_kubectls_own_flags(run: Run, name: str) -> None:
    shown = run(name, "--help").out
    assert "\nkubectl's flags, such as --context, work too: `kubectl options` lists them.\n" in shown
    taken = {flag for flags, *_ in FLAGS[name] for flag in flags}
    assert [flag for flag in VALUE_FLAGS if flag not in ("-n", "--namespace") and flag not in taken] == []


def test_an_unknown_verb_is_refused_with_the_nearest(run: Run) -> None:
    screen = run("craete", "iris")
    assert (screen.code, screen.out) == (1, "")
    assert screen.err == 'error: "craete" is not a verb.\nhint: Did you mean `kubectl serve create`?\n'


def test_an_unknown_flag_is_refused_with_exit_code_1(run: Run) -> None:
    screen = run("get", "--colour")
    assert (screen.code, screen.out) == (1, "")
    assert screen.err == "error: unknown flag: --colour.\nhint: `kubectl serve get --help` shows the flags.\n"


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (
            ["create", "iris", "--modle", "s3://models/iris"],
            "unknown flag: --modle.\nhint: Did you mean --mode or --model? ",
        ),
        (
            ["create", "iris", "--modle=s3://models/iris"],
            "unknown flag: --modle.\nhint: Did you mean --mode or --model? ",
        ),
        (["logs", "iris", "-x"], "unknown flag: -x.\nhint: `kubectl serve logs --help`"),
        (["get", "-xA"], "unknown flag: -x.\nhint: "),
        (
            ["create", "iris", "--wait=no"],
            '--wait must be true or false, not "no".\nhint: Write --wait=false.',
        ),
    ],
)
def test_a_wrong_flag_is_reported_before_missing_ones(run: Run, words: list[str], reported: str) -> None:
    screen = run(*words)
    assert screen.code == 1
    assert screen.err.startswith(f"error: {reported}")


def test_an_unknown_verb_is_refused_with_all_of_them_where_none_is_near(run: Run) -> None:
    assert run("frobnicate").err.startswith('error: "frobnicate" is not a verb.\nhint: Verbs: create, get, ')


@pytest.mark.parametrize("written", ["iris", "deployment/iris", "deploy/iris", "deployment.apps/iris"])
def test_a_deployment_is_named_as_kubectl_names_and_prints_it(run: Run, written: str) -> None:
    for words in (["get"], ["delete"], ["describe"], ["policy", "explain"], ["runtimes", "--roll-out"]):
        screen = run(*words, written, cluster=FakeCluster())
        assert screen.err.startswith("error: there is no Deployment iris in namespace default.\n"), words


def test_what_is_proposed_is_for_the_same_cluster_and_namespace(run: Run) -> None:
    screen = run("--context", "a b", "rollback", "iris", "-n", "models", cluster=FakeCluster(at_the_end("iris")))
    assert "`kubectl serve describe iris --context 'a b' -n models` lists its revisions" in screen.err


@pytest.mark.parametrize("written", ["ksvc/iris", "deployment/", "a/deployment/iris", ""])
def test_what_is_no_deployment_is_not_looked_for(run: Run, written: str) -> None:
    screen = run("describe", written, cluster=FakeCluster())
    assert f'"{written}" is not a Deployment: write NAME or deployment/NAME' in screen.err


def test_flags_may_stand_before_the_verb_and_between_operands(run: Run) -> None:
    cluster = FakeCluster()
    assert run("-n", "models", "get", cluster=cluster).err == "No served models found in models namespace.\n"
    assert "NAME cannot be combined" in run("get", "iris", "-A", "wine", cluster=cluster).err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], True),
        (["--wait"], True),
        (["--wait=T"], True),
        (["--wait=0"], False),
        (["--wait=true"], True),
        (["--wait=false"], False),
        (["--no-wait"], False),
    ],
)
def test_a_switch_is_written_as_in_kubectl(words: list[str], expected: bool) -> None:
    parser = options.Parser(BY_NAME["delete"])
    parser.switch("--wait", help="", default=True)
    assert parser.read(words).wait is expected


@pytest.mark.parametrize(
    ("words", "expected"), [([], "none"), (["--dry-run"], "client"), (["--dry-run=server"], "server")]
)
def test_dry_run_needs_no_value_and_takes_one_after_the_equals_sign(words: list[str], expected: str) -> None:
    parser = options.Parser(BY_NAME["create"])
    options.dry_run(parser)
    parser.add_argument("name", nargs="?")
    assert parser.read([*words, "iris"]).dry_run == expected


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1m30s", 90), ("1h", 3600), ("500ms", 0.5)])
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert options.duration(text) == pytest.approx(seconds)


def test_a_wrong_duration_is_refused(run: Run) -> None:
    screen = run("delete", "iris", "--timeout", "soon")
    assert screen.code == 1
    assert '"soon" is not a duration; write it as 90s or 1m30s' in screen.err


def test_a_missing_name_is_a_usage_error() -> None:
    parser = options.Parser(BY_NAME["logs"])
    parser.add_argument("name", metavar="NAME")
    with pytest.raises(UsageError, match="NAME"):
        parser.read([])


def test_no_kubeconfig_is_said_with_a_hint(tmp_path: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kubectl_serve", "get"],
        env={"HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: no cluster is configured: no kubeconfig was found.\nhint: Set KUBECONFIG, or pass --kubeconfig FILE.\n"
    )


@pytest.mark.parametrize("argv", ["--help", "completion bash"])
def test_a_disk_that_is_full_is_no_traceback(argv: str) -> None:
    done = subprocess.run(
        f"{sys.executable} -m kubectl_serve {argv} > /dev/full",
        shell=True,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "error: the output cannot be written: No space left on device.\n")


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    process = subprocess.Popen(
        f"{sys.executable} -m kubectl_serve completion bash | true", shell=True, stderr=subprocess.PIPE, text=True
    )
    _, err = process.communicate()
    assert err == ""
