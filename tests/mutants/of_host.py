"""Defences of the host: wires, gate, services; each with the attacks that it stops. Pure: no I/O."""

from __future__ import annotations

from tests.mutants.mutant import Cut, Mutant

_BENEATH = "services/beneath.py"
_PERMISSIONS = "permissions.py"

OF_HOST = (
    Mutant(
        "no link is followed on the way to a file",
        _BENEATH,
        "_RESOLVE = 0x02 | 0x04 | 0x08",
        "_RESOLVE = 0x08",
        ("symlink_dir",),
    ),
    Mutant(
        "no link is followed, on the way or at its end",
        _BENEATH,
        "_RESOLVE = 0x02 | 0x04 | 0x08",
        "_RESOLVE = 0",
        ("symlink_file", "symlink_swap"),
        (
            Cut(_BENEATH, "FOLDER = ROOT | os.O_NOFOLLOW", "FOLDER = ROOT"),
            Cut(
                _BENEATH,
                "return os.open(parts[-1].encode(), flags | os.O_NOFOLLOW, dir_fd=current)",
                "return os.open(parts[-1].encode(), flags, dir_fd=current)",
            ),
            Cut(
                "services/descriptors.py",
                "os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK",
                "os.O_RDONLY | os.O_NONBLOCK",
            ),
        ),
    ),
    Mutant(
        "the walk follows no link on its way",
        _BENEATH,
        "FOLDER = ROOT | os.O_NOFOLLOW",
        "FOLDER = ROOT",
        ("symlink_dir", "write_through_link", "symlink_swap"),
        (
            Cut(
                _BENEATH,
                "return open_by_openat2 if error.errno == errno.EXDEV else open_by_walk",
                "return open_by_walk",
            ),
        ),
    ),
    Mutant(
        "nothing leads above the folder from which a path is opened",
        _BENEATH,
        "_RESOLVE = 0x02 | 0x04 | 0x08",
        "_RESOLVE = 0x02 | 0x04",
        ("broken_gate",),
        (Cut(_BENEATH, "if any(part in _NO_NAMES or", "if any("),),
    ),
    Mutant(
        "what the kernel makes up is no file",
        _BENEATH,
        "    if kind & 0xFFFFFFFF in _MADE_UP:",
        "    if kind < 0:",
        ("kernel_files",),
    ),
    Mutant(
        "`.core` is granted to nobody",
        _PERMISSIONS,
        "    if is_host_path(path):",
        "    if path is None:",
        ("path_prefix",),
    ),
    Mutant(
        "`.core` is known in each of its spellings",
        _PERMISSIONS,
        'return name.casefold().rstrip(". ") == HOST_FOLDER',
        "return name == HOST_FOLDER",
        ("path_prefix",),
    ),
    Mutant(
        "a file is granted, or it is not reached",
        _PERMISSIONS,
        "if any(is_beneath(path, folder) for folder in granted):",
        "if granted:",
        ("path_prefix",),
    ),
    Mutant(
        "a folder holds what is beneath its whole name",
        _PERMISSIONS,
        'path.startswith(folder + "/")',
        "path.startswith(folder)",
        ("path_prefix",),
    ),
    Mutant(
        "a path does not lead back",
        _PERMISSIONS,
        'if "" in parts or ".." in parts:',
        'if "" in parts:',
        ("path_prefix",),
    ),
    Mutant(
        "a link is not written to",
        "services/descriptors.py",
        "        require_plain(status)\n        mode = ",
        "        mode = ",
        ("write_through_link", "odd_files"),
    ),
    Mutant(
        "a plugin with links in it is not loaded",
        "plugin_files.py",
        "os.stat(name.encode(), dir_fd=folder, follow_symlinks=False).st_mode",
        "os.stat(name.encode(), dir_fd=folder).st_mode",
        ("symlink_file", "symlink_dir"),
        (
            Cut(
                "plugin_files.py",
                "os.open(name.encode(), FOLDER if stat.S_ISDIR(mode) else PLAIN_FILE, dir_fd=folder)",
                "os.open(name.encode(), os.O_RDONLY, dir_fd=folder)",
            ),
        ),
    ),
    Mutant(
        "what is written is not executable",
        "services/descriptors.py",
        "mode = stat.S_IMODE(status.st_mode) & 0o666",
        "mode = stat.S_IMODE(status.st_mode)",
        ("chmod_setuid",),
    ),
    Mutant(
        "a module controls its own processes",
        _PERMISSIONS,
        "refusal = None if owner == module else",
        "refusal = None if owner else",
        ("process_stop_foreign",),
    ),
    Mutant(
        "a module starts the programs that its manifest names",
        _PERMISSIONS,
        "refusal = None if name in grants.run else",
        "refusal = None if grants.run else",
        ("run_unlisted",),
    ),
    Mutant(
        "a program gets nothing of the host's environment",
        "services/process_table.py",
        "                env=_ENVIRONMENT,",
        "                env={**os.environ, **_ENVIRONMENT},",
        ("run_args",),
    ),
    Mutant(
        "options reach a program only where the app allowed them",
        "services/builtin.py",
        'if not program.allow_options and any(arg.startswith("-") for arg in params.args):',
        "if not program:",
        ("run_args",),
    ),
    Mutant(
        "the host's own store groups are reached by nobody",
        _PERMISSIONS,
        '    return group.startswith("_")',
        '    return group == ""',
        ("store_reserved",),
    ),
    Mutant(
        "a store group is granted, or it is not reached",
        _PERMISSIONS,
        "if granted is not None and (group == module or group in granted):",
        "if granted is not None:",
        ("store_foreign",),
    ),
    Mutant(
        "to read a store group is not to write it",
        _PERMISSIONS,
        '{"read": grants.store_read, "write": grants.store_write}.get(mode)',
        '{"read": grants.store_read, "write": grants.store_write + grants.store_read}.get(mode)',
        ("store_foreign",),
    ),
    Mutant(
        "a store group has so many bytes at most",
        "store/schema.py",
        " OR bytes > NEW.most_bytes)",
        ")",
        ("quota_store",),
    ),
    Mutant(
        "a store group has so many keys at most",
        "store/schema.py",
        "(keys > NEW.most_keys OR bytes",
        "(bytes",
        ("quota_store",),
    ),
    Mutant(
        "what is revoked ends what is under way",
        "held_grants.py",
        """                use.is_withdrawn = True
                if use.task is not None:
                    use.task.cancel()""",
        "                pass",
        ("grant_race",),
    ),
    Mutant(
        "what is revoked is gone",
        "held_grants.py",
        "        self._extras = [extra for extra in self._extras if extra not in lost]\n",
        "",
        ("grant_race",),
    ),
    Mutant(
        "what was granted for good belongs to code and signer",
        "grant_records.py",
        """return f"{code} {signer or 'unsigned'}\"""",
        """return f"{code} unsigned\"""",
        ("inherited_grant",),
    ),
    Mutant(
        "a row of the audit log is what was written",
        "audit/chain.py",
        "            if digest_of(row) != row.digest:",
        '            if digest_of(row) == "":',
        ("audit_rewritten",),
    ),
    Mutant(
        "a row of the audit log follows the one before it",
        "audit/chain.py",
        "if self._before is not None and row.before != self._before:",
        "if self._before is None:",
        ("audit_rewritten",),
    ),
    Mutant(
        "so many lines a second are logged",
        "line_rate.py",
        "        if self._passed >= self._lines_per_s:",
        "        if self._passed < 0:",
        ("quota_log", "stdout_flood"),
    ),
    Mutant(
        "a refusal holds little of what was asked for",
        "permissions.py",
        "    return resource if len(resource) <= _SHOWN_RESOURCE else",
        "    return resource if len(resource) <= 1 << 40 else",
        ("quota_refusals",),
    ),
    Mutant(
        "the name of an unknown field is cut before a near one is looked for",
        "manifest.py",
        "difflib.get_close_matches(name[:_SHOWN_KEY].lower()",
        "difflib.get_close_matches(name.lower()",
        ("quota_asking",),
    ),
    Mutant(
        "of a request for permissions four denials are told",
        "permission_desk.py",
        "permits[:_DENIALS_TOLD], len(permits)",
        "permits, len(permits)",
        ("quota_asking",),
    ),
    Mutant(
        "hosts that are not public are granted by name only",
        "net_ceiling.py",
        "not self._public_ports.isdisjoint({None, host.port}) and host.is_public()",
        "not self._public_ports.isdisjoint({None, host.port})",
        ("net_not_public",),
    ),
    Mutant(
        "who names another module is killed",
        "gateway/gateway.py",
        """        raise ProtocolError(f"{self.name}: a frame names module {module[:80]!r}, which is not its own")""",
        "        return next(iter(self.modules.values()))",
        ("forge_identity", "fd_hijack_forge"),
    ),
    Mutant(
        "who names another module in a unary call is killed",
        "gateway/listener.py",
        """                except ProtocolError as error:
                    self._gateway.broken(peer, error)
                    raise
                call.module""",
        """                except ProtocolError:
                    raise
                call.module""",
        ("forge_identity", "fd_hijack_forge", "connect_host_socket"),
    ),
    Mutant(
        "what is down begins nothing",
        "placement.py",
        "                self._gateway.silence_module(place.token, module.code, self._callers[module])",
        "                pass",
        ("forged_exit_outlives",),
        (
            Cut(
                "placement.py",
                "        await self._stop_processes(module)\n        await self._supervisor.give_up(place)",
                "        await self._supervisor.give_up(place)",
            ),
            Cut("placement.py", '"grace_ms": grace_s * 1000', '"grace_ms": 500'),
            Cut(
                "loader.py",
                "        self._bury(module)  # first: that it is down may be a lie of its own\n",
                "",
            ),
        ),
    ),
    Mutant(
        "where several may have said that one has ended, nobody is to blame",
        "loader.py",
        "                guilty = guilty_of(None, home.codes)",
        "                guilty = module.code",
        ("forged_exit_blames",),
    ),
    Mutant(
        "where several may have said that one hangs, nobody is to blame",
        "sidecar/vitals.py",
        'self._hangs(what, hang_s, limit, "" if is_shared else code)',
        "self._hangs(what, hang_s, limit, code)",
        ("forged_exit_blames",),
    ),
    Mutant(
        "nobody is let in without a token",
        "gateway/gateway.py",
        """        if peer is None:
            raise UnknownToken
        if peer.process_id""",
        """        if peer is None:
            peer = next(iter(self._peers.values()))
        if peer.process_id""",
        ("connect_host_socket",),
        (
            Cut(
                "gateway/gateway.py",
                "if peer.process_id is not None and process_id is not None and peer.process_id != process_id:",
                "if process_id == 0:",
            ),
        ),
    ),
    Mutant(
        "a token is good in its own process only",
        "gateway/gateway.py",
        "if peer.process_id is not None and process_id is not None and peer.process_id != process_id:",
        "if process_id == 0:",
        ("foreign_token", "connect_host_socket"),
    ),
    Mutant(
        "a message that says it is huge is refused",
        "gateway/listener.py",
        "        if size > limit_bytes:",
        "        if size < 0:",
        ("grpc_length_bomb",),
    ),
    Mutant(
        "who sends control frames without end is dropped",
        "gateway/frame_guard.py",
        "            if not self._control.allows(now, cost):",
        "            if cost < 0:",
        ("h2_ping_flood", "h2_rapid_reset", "h2_control_flood"),
    ),
    Mutant(
        "a message of a sidecar has a bounded size",
        "wire/codec.py",
        "        if size > self._limit_bytes:",
        "        if size < 0:",
        ("oversize_frame",),
    ),
    Mutant(
        "an answer that nobody waits for is the end of its sender",
        "sidecar/rpc.py",
        "            if settle is None:\n                raise",
        "            if settle is None:\n                return\n                raise",
        ("forge_answers", "stream_no_credit"),
    ),
    Mutant(
        "a file is not copied beyond its size",
        "install/verifying.py",
        "            if size > listed.size:  # it grows meanwhile",
        "            if size < 0:",
        ("a_file_that_grows_while_it_is_copied",),
    ),
    Mutant(
        "a file of another size is not read",
        "install/verifying.py",
        "    if entry.status.st_size != listed.size:",
        "    if entry.status.st_size < 0:",
        ("a_file_that_was_made_huge",),
    ),
)
