"""How a worker process begins: the interpreter, its environment, what it imports, and what it loads."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import robustkit
from robustkit.codec import MARK, TIME_LIMIT
from robustkit.errors import RobustkitError
from robustkit.isolation import guard
from robustkit.isolation.environment import clean
from robustkit.isolation.hook import Hook
from robustkit.isolation.streams import aside
from robustkit.registry import PATIENCE, CodecSpec

#: Set in a worker's environment.
INSIDE = "ROBUSTKIT_WORKER"

# glibc gives the pages of a freed image back to the kernel, and faulting them in again for the next one costs half as
# much as decoding a JPEG. (Where buffers lie does not change: from the first freed one on, glibc has them in its heap.)
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20)}


class WorkerError(RobustkitError, RuntimeError):
    """A codec failed where nothing but success or a refusal is allowed, or a worker can't be used at all."""


def variables(
    more: Mapping[str, str], *, seconds: float, inherits_python: bool, source: Mapping[str, str]
) -> dict[str, str]:
    """A worker's variables.

    Args:
        more: what comes on top of all others.
        seconds: the time limit of one decode.
        inherits_python: whether it is the same interpreter as this one.
        source: where the others come from, its secrets left aside.
    """
    found = {**_ALLOCATOR, **PATIENCE, **clean(source)}
    if not inherits_python:
        for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
            found.pop(name, None)
    return {**found, **more, INSIDE: "1", TIME_LIMIT: repr(seconds)}


def order(spec: CodecSpec, memory: int, hook: Hook | None = None) -> dict[str, Any]:
    """What a worker is told to load; ``hook`` is what it runs around each decode.

    Raises:
        WorkerError: a setting is nothing that can be told.
    """
    try:
        settings = json.loads(json.dumps(dict(spec.settings), default=os.fspath, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise WorkerError(
            f"codec {spec.name!r} has a setting that is no number, string, list or path: {error}"
        ) from error
    return {
        "operation": "load",
        "name": spec.name,
        "module": spec.target.module,
        "attribute": spec.target.attribute,
        "file": spec.target.file,
        "settings": settings,
        "memory": memory,
        "hook": None if hook is None else hook.order(),
    }


def start(
    python: str | None,
    descriptors: tuple[int, int],
    *,
    environment: Mapping[str, str],
    directory: str | os.PathLike[str] | None,
) -> tuple[subprocess.Popen[bytes], bytes]:
    """A process that serves its parent on two descriptors, a socket and a memory file; and its mark.

    Args:
        python: another interpreter than this one.
        descriptors: what the process inherits.
        environment: its variables.
        directory: where it works; here if not given.

    Raises:
        OSError: the system can't start one.
    """
    socket, file = descriptors
    code = (
        (_our_path() if python is None else _ours_alone())
        + "from robustkit.isolation.child import main\n"
        + f"main({socket}, {file}, {os.getpid()})"
    )
    launcher, token = _launcher()
    mark = f"{token}-{secrets.token_hex(4)}"
    process = launcher.submit(
        subprocess.Popen,
        [python or sys.executable, "-c", code],
        bufsize=0,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=descriptors,
        start_new_session=True,
        env={**environment, MARK: mark},
        cwd=directory,
    ).result()
    return process, f"{MARK}={mark}".encode()


def _our_path() -> str:
    """Python code that makes a worker import what this process would."""
    path = [entry or os.getcwd() for entry in sys.path]
    return f"import sys\nsys.path[:] = {path!r}\n"


def _ours_alone() -> str:
    """Python code that gives another interpreter this robustkit, and nothing else that is installed beside it."""
    folder = os.path.dirname(os.path.abspath(robustkit.__file__))
    return (
        "import sys\n"
        "if sys.version_info < (3, 11): sys.exit('robustkit needs Python 3.11 or newer, this is ' + sys.version)\n"
        "from importlib import util\n"
        f"spec = util.spec_from_file_location('robustkit', {os.path.join(folder, '__init__.py')!r},"
        f" submodule_search_locations=[{folder!r}])\n"
        "sys.modules['robustkit'] = module = util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
    )


_launchers: dict[int, tuple[ThreadPoolExecutor, str]] = {}


def _launcher() -> tuple[ThreadPoolExecutor, str]:
    """The thread that starts every worker, and the beginning of their marks.

    Linux kills a worker when the *thread* that started it ends.
    """
    if os.getpid() not in _launchers:
        _launchers.clear()
        token = secrets.token_hex(8)
        _guard(token)
        _launchers[os.getpid()] = ThreadPoolExecutor(1, thread_name_prefix="robustkit-launcher"), token
    return _launchers[os.getpid()]


def _guard(token: str) -> None:
    """A process that ends what is left of the workers when this one has ended, however it did."""
    if not os.path.isdir("/proc/self"):
        return
    ours, theirs = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, f"{MARK}={token}-", aside()],
            stdin=ours,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # It ends after this process, which will never wait for it.
        process.returncode = 0
    finally:
        # The other end stays open for as long as this process lives.
        os.close(ours)
        _held.append(theirs)


#: Descriptors that close with this process.
_held: list[int] = []
