"""The one decision on each request of a module, and the paths that it is about."""

from __future__ import annotations

import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.errors import InvalidArgument, PermissionDenied
from coredeno.permissions import (
    FileAccess,
    Grants,
    OpenAccess,
    ProcessAccess,
    ProgramAccess,
    ServiceAccess,
    StoreAccess,
    at_and_above,
    check,
    is_beneath,
    is_host_path,
    normalise_path,
)

NOTHING = Grants()


def allowed(access, grants=NOTHING, module="tagger"):
    try:
        check(module, grants, access)
    except PermissionDenied:
        return False
    return True


@pytest.mark.parametrize(
    "access",
    [
        FileAccess("read", "a"),
        FileAccess("write", "."),
        StoreAccess("read", "other"),
        StoreAccess("write", "other"),
        ProgramAccess("ls"),
        ProcessAccess("p1", "other"),
        ServiceAccess("weather"),
    ],
)
def test_nothing_is_granted_by_default(access):
    """A module without grants reaches nothing of anybody else's."""
    assert not allowed(access)


def test_what_every_module_may_do():
    """Logs, health, its own store group and its own processes need no grant."""
    assert allowed(OpenAccess())
    assert allowed(StoreAccess("read", "tagger"))
    assert allowed(StoreAccess("write", "tagger"))
    assert allowed(ProcessAccess("p1", "tagger"))


@pytest.mark.parametrize("access", [None, object(), "open", FileAccess, ("file", "read", "data")])
def test_an_unknown_access_is_refused(access):
    """What the gate has no rule for is refused, whatever was granted."""
    everything = Grants(read=(".",), write=(".",), run=("ls",), services={"weather": frozenset()})
    with pytest.raises(PermissionDenied, match="the gate has no rule for it"):
        check("tagger", everything, access)


@pytest.mark.parametrize(
    ("granted", "path", "expected"),
    [
        ("data", "data", True),
        ("data", "data/", True),
        ("data", "./data/./cat.png", True),
        ("data", "data/a/b/c", True),
        ("data", "data-secrets", False),
        ("data", "data-secrets/x", False),
        ("data", "dat", False),
        ("data", "DATA/x", False),
        ("data", "x/data", False),
        ("data", ".", False),
        ("data/a", "data", False),
        ("data/cat.png", "data/cat.png", True),
        (".", ".", True),
        (".", "any/thing", True),
    ],
)
def test_files_by_whole_names(granted, path, expected):
    """A granted folder holds itself and what lies in it by whole names, for its own mode only."""
    assert allowed(FileAccess("read", path), Grants(read=(granted,))) is expected
    assert allowed(FileAccess("write", path), Grants(write=(granted,))) is expected
    assert not allowed(FileAccess("write", path), Grants(read=(granted,)))
    assert not allowed(FileAccess("read", path), Grants(write=(granted,)))
    assert not allowed(FileAccess("append", path), Grants(read=(granted,), write=(granted,)))


_HOST_PATHS = [
    ".core",
    ".CORE",
    ".Core/x",
    "./.core/view.yml",
    ".core/",
    ".core.",
    ".core /x",
    ".co\u200cre",
    "\uff0ecore",
]


@pytest.mark.parametrize("path", _HOST_PATHS)
@pytest.mark.parametrize("mode", ["read", "write"])
def test_the_hosts_folder_is_never_granted(mode, path):
    """The host's own folder is refused in every spelling, whatever was granted."""
    grants = Grants(read=(".", ".core", normalise_path(path)), write=(".", ".core", normalise_path(path)))
    with pytest.raises(PermissionDenied, match="nothing can allow it"):
        check("tagger", grants, FileAccess(mode, path))


@pytest.mark.parametrize("path", [".cored", "core", "a/.core", "..core", ".cor\u0435", ".cöre", "x.core"])
def test_other_names_are_not_the_hosts_folder(path):
    """Only the host's folder itself is reserved, and only beneath the root."""
    assert not is_host_path(path)


def test_a_name_longer_than_any_is_not_looked_at():
    """Its normal form would take half a minute; `normalise_path` gives no such name."""
    began = time.thread_time()
    assert is_host_path("a" + "\u0300\u0323" * 100_000)
    assert time.thread_time() - began < 1


@pytest.mark.parametrize("path", ["data/../.core/x", "/etc/passwd", "", "a\\b", "a\0b"])
def test_check_takes_no_path_that_is_not_one(path):
    """A path that cannot be is an invalid argument, even for who may read everything."""
    with pytest.raises(InvalidArgument):
        check("tagger", Grants(read=(".",)), FileAccess("read", path))


def test_store_groups():
    """A store group needs a grant of its mode; reading and changing do not imply one another."""
    grants = Grants(store_read=("news",), store_write=("mail",))
    for group, mode, expected in [
        ("news", "read", True),
        ("news", "write", False),
        ("mail", "write", True),
        ("mail", "read", False),
        ("other", "read", False),
        ("new", "read", False),
        ("", "read", False),
        ("tagger", "drop", False),
    ]:
        assert allowed(StoreAccess(mode, group), grants) is expected, (group, mode)


@pytest.mark.parametrize("mode", ["read", "write"])
def test_groups_of_the_host_are_never_granted(mode):
    """A group that begins with `_` is refused even to who was granted it or is called so."""
    grants = Grants(store_read=("_modules",), store_write=("_modules",))
    for module in ("tagger", "_modules"):
        with pytest.raises(PermissionDenied, match="nothing can allow it"):
            check(module, grants, StoreAccess(mode, "_modules"))


def test_programs_by_name():
    """A program needs its name in the grants, exactly."""
    grants = Grants(run=("ffmpeg",))
    assert allowed(ProgramAccess("ffmpeg"), grants)
    for name in ("ffmpe", "ffmpeg2", "/usr/bin/ffmpeg", "FFMPEG", ""):
        assert not allowed(ProgramAccess(name), grants)


@pytest.mark.parametrize("owner", ["other", "tagger2", "", None])
def test_only_the_owner_controls_a_process(owner):
    """A process is controlled by the module that started it; one that is not there by nobody."""
    assert not allowed(ProcessAccess("p1", owner))


def test_services():
    """A service needs its name; a method with a permission needs that permission too."""
    grants = Grants(services={"weather": frozenset({"read"}), "news": frozenset()})
    for service, permission, expected in [
        ("weather", None, True),
        ("weather", "read", True),
        ("weather", "write", False),
        ("news", None, True),
        ("news", "read", False),
        ("mail", None, False),
        ("mail", "read", False),
    ]:
        assert allowed(ServiceAccess(service, permission), grants) is expected, (service, permission)


@pytest.mark.parametrize(
    ("access", "permission", "resource", "remedy"),
    [
        (
            FileAccess("read", "./data/cat.png"),
            "files.read",
            "data/cat.png",
            "add 'data/cat.png' or a folder above it to permissions.read in the manifest",
        ),
        (
            FileAccess("write", "data"),
            "files.write",
            "data",
            "add 'data' or a folder above it to permissions.write in the manifest",
        ),
        (
            FileAccess("read", ".core/x"),
            "files.read",
            ".core/x",
            "nothing can allow it: .core is the host's own folder",
        ),
        (
            StoreAccess("read", "news"),
            "store.read",
            "news",
            "add 'news' to permissions.store.read in the manifest",
        ),
        (
            StoreAccess("write", "news"),
            "store.write",
            "news",
            "add 'news' to permissions.store.write in the manifest",
        ),
        (
            StoreAccess("read", "_x"),
            "store.read",
            "_x",
            "nothing can allow it: groups that begin with '_' are the host's",
        ),
        (ProgramAccess("ls"), "processes.start", "ls", "add 'ls' to permissions.run in the manifest"),
        (
            ProcessAccess("p1", None),
            "processes.control",
            "p1",
            "a module controls only the processes that it started itself",
        ),
        (
            ServiceAccess("weather"),
            "services.weather",
            "weather",
            "add 'weather: []' to services in the manifest",
        ),
        (
            ServiceAccess("weather", "read"),
            "services.weather",
            "weather:read",
            "add 'weather: [read]' to services in the manifest",
        ),
        (7, "unknown", "int", "nothing can allow it: the gate has no rule for it"),
    ],
)
def test_a_refusal_says_what_would_allow_it(access, permission, resource, remedy):
    """The error names the module, the permission, the resource and the line of the manifest to add."""
    with pytest.raises(PermissionDenied) as caught:
        check("tagger", NOTHING, access)
    error = caught.value
    assert (error.module, error.permission, error.resource, error.remedy) == (
        "tagger",
        permission,
        resource,
        remedy,
    )


@pytest.mark.parametrize(
    "access",
    [
        StoreAccess("read", "x" * 1_000_000),
        ProgramAccess("\\" * 1_000_000),
        ProcessAccess("x" * 1_000_000, None),
        FileAccess("read", "x/" * 500 + "x"),
    ],
)
def test_a_refusal_holds_little_of_what_was_asked_for(access):
    """However long that is: an app may hold a thousand refusals before it looks at the first."""
    with pytest.raises(PermissionDenied) as refused:
        check("m", Grants(), access)
    assert len(refused.value.resource) <= 1025
    assert len(str(refused.value)) < 8_000


def test_accesses_are_told_apart_by_tag():
    """Each access can be written to the audit log and read back as what it was."""
    accesses = [
        FileAccess("read", "a"),
        StoreAccess("write", "g"),
        ProgramAccess("p"),
        ProcessAccess("1", None),
    ]
    accesses += [ServiceAccess("s"), OpenAccess()]
    union = FileAccess | StoreAccess | ProgramAccess | ProcessAccess | ServiceAccess | OpenAccess
    assert msgspec.json.decode(msgspec.json.encode(accesses), type=list[union]) == accesses


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("a", "a"),
        ("a/", "a"),
        ("./a", "a"),
        ("././a/./b/.", "a/b"),
        (".", "."),
        ("./", "."),
        ("./.", "."),
        ("...", "..."),
        ("a b/ü", "a b/ü"),
        ("a\u0308", "a\u0308"),
        ("~/x", "~/x"),
        ("x" * 255, "x" * 255),
    ],
)
def test_normal_paths(path, normal):
    """A leading `./`, `.` parts and a trailing `/` are dropped, nothing else is changed."""
    assert normalise_path(path) == normal


@pytest.mark.parametrize(
    "path",
    [
        *[
            "",
            "/",
            "/a",
            "//a",
            "a//b",
            "a//",
            ".//a",
            "..",
            "../a",
            "a/..",
            "a/../b",
            "./..",
            "a\\b",
            "..\\a",
        ],
        *[
            "a\0",
            "a\n",
            "\x1b[2J",
            "a\x7f",
            "a\x85",
            "\ud800",
            "x" * 256,
            "ü" * 128,
            "a/" * 513,
            "./" * 600 + "a",
        ],
    ],
)
def test_what_is_no_path(path):
    """What could mean another place, or could not be stored, is refused; the message is short and plain."""
    with pytest.raises(InvalidArgument) as caught:
        normalise_path(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


_NAMES = st.sampled_from(["a", "b", "data", "data-secrets", "..", ".", "", ".core", "…"])
_PATHS = st.lists(_NAMES, max_size=5).map("/".join) | st.text(max_size=20)


def model(path):
    """What a path means, by walking it from the root: a tuple of names, or None if it cannot be walked."""
    at = []
    if path.startswith("/") or not path or "//" in path or set(path) & set("\\") or not path.isprintable():
        return None
    for name in path.split("/"):
        if name == "..":
            return None
        if name not in ("", "."):
            at.append(name)
    return tuple(at)


@given(_PATHS)
def test_paths_mean_what_a_walk_means(path):
    """A path that is accepted means what walking it from the root means, and is its own spelling."""
    try:
        normal = normalise_path(path)
    except InvalidArgument:
        return
    names = tuple(name for name in normal.split("/") if name != ".")
    assert normalise_path(normal) == normal
    assert not {"", ".."} & set(names)
    assert model(path) in (names, None)


@given(st.lists(_NAMES, max_size=4).map("/".join), st.lists(_NAMES, max_size=4).map("/".join))
def test_containment_is_by_components(path, folder):
    """A path lies in a folder exactly if the folder's names are the first of its names."""
    of_path, of_folder = model(path), model(folder)
    if of_path is None or of_folder is None:
        return
    expected = of_path[: len(of_folder)] == of_folder
    assert is_beneath(normalise_path(path), normalise_path(folder)) is expected
    may = allowed(FileAccess("read", path), Grants(read=(normalise_path(folder),)))
    assert may is (expected and of_path[:1] != (".core",))


@pytest.mark.parametrize(
    ("path", "folders"), [(".", ["."]), ("a", ["a", "."]), ("a/b.c/d", ["a/b.c/d", "a/b.c", "a", "."])]
)
def test_a_path_and_the_folders_above_it(path: str, folders: list[str]):
    """Each holds the path, and no other does."""
    assert list(at_and_above(path)) == folders
    assert all(is_beneath(path, folder) for folder in folders)
