"""Loads a user's file before anything is started, in a process of its own: it may do anything."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ..core.errors import ConfigurationError

_LOADED = "loaded"


class FileCheck:
    """Begins to load the file at once; meanwhile the caller has other things to load."""

    def __init__(self, file: Path, *, prefect_port: int) -> None:
        # As the launcher will have it: otherwise what asks Prefect would start one of its own.
        env = {"PREFECT_API_URL": f"http://127.0.0.1:{prefect_port}/api"} | os.environ
        self._file = file
        self._answer = tempfile.TemporaryFile()  # noqa: SIM115 - closed in result()
        fd = self._answer.fileno()
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "prefect_n8n.cli.checking", str(file), str(fd)],
            env=env,
            stdin=subprocess.DEVNULL,
            # The launcher loads it again, and shows what it prints.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(fd,),
        )

    def result(self) -> None:
        """Wait for it.

        Raises:
            ConfigurationError: the file cannot be loaded; the message says why.
        """
        code = self._process.wait()
        with self._answer as file:
            file.seek(0)
            answer = file.read().decode()
        if answer != _LOADED:
            raise ConfigurationError(
                answer or f"{self._file} ended the process (code {code}) while it was loaded."
            )


def main() -> None:
    """Load the file, and write to the given descriptor what became of it."""
    from ..core.errors import PrefectN8nError
    from ..launcher.loading import load_file

    file, fd = sys.argv[1:]
    try:
        load_file(Path(file))
        answer = _LOADED
    except PrefectN8nError as error:
        answer = str(error)
    os.write(int(fd), answer.encode())


if __name__ == "__main__":
    main()
