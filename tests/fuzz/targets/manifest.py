"""Manifests: both parsers of YAML see the same; what is accepted stays as it is when its rules are asked again."""

from __future__ import annotations

import yaml

from coredeno.errors import ManifestError
from coredeno.install.words import beyond, in_words
from coredeno.manifest import Manifest, parse_manifest
from coredeno.net_hosts import parse_net_host
from coredeno.permissions import is_host_path, normalise_path
from coredeno.plain_yaml import PlainYamlError, parse_plain_yaml
from coredeno.wire.text import printable
from tests.fuzz.shape import require, require_equal, value_of

SEEDS = [
    b'code: "\\U00110000"\n',
    b'code: a\nname: "\\uD800"\n',
    b"code: tagger\n",
    b"""\
# a plugin
code: photo-tagger
name: T\xc3\xa4gger
version: 1.2.0-beta.1
entry: ./src/main.ts
api: '>=1,<2'
permissions:
  read: [./photos/, data/a b]
  write: ["out"]
  net: [Example.com:443, '*.a.example', '[2001:0db8::1]:80', 192.0.2.1]
  run: [ffmpeg]
  store:
    read: [shared]
    write: [shared]
  optional:
    net:
      - b.example
services: {weather: [read], maps: []}
events: [photo.saved]
limits:
  memory_mb: 64
  call_timeout_s: 2.5
  calls_in_flight: 8
config:
  type: object
  properties: {size: {type: integer, default: 3}}
""",
    b"""\
\xef\xbb\xbfcode: bare
name: ""
sign: VGhpcyBpcyBub25l
layout: HLCRF
slots:
    C: photo-grid
modules:
    - core/media
config: |
  text
   more
""",
    b'code: "a\\x41\\u00e9\\U0001F600"\nname: >-\n  folded\n  text\nmodules: ~\n',
    b"? a\n: b\n? [x]\n: *y\n--- !!str z\n...\n%YAML 1.2\n&k {<<: 1}\n",
]


def target(data: bytes) -> None:
    _same_to_both(data)
    manifest = value_of(lambda: parse_manifest(data, file="view.yml"), ManifestError)
    if manifest is not None:
        _check(manifest)


def _same_to_both(data: bytes) -> None:
    found = [
        value_of(lambda loader=loader: [parse_plain_yaml(data, loader=loader)], PlainYamlError)
        for loader in (yaml.CSafeLoader, yaml.SafeLoader)
    ]
    if None not in found:  # one may refuse what the other takes
        require_equal(repr(found[0]), repr(found[1]), "libyaml and PyYAML read one file differently")


def _check(manifest: Manifest) -> None:
    for asked in (manifest.permissions, manifest.permissions.optional):
        for path in (*asked.read, *asked.write):
            require_equal(normalise_path(path), path, "a path is in its one spelling")
            require(not is_host_path(path) and "," not in path, f"{path!r} is the host's, or two paths")
        for host in asked.net:
            require_equal(str(parse_net_host(host)), host, "a host is in its one spelling")
    require(normalise_path(manifest.entry) == manifest.entry != ".", f"{manifest.entry!r} is an entry")
    require_equal(
        beyond(manifest.permissions, manifest.services, manifest), (), "it asks for what it asks for"
    )
    for words in in_words(manifest):
        require_equal(printable(words, one_line=True), words, "what is asked for can be shown")
