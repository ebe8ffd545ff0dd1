"""The results, as Markdown tables and as a picture."""

import statistics
from collections.abc import Mapping, Sequence

from loading.arms import KSERVE_STORAGE, OURS, S5CMD
from loading.measuring import Extras, Sample

Results = Mapping[str, Sequence[Sample]]
"""The runs of each arm, by name."""


def median(values: Sequence[float]) -> str:
    """Return the median with its quartiles."""
    if len(values) < 3:
        return f"{statistics.median(values):.2f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def _ratio(runs: Sequence[Sample], others: Sequence[Sample]) -> str:
    """Return the ratio of the medians, with the quartiles of the ratios of each round."""
    if not others:
        return ""
    ratio = statistics.median(run.seconds for run in runs) / statistics.median(run.seconds for run in others)
    pairs = [run.seconds / other.seconds for run, other in zip(runs, others, strict=True)]
    if len(pairs) < 3:
        return f"{ratio:.2f}"
    low, _, high = statistics.quantiles(pairs, n=4, method="inclusive")
    return f"{ratio:.2f} ({low:.2f}–{high:.2f})"


def speed(results: Results, memory: Mapping[str, float], failed: Mapping[str, str], *, disk: bool) -> str:
    """Return the results of one set as a Markdown table; with `disk`, also the seconds until everything was on disk."""
    titles = ["", "seconds", *(["and on the disk"] if disk else []), "÷ s5cmd", "÷ kserve-storage"]
    titles += ["CPU s", "the server's", "peak MiB"]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for arm, runs in results.items():
        if arm in failed:
            lines.append(f"| {arm} | {failed[arm]} |{' |' * (len(titles) - 2)}")
            continue
        cells = [arm, median([run.seconds for run in runs])]
        cells += [f"{statistics.median(run.synced for run in runs):.2f}"] if disk else []
        cells += [_ratio(runs, results.get(S5CMD, ())), _ratio(runs, results.get(KSERVE_STORAGE, ()))]
        cells += [f"{statistics.median(run.cpu for run in runs):.2f}"]
        cells += [f"{statistics.median(run.server_cpu for run in runs):.2f}", f"{memory[arm]:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def extras(found: Mapping[str, Sequence[Extras]], sizes: Mapping[str, int]) -> str:
    """Return the further measurements of each arm as a Markdown table."""
    lines = ["| | first byte, s | read again after `kill -9` at half | all there, s | installed MiB |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for arm, runs in found.items():
        first, restart = (statistics.median(getattr(run, key) for run in runs) for key in ("first", "restart"))
        again = statistics.median(run.again for run in runs)
        lines.append(f"| {arm} | {first:.2f} | {again:.1%} | {restart:.2f} | {sizes[arm] / 2**20:.1f} |")
    return "\n".join(lines) + "\n"


def picture(results: Mapping[str, Results]) -> str:
    """Return the medians as horizontal bars, in SVG."""
    lines: list[str] = []
    y = 10
    for name, samples in results.items():
        longest = max(statistics.median(run.seconds for run in runs) for runs in samples.values() if runs)
        y += 24
        lines.append(f'<text x="10" y="{y}" font-weight="bold">{name}</text>')
        for arm, runs in samples.items():
            if not runs:
                continue
            seconds = statistics.median(run.seconds for run in runs)
            y += 20
            colour = "#2563eb" if arm.startswith(OURS.partition(",")[0]) else "#9ca3af"
            width = max(1, round(380 * seconds / longest))
            lines.append(f'<text x="290" y="{y}" text-anchor="end">{arm}</text>')
            lines.append(f'<rect x="300" y="{y - 11}" width="{width}" height="13" fill="{colour}"/>')
            lines.append(f'<text x="{306 + width}" y="{y}">{seconds:.2f} s</text>')
        y += 8
    body = "\n".join(lines)
    style = 'font-family="sans-serif" font-size="12"'
    back = f'<rect width="760" height="{y + 10}" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{y + 10}" {style}>\n{back}\n{body}\n</svg>\n'
