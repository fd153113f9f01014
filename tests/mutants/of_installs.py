"""Defences against what is installed, and from where; each with the attacks that it stops. Pure: no I/O."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_PACK = "install/git_child/pack.py"
_HTTP = "install/git_child/http.py"
_TREE = "install/git_child/tree.py"

OF_INSTALLS = (
    Mutant(
        "redirects are not followed",
        _HTTP,
        "        if 300 <= status < 400:  # noqa",
        "        if status < 0:  # noqa",
        ("redirects_are_not_followed", "redirects_to_odd_places_are_not_followed"),
    ),
    Mutant(
        "what a server sends has a bounded size",
        _HTTP,
        "        if self._received > self._transfer_bytes:",
        "        if self._received < 0:",
        ("a_server_that_never_ends_is_cut_off", "what_stands_around_a_pack_is_counted"),
    ),
    Mutant(
        "a pack has so many objects",
        _PACK,
        "    if count > bounds.objects:",
        "    if count < 0:",
        ("too_many_objects",),
    ),
    Mutant(
        "an object has a bounded size, as it is claimed",
        _PACK,
        "    if size > bounds.file_bytes:",
        "    if size < 0:",
        ("a_blob_of_a_gigabyte", "a_delta_bomb"),
    ),
    Mutant(
        "all objects together have a bounded size",
        _PACK,
        "        if total > bounds.total_bytes + TREES_BYTES:",
        "        if total < 0:",
        ("a_chain_of_deltas", "many_blobs"),
    ),
    Mutant(
        "a delta makes what it claims",
        "install/git_child/deltas.py",
        "if not command or len(piece) != length or len(result) + length > size:",
        "if not command or len(piece) != length:",
        ("a_delta_bomb_that_lies",),
    ),
    Mutant(
        "paths are counted",
        _TREE,
        "        if count > bounds.files:",
        "        if count < 0:",
        ("too_many_files", "paths_are_counted_where_trees_are_shared"),
    ),
    Mutant(
        "folders lie within one another so deep at most",
        _TREE,
        "            if len(open_trees) > bounds.depth:",
        "            if len(open_trees) < 0:",
        ("twenty_thousand_levels",),
    ),
    Mutant(
        "only plain files are installed",
        _TREE,
        "        if mode != _FOLDER and mode not in _FILES:",
        "        if mode is None:",
        ("only_plain_files_are_installed",),
    ),
    Mutant(
        "no name is written that a system reads otherwise",
        "install/paths.py",
        "    if problem:\n        raise UnsafePath(name, problem)",
        "    if problem is name:\n        raise UnsafePath(name, str(problem))",
        ("a_name_that_may_not_be_written",),
    ),
    Mutant(
        "a repository that has its objects elsewhere is refused",
        "install/git_child/local.py",
        '            if _kind(f"{inner}/{name}"):\n                raise SourceInvalid',
        "            if name is problem:\n                raise SourceInvalid",
        ("objects_of_another_repository_are_not_taken",),
    ),
    Mutant(
        "a `.git` file is not followed",
        "install/git_child/local.py",
        "    if kind not in (0, stat.S_IFDIR):",
        "    if kind not in (0, stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK):",
        ("a_git_file_is_not_followed",),
    ),
    Mutant(
        "the fetching process ends when its time is over",
        "install/git_process.py",
        "await asyncio.wait([process.ended], timeout=limits.timeout_s)",
        "await asyncio.wait([process.ended], timeout=60 * limits.timeout_s)",
        ("one_that_does_not_end", "a_server_that_stalls_takes_no_longer_than_allowed"),
    ),
    Mutant(
        "what the fetching process answers has a bounded size",
        "install/git_process.py",
        "        if self._total_bytes > LIMIT_OUTPUT_BYTES:",
        "        if self._total_bytes < 0:",
        ("one_that_answers_without_end",),
    ),
    Mutant(
        "what runs of a plugin is byte for byte what was signed",
        "install/verifying.py",
        "    _judge(listed, ReleaseFile(entry.path, digest.hexdigest(), size))",
        "    _judge(listed, ReleaseFile(entry.path, listed.sha256, size))",
        ("tampered_install",),
    ),
    Mutant(
        "a list is not read before it is known who signed it",
        "install/inspection.py",
        "    trusting.store.check_key(\n",
        "    dict(\n",
        ("a_list_of_a_stranger",),
    ),
)
