"""Permissions in words, and what one version asks for beyond another."""

from __future__ import annotations

import pytest

from coredeno.install.words import beyond, in_words, phrase
from coredeno.manifest import parse_manifest

EVERYTHING = """
code: tagger
permissions:
  read: [photos, .]
  write: [out]
  net: [a.example]
  run: [ffmpeg]
  store: {read: [theirs], write: [ours]}
  optional: {read: [more], net: [b.example]}
services: {weather: [read, write], clock: []}
"""


def manifest(text: str):
    return parse_manifest(f"code: tagger\n{text}".encode(), file="view.yml")


def test_every_permission_has_words():
    """One phrase for each thing that is asked for; what is optional says so."""
    assert in_words(parse_manifest(EVERYTHING.encode(), file="view.yml")) == (
        "read photos beneath the app's folder",
        "read everything beneath the app's folder",
        "change out beneath the app's folder",
        "reach a.example over the network",
        "start the program ffmpeg",
        "read the store group theirs",
        "change the store group ours",
        "use the app's service weather (read)",
        "use the app's service weather (write)",
        "use the app's service clock",
        "if you allow it when it asks: read more beneath the app's folder",
        "if you allow it when it asks: reach b.example over the network",
    )


def test_a_plugin_that_asks_for_nothing():
    """No words."""
    assert in_words(manifest("")) == ()


def test_a_refusal_of_a_whole_service():
    """A service without a permission is named alone."""
    assert phrase("services.clock", "clock") == "use the app's service clock"


@pytest.mark.parametrize(
    ("former", "new", "added"),
    [
        ("", "", ()),
        ("permissions: {read: [a]}", "permissions: {read: [a]}", ()),
        ("permissions: {read: [a]}", "permissions: {read: [a/b]}", ()),
        ("permissions: {read: [a/b]}", "permissions: {read: [a]}", ("read a beneath the app's folder",)),
        ("permissions: {read: [a]}", "permissions: {write: [a]}", ("change a beneath the app's folder",)),
        ("permissions: {net: ['*.a.example']}", "permissions: {net: [x.a.example]}", ()),
        (
            "permissions: {net: [x.a.example]}",
            "permissions: {net: [y.a.example]}",
            ("reach y.a.example over the network",),
        ),
        ("permissions: {net: [127.0.0.1]}", "permissions: {net: [127.0.0.1]}", ()),
        ("permissions: {run: [a]}", "permissions: {run: [a, b]}", ("start the program b",)),
        ("", "permissions: {store: {read: [tagger]}}", ()),
        (
            "",
            "permissions: {store: {read: [x], write: [y]}}",
            ("read the store group x", "change the store group y"),
        ),
        ("services: {w: [read]}", "services: {w: []}", ()),
        ("services: {w: [read]}", "services: {w: [read, set]}", ("use the app's service w (set)",)),
        ("", "services: {w: []}", ("use the app's service w",)),
        ("", "permissions: {optional: {read: [a]}}", ()),
    ],
)
def test_what_is_asked_for_beyond(former: str, new: str, added: tuple[str, ...]):
    """What former permissions cover is not named again; what they do not is, in words."""
    old = manifest(former)
    assert beyond(old.permissions, old.services, manifest(new)) == added
