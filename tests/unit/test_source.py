"""Which sources and refs may be fetched."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.errors import SourceRefused
from coredeno.install.source import (
    LIMIT_REF_BYTES,
    LIMIT_SOURCE,
    SCHEMES,
    PathSource,
    UrlSource,
    check_ref,
    parse_source,
)

BASE = Path("/srv/app")


def parse(source, *schemes: str):
    return parse_source(source, base=BASE, schemes=schemes) if schemes else parse_source(source, base=BASE)


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("/srv/plugins/tagger.git", "/srv/plugins/tagger.git"),
        ("tagger", "/srv/app/tagger"),
        ("../tagger/", "/srv/tagger"),
        ("./a:b", "/srv/app/a:b"),
        ("a/b:c", "/srv/app/a/b:c"),
        ("My Plugins/täg", "/srv/app/My Plugins/täg"),
        (Path("plugins/tagger"), "/srv/app/plugins/tagger"),
        ("file:///srv/tagger.git", "/srv/tagger.git"),
        ("file://localhost/srv/a%20b", "/srv/a b"),
        ("FILE:///srv/%C3%A4", "/srv/ä"),
    ],
)
def test_a_path_is_made_absolute(source, path):
    """A path, whatever its form, is one of this machine; a relative one is relative to the base."""
    assert parse(source) == PathSource(path)


@pytest.mark.parametrize(
    ("source", "parts", "url"),
    [
        (
            "https://git.example/acme/tagger.git",
            ("https", "git.example", None, "/acme/tagger.git"),
            "https://git.example/acme/tagger.git",
        ),
        (
            "HTTPS://Git.Example:8443/A%20b/",
            ("https", "git.example", 8443, "/A%20b"),
            "https://git.example:8443/A%20b",
        ),
        ("http://127.0.0.1:80/x", ("http", "127.0.0.1", 80, "/x"), "http://127.0.0.1:80/x"),
        ("http://127.1.2.3/x", ("http", "127.1.2.3", None, "/x"), "http://127.1.2.3/x"),
        ("http://localhost/x", ("http", "localhost", None, "/x"), "http://localhost/x"),
        ("http://[::1]:8080/x", ("http", "[::1]", 8080, "/x"), "http://[::1]:8080/x"),
        ("https://[2001:db8::1]/x", ("https", "[2001:db8::1]", None, "/x"), "https://[2001:db8::1]/x"),
        ("https://git.example/~acme/@x", ("https", "git.example", None, "/~acme/@x"), None),
    ],
)
def test_an_http_url_is_read_into_its_parts(source, parts, url):
    """Host, port and path, the host in lower case; plain HTTP only to this machine."""
    parsed = parse(source)
    assert parsed == UrlSource(*parts)
    assert url in (None, parsed.url)


def test_the_origin_names_a_port_where_the_url_does():
    """Credentials are for a host and its port, not for another server on it."""
    assert parse("https://git.example/x").origin == "git.example"
    assert parse("https://git.example:8443/x").origin == "git.example:8443"


def test_plain_http_can_be_allowed():
    """An app that knows its network may allow `http`."""
    assert parse("http://git.example/x", *SCHEMES) == UrlSource("http", "git.example", None, "/x")
    with pytest.raises(SourceRefused, match="to this machine only"):
        parse("http://git.example/x")


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("", "has 0 characters"),
        ("x" * (LIMIT_SOURCE + 1), "2,048"),
        (b"/srv/x", "is bytes"),
        ("--upload-pack=touch /tmp/x", "as options do"),
        ("-x", "as options do"),
        ("host:path", "host:path"),
        ("user@host:path", "host:path"),
        ("ext::sh -c touch% /tmp/x", "ext::command"),
        ("https:/git.example/x", "host:path"),
        ("c:\\plugins", "host:path"),
        ("ssh://git.example/x", "'ssh' is not fetched; wanted a path, .* own Fetcher"),
        ("git://git.example/x", "'git' is not fetched"),
        ("git+ssh://git.example/x", "not fetched"),
        ("ftp://git.example/x", "not fetched"),
        ("data://x", "not fetched"),
        (" /srv/x", "space"),
        ("/srv/x ", "space"),
        ("/srv/\x00x", "control character"),
        ("/srv/x\n", "control character"),
        ("/srv/\u202ex", "control character"),
        ("/srv/\ud800", "control character"),
        ("https://git.example/x\ty", "control character"),
        ("file://host/x", "names a host"),
        ("file://", "no path"),
        ("file:///", "no path"),
        ("file:///x?y", "a query"),
        ("file:///%00", "control character"),
        ("file:///%ff", "not UTF-8"),
        ("file:///%2", "%-form"),
        ("https://", "no host"),
        ("https:///x", "no host"),
        ("https://git.example", "no path"),
        ("https://git.example/", "no path"),
        ("https://git.example?x/y", "no host"),
        ("https://git.example/x?y", "a query"),
        ("https://git.example/x#y", "a fragment"),
        ("https://git.example/a b", "a space"),
        ("https://git.example/a\\b", "a backslash"),
        ("https://git.example\\@evil.example/x", "user info"),
        ("https://git.example/ä", "%-form"),
        ("https://gít.example/x", "plain ASCII"),
        ("https://git.example:/x", "no host"),
        ("https://git.example:0/x", "no host"),
        ("https://git.example:65536/x", "65536"),
        ("https://-git.example/x", "no host"),
        ("https://[::1/x", "no host"),
        ("https://git.example/../x", "'.' or '..'"),
        ("https://git.example/%2e%2e/x", "'.' or '..'"),
        ("https://git.example/%0a", "control character"),
        ("http://git.example/x", "not allowed"),
        ("http://127.0.0.1.evil.example/x", "not allowed"),
        ("http://localhost.evil.example/x", "not allowed"),
        ("http://0x7f.1/x", "not allowed"),
        ("http://0.0.0.0/x", "not allowed"),
    ],
)
def test_what_is_not_understood_is_refused(source, problem):
    """Options, hosts of ssh, commands, other schemes, and URLs with more than a host and a path."""
    with pytest.raises(SourceRefused, match=problem):
        parse(source)


@pytest.mark.parametrize(
    "source",
    [
        "https://user:hunter2@git.example/x",
        "https://hunter2@git.example/x",
        "http://user:hunter2@127.0.0.1/x",
        "ssh://user:hunter2@git.example/x",
        "user:hunter2@git.example",
        "https:/user:hunter2@git.example/x",
        "-https://user:hunter2@git.example/x",
        "https://user:hunter2/more@git.example/x",
        "file://user:hunter2@localhost/x",
    ],
)
def test_a_password_is_refused_and_not_repeated(source):
    """What may be a password does not reach a message, and so no log."""
    with pytest.raises(SourceRefused) as raised:
        parse(source)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        ("/srv/x", "https"),
        ("file:///srv/x", "path"),
        ("https://git.example/x", "http"),
        ("http://127.0.0.1/x", "path"),
    ],
)
def test_an_app_allows_fewer_schemes(source, allowed):
    """What is not in `schemes` is refused, to this machine too."""
    with pytest.raises(SourceRefused, match="not allowed"):
        parse(source, allowed)


@given(st.text(max_size=40) | st.text("https:/file.@x%2-\\ ~é", max_size=40))
def test_any_text_is_a_source_or_refused(text):
    """Whatever is named: an absolute path, a URL that reads the same again, or `SourceRefused`."""
    try:
        parsed = parse(text)
    except SourceRefused:
        return
    if isinstance(parsed, PathSource):
        assert Path(parsed.path).is_absolute()
    else:
        assert parse(parsed.url) == parsed


COMMIT = "0123456789abcdef0123456789ABCDEF01234567"


@pytest.mark.parametrize(
    ("ref", "checked"),
    [
        (None, None),
        ("HEAD", None),
        ("main", "main"),
        ("v1.0", "v1.0"),
        ("feature/x", "feature/x"),
        ("refs/pull/7/head", "refs/pull/7/head"),
        ("grün", "grün"),
        ("a@b", "a@b"),
        (COMMIT, COMMIT.lower()),
        ("a" * LIMIT_REF_BYTES, "a" * LIMIT_REF_BYTES),
    ],
)
def test_refs_are_branches_tags_and_commits(ref, checked):
    """None and HEAD are the default; a commit's id is in lower case; all else is as it was."""
    assert check_ref(ref) == checked


@pytest.mark.parametrize(
    ("ref", "problem"),
    [
        ("", "is empty"),
        (7, "is int"),
        ("--upload-pack=x", "as options do"),
        ("a" * (LIMIT_REF_BYTES + 1), "bytes"),
        ("a\nb", "control"),
        ("a\u202eb", "control"),
        ("a\ud800", "control"),
        *((f"a{char}b", "git does not allow") for char in "\t ~^:?*[\\"),
        ("a..b", "'..'"),
        ("a@{1}", "'@{'"),
        ("@", "is '@'"),
        ("/a", "an empty part"),
        ("a/", "an empty part"),
        ("a//b", "an empty part"),
        (".a", "'.lock'"),
        ("a/.b", "'.lock'"),
        ("a.lock", "'.lock'"),
        ("a.lock/b", "'.lock'"),
        ("a.", "ends with '.'"),
    ],
)
def test_refs_that_git_would_not_have_are_refused(ref, problem):
    """The rules of git-check-ref-format, and nothing that looks like an option."""
    with pytest.raises(SourceRefused, match=problem):
        check_ref(ref)
