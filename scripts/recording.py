"""A recorded terminal as an animated SVG: real commands, their real output and its real times.

The recording (``docs/images/terminal.json``) and the picture are two files: the same recording always gives the same
picture, and a test compares them.
"""

import argparse
import json
import os
import pty
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDING = ROOT / "docs/images/terminal.json"
PICTURE = RECORDING.with_suffix(".svg")

NAMESPACE = "demo"
COMMANDS = (
    "kubectl serve create iris --model s3://models/iris/model.joblib --credentials store",
    "kubectl serve get iris",
    "kubectl serve predict iris '[[5.1, 3.5, 1.4, 0.2]]'",
)
COLUMNS, ROWS = 100, 24
SECONDS = 300
"""Of one command, at most."""

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_TYPING = 0.035
"""Seconds for each typed character."""
_PAUSE = 0.9
"""Seconds to read an output, before the next command."""
_LONGEST_WAIT = 3.0
"""Seconds: a longer wait for output is shown as this."""
_WIDTH, _HEIGHT = 8.43, 20
"""Of a character, in pixels."""
_MARGIN, _BAR = 18, 34


@dataclass(frozen=True)
class Step:
    """One command, with its output line by line."""

    command: str
    lines: list[tuple[float, str]]
    """Seconds after the command began, and the text."""


def record(command: str) -> Step:
    """Run a command in a terminal of its own. Raises SystemExit if it fails."""
    environment = os.environ | {"COLUMNS": str(COLUMNS), "LINES": str(ROWS), "TERM": "dumb", "NO_COLOR": "1"}
    shown, hidden = pty.openpty()
    began = time.monotonic()
    process = subprocess.Popen(
        ["bash", "-c", command], stdout=hidden, stderr=hidden, stdin=subprocess.DEVNULL, env=environment
    )
    os.close(hidden)
    lines: list[tuple[float, str]] = []
    for at, line in _lines(shown, began):
        # A line that a command writes over itself is shown once, as it was last.
        text = _CONTROL.sub("", line).rpartition("\r")[2].rstrip()
        lines += [(at, part) for part in _wrapped(text)]
    if process.wait(SECONDS):
        raise SystemExit(f"error: this failed with exit code {process.returncode}: {command}")
    return Step(command, lines)


def _lines(terminal: int, began: float) -> Iterator[tuple[float, str]]:
    rest = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            # Linux's end of a terminal whose other side is closed.
            data = b""
        at = time.monotonic() - began
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield at, line.decode(errors="replace").removesuffix("\r")
        if not data:
            if rest:
                yield at, rest.decode(errors="replace")
            return


def _wrapped(text: str) -> list[str]:
    """The lines of a text that is longer than the terminal is wide."""
    return [text[begin : begin + COLUMNS] for begin in range(0, len(text), COLUMNS)] or [""]


def draw(steps: list[Step]) -> str:
    """The picture: each line appears at its time, once. Without motion, all lines are there."""
    rows: list[str] = []
    rules: list[str] = []
    now = 0.6
    for number, step in enumerate(steps):
        typed = len(step.command) * _TYPING
        rows.append(_row(len(rows), f'<tspan class="prompt">$ </tspan>{escape(step.command)}', f"c{number}"))
        # Afterwards, no clip is left: Chromium keeps the one before the last step, without the last character.
        rules.append(f".c{number}{{animation:type {typed:.2f}s steps({len(step.command) + 2}) {now:.2f}s backwards}}")
        now += typed + 0.3
        before = 0.0
        for line, (at, text) in enumerate(step.lines):
            now += min(max(at - before, 0.0), _LONGEST_WAIT)
            before = at
            name = f"l{number}-{line}"
            rows.append(_row(len(rows), escape(text), f"o {name}"))
            rules.append(f".{name}{{animation:show 1ms {now:.2f}s both}}")
        now += _PAUSE
    width = round(COLUMNS * _WIDTH) + 2 * _MARGIN
    height = _BAR + (len(rows) + 1) * _HEIGHT + _MARGIN
    label = escape("A terminal: " + "; ".join(step.command for step in steps), quote=True)
    dots = "".join(f'<circle cx="{_MARGIN + 6 + 18 * place}" cy="17" r="5.5"/>' for place in range(3))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{label}">\n<style>\n{_STYLE}@media (prefers-reduced-motion:no-preference){{\n'
        + "".join(f"{rule}\n" for rule in rules)
        + "}\n</style>\n"
        + f'<rect class="window" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="9"/>\n'
        + f'<g class="dots">{dots}</g>\n'
        + "".join(f"{row}\n" for row in rows)
        + "</svg>\n"
    )


_STYLE = """\
text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;white-space:pre;fill:#1f2328}
.o{fill:#57606a}
.prompt{fill:#1a7f37}
.window{fill:#f6f8fa;stroke:#d0d7de}
.dots{fill:#d0d7de}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}
.o{fill:#9da7b3}
.prompt{fill:#3fb950}
.window{fill:#0d1117;stroke:#30363d}
.dots{fill:#30363d}
}
@keyframes type{from{clip-path:inset(0 100% 0 0)}to{clip-path:inset(0 0 0 0)}}
@keyframes show{from{opacity:0}to{opacity:1}}
"""


def _row(number: int, content: str, names: str) -> str:
    y = _BAR + (number + 1) * _HEIGHT
    return f'<text class="{names}" x="{_MARGIN}" y="{y}" xml:space="preserve">{content}</text>'


def load(text: str) -> list[Step]:
    return [Step(each["command"], [(at, line) for at, line in each["lines"]]) for each in json.loads(text)]


def dump(steps: list[Step]) -> str:
    rounded = [Step(each.command, [(round(at, 2), line) for at, line in each.lines]) for each in steps]
    return json.dumps([asdict(each) for each in rounded], indent=1) + "\n"


def record_all() -> list[Step]:
    """Run the commands in namespace ``demo``, without the model of an earlier run."""
    with tempfile.NamedTemporaryFile() as config:
        config.write(Path(os.environ["KUBECONFIG"]).read_bytes())
        config.flush()
        os.environ["KUBECONFIG"] = config.name
        for command in (
            f"kubectl config set-context --current --namespace={NAMESPACE}",
            "kubectl serve delete iris --ignore-not-found",
        ):
            subprocess.run(command.split(), check=True)
        return [record(command) for command in COMMANDS]


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/recording", description=__doc__)
    parser.add_argument("--draw", action="store_true", help="draw the picture again from the recording")
    if not parser.parse_args().draw:
        RECORDING.parent.mkdir(exist_ok=True)
        RECORDING.write_text(dump(record_all()))
    PICTURE.write_text(draw(load(RECORDING.read_text())))
    print(f"{PICTURE.relative_to(ROOT)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
