from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.errors import InvalidArgument, LimitExceeded
from coredeno.services.template import MOST_ACTIONS, fill, keys_of, missing, parse

VALUES = {
    "name": "Ada",
    "a b": "spaced",
    'q"': "quoted",
    "n\n": "line",
    "ä": "uml",
    "{{": "braces",
    "_1": "x",
}


def rendered(template: str, limit_bytes: int = 1_000) -> str:
    return fill(parse(template), VALUES, limit_bytes=limit_bytes)


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("", ""),
        ("plain } }} { text", "plain } }} { text"),
        ("{{.name}}", "Ada"),
        ("Hello {{ .name }}, {{\n.name\t}}!", "Hello Ada, Ada!"),
        ("{{ ._1 }}{{ .ä }}", "xuml"),
        ('{{ index . "a b" }}', "spaced"),
        ('{{index  .\n"name"}}', "Ada"),
        ('{{ index . `q"` }}', "quoted"),
        (r'{{ index . "q\"" }}', "quoted"),
        (r'{{ index . "n\n" }}', "line"),
        (r'{{ index . "\u00e4" }}{{ index . "\U000000E4" }}', "umluml"),
        ('{{ index . "{{" }}', "braces"),
        ('{{ "{{" }} .name {{ "}}" }}', "{{ .name }}"),
        (r'{{ "\a\b\f\n\r\t\v\\\"" }}', '\a\b\f\n\r\t\v\\"'),
        (r"{{ `\n` }}", r"\n"),
        ('{{ "" }}', ""),
        ("{{{.name}}}", None),
        ("{{ .name }}}", "Ada}"),
    ],
)
def test_fills_the_forms_it_knows(template, wanted):
    """Names, indexes and quoted texts are replaced as Go's text/template does; all else is kept."""
    if wanted is None:
        with pytest.raises(InvalidArgument):
            rendered(template)
    else:
        assert rendered(template) == wanted


@pytest.mark.parametrize(
    "action",
    [
        "{{}}",
        "{{ }}",
        "{{ . }}",
        "{{ name }}",
        "{{ .a.b }}",
        "{{ .1 }}",
        "{{ .a-b }}",
        "{{ . name }}",
        "{{- .name -}}",
        "{{ .name | printf }}",
        "{{ if .name }}",
        "{{ end }}",
        "{{/* comment */}}",
        "{{ index . name }}",
        '{{ index.  "a" }}',
        '{{ index . "a" "b" }}',
        '{{ "a\nb" }}',
        '{{ "a }}',
        "{{ $x }}",
        "{{ 1 }}",
        "{{ 'a' }}",
        "{{ .name }",
        "{{ .name",
        "{{",
    ],
)
def test_refuses_every_other_action(action):
    """What is there, its line, and the forms that are wanted stand in the message."""
    with pytest.raises(InvalidArgument) as caught:
        parse("first line\nsecond " + action)
    message = str(caught.value)
    assert "line 2" in message
    assert repr(action) in message
    assert '{{ .name }}, {{ index . "any key" }} or {{ "text" }}' in message
    assert ("not closed" in message) == ("}}" not in action)


@pytest.mark.parametrize(
    "escape", [r"\x41", r"\101", r"\q", r"\u12", r"\ud800", r"\U00110000", r"\UFFFFFFFF", r"\ä"]
)
def test_refuses_escapes_that_stand_for_no_character(escape):
    """An escape that is not known, or no character of Unicode, is named."""
    with pytest.raises(InvalidArgument, match=re.escape(repr(escape)[1:3]) + ".*stands for no character"):
        parse(f'{{{{ index . "{escape}" }}}}')


def test_cuts_long_actions_in_messages():
    """A message shows where the fault is, not megabytes of it."""
    with pytest.raises(InvalidArgument) as caught:
        parse("{{ " + "x" * 1_000_000)
    assert len(str(caught.value)) < 250
    assert "…" in str(caught.value)


def test_counts_lines_inside_actions_too():
    """The line in a message is where the action begins."""
    with pytest.raises(InvalidArgument, match="line 4"):
        parse("\n{{\n.name }}\n{{ bad }}")
    assert str(missing(parse("\n{{\n.x }}"), "g", [])).startswith("template: line 2:")


def test_bounds_its_actions():
    """A template has at most 5,000 actions."""
    parse('{{""}}' * MOST_ACTIONS)
    with pytest.raises(LimitExceeded, match="5000"):
        parse('{{""}}' * (MOST_ACTIONS + 1))


def test_bounds_its_escapes():
    """Each is replaced by a function of Python's, so they count like actions; outside of actions there are none."""
    text = "\\n" * (MOST_ACTIONS - 1)
    assert parse('{{"' + text + '"}}' + text) == ["", "\n" * (MOST_ACTIONS - 1), text]
    with pytest.raises(LimitExceeded, match="5000"):
        parse('{{"' + text + '\\n"}}')


def test_bounds_its_result_before_it_is_made():
    """A result over the limit is refused; bytes count, not characters."""
    assert rendered("{{ .ä }}ä", limit_bytes=5) == "umlä"
    with pytest.raises(LimitExceeded, match="has 5 bytes, wanted at most 4"):
        rendered("{{ .ä }}ä", limit_bytes=4)
    big = {"a": "x" * 1_000_000}
    with pytest.raises(LimitExceeded):
        fill(parse("{{.a}}" * MOST_ACTIONS), big, limit_bytes=1_000_000)


def test_names_the_keys_it_needs_once():
    """Each key once, in the order of the template."""
    assert keys_of(parse('{{.b}} {{.a}} {{index . "b"}} {{"c"}}')) == ["b", "a"]


def test_says_which_key_is_missing_and_which_there_are():
    """The first missing key, its line, and at most ten keys that exist."""
    template = parse("{{.a}}\n{{.gone}}")
    assert missing(template, "g", ["a", "gone"]) is None
    assert str(missing(template, "g", ["b", "a"])) == (
        "template: line 2: group 'g' has no key 'gone', wanted one of its keys: 'a', 'b'"
    )
    assert str(missing(template, "g", [])).endswith("no key 'a', wanted one of its keys: it has none")
    many = str(missing(template, "g", ["a", *(f"k{n:02}" for n in range(20))]))
    assert many.endswith("'k08' and 11 more")


@given(st.text(), st.lists(st.text()))
def test_any_key_and_any_text_survive(key, texts):
    """Between actions any text is kept, and any key can be reached by `index`."""
    escaped = re.sub(r'["\\]', r"\\\g<0>", key).replace("\n", r"\n")
    plain = [text.replace("{{", "") for text in texts]
    separated = [re.sub(r"\{$", "", text) for text in plain]
    template = f'{{{{ index . "{escaped}" }}}}'.join(separated)
    assert fill(parse(template), {key: "·"}, limit_bytes=10**6) == "·".join(separated)


@given(st.text(alphabet='{}. "\\`aindex\n-|'))
def test_any_template_is_filled_or_refused(template):
    """Whatever the text, it is parsed or it is an InvalidArgument."""
    try:
        parsed = parse(template)
    except InvalidArgument:
        return
    fill(parsed, dict.fromkeys(keys_of(parsed), ""), limit_bytes=10**6)
