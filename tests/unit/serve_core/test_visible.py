"""What is no visible character is written as an escape, on a screen and in documents alike."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serve_core.base.escaping import in_json, in_yaml, inline, is_visible, visible

COMMANDS = {
    "colour": "\x1b[31m",
    "clipboard": "\x1b]52;c;aWQ=\x07",
    "title": "\x1b]0;title\x1b\\",
    "query": "\x1b[6n",
    "C1 CSI": "\x9b31m",
    "C1 OSC": "\x9d0;title\x9c",
    "next line": "\x85",
    "carriage return": "\r",
    "backspace": "a\b",
    "bell": "\x07",
    "NUL": "\x00",
    "delete": "\x7f",
    "right to left": "\u202e",
    "isolate": "\u2066",
    "mark": "\u200f",
    "line separator": "\u2028",
    "zero width space": "\u200b",
    "byte order mark": "\ufeff",
    "tag": "\U000e0041",
    "half a pair": "\ud800",
}
ANY = st.text(st.characters() | st.sampled_from("".join(COMMANDS.values())))


@pytest.mark.attack(39)
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_command_to_the_terminal_becomes_an_escape(command: str) -> None:
    for shown in (visible(f"a{command}b"), inline(f"a{command}b")):
        assert shown.isprintable()
        assert shown.startswith("a")
        assert shown.endswith("b")
        assert "\\" in shown
    assert not is_visible(command)


def test_a_text_keeps_its_lines_and_a_part_of_a_line_has_none() -> None:
    assert visible("a\n\tb") == "a\n\tb"
    assert inline("a\n\tb") == "a\\n\\tb"


@pytest.mark.parametrize("text", ["plain", "naïve", "日本語\u3000", "👩\u200d🔬", "می\u200cخواهم", "a\xa0b", "…"])
def test_what_is_visible_in_any_language_stays(text: str) -> None:
    assert visible(text) == inline(text) == text
    assert is_visible(text)


@pytest.mark.attack(39)
@given(ANY)
def test_a_document_means_the_same_with_its_own_escapes(text: str) -> None:
    document = in_json(json.dumps({text: text}, ensure_ascii=False))
    assert is_visible(document)
    assert json.loads(document) == {text: text}


@pytest.mark.attack(39)
@given(ANY.filter(lambda text: not any("\ud800" <= each <= "\udfff" for each in text)))
def test_double_quoted_yaml_means_the_same(text: str) -> None:
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t") + '"'
    document = in_yaml(quoted)
    assert is_visible(document)
    assert yaml.safe_load(document) == text
