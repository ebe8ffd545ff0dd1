"""The recorded terminal of README: drawn from its recording, readable without motion, with commands that exist."""

import re
from xml.etree import ElementTree

import pytest

import recording
from recording import PICTURE, RECORDING, Step, draw, load

STEPS = [Step("echo '<a & b>'", [(0.1, "<a & b>"), (9.0, "late")]), Step("true", [])]


@pytest.fixture
def picture() -> ElementTree.Element:
    return ElementTree.fromstring(draw(STEPS))


def texts(picture: ElementTree.Element) -> list[str]:
    return ["".join(each.itertext()) for each in picture.iter("{http://www.w3.org/2000/svg}text")]


def style(picture: ElementTree.Element) -> str:
    found = picture.find("{http://www.w3.org/2000/svg}style")
    assert found is not None
    return found.text or ""


def test_the_picture_is_drawn_from_the_recording() -> None:
    assert draw(load(RECORDING.read_text())) == PICTURE.read_text()


def test_the_recording_has_the_commands_of_the_script() -> None:
    assert [step.command for step in load(RECORDING.read_text())] == list(recording.COMMANDS)


def test_every_line_is_in_the_picture(picture: ElementTree.Element) -> None:
    assert texts(picture) == ["$ echo '<a & b>'", "<a & b>", "late", "$ true"]


def test_nothing_moves_where_the_reader_wants_no_motion(picture: ElementTree.Element) -> None:
    still, _, moving = style(picture).partition("@media (prefers-reduced-motion:no-preference){")
    assert "animation:" not in still
    assert moving.count("animation:") == 4
    assert "opacity" not in re.sub(r"@keyframes.*", "", still), "without motion, every line is visible"


def test_there_are_colours_for_dark_and_for_light(picture: ElementTree.Element) -> None:
    light, _, dark = style(picture).partition("@media (prefers-color-scheme:dark){")
    for name in ("text{", ".o{", ".prompt{", ".window{", ".dots{"):
        assert name in light
        assert name in dark


def test_a_long_wait_is_shortened(picture: ElementTree.Element) -> None:
    first, late = (float(at) for at in re.findall(r"animation:show 1ms ([\d.]+)s", style(picture)))
    assert late - first == pytest.approx(3.0, abs=0.02)


def test_a_command_is_recorded_with_the_times_and_the_last_state_of_its_lines() -> None:
    step = recording.record("printf 'one\\n'; sleep 0.3; printf '1 %%\\r100 %%\\n'; printf end")
    assert [line for _, line in step.lines] == ["one", "100 %", "end"]
    assert step.lines[1][0] - step.lines[0][0] >= 0.25


def test_a_command_that_fails_ends_the_recording() -> None:
    with pytest.raises(SystemExit, match="exit code 3"):
        recording.record("exit 3")
