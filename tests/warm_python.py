"""Commands in processes of their own that start at once: torch is imported once, and they are forked from there.

`run` is `subprocess.run([sys.executable, *words], capture_output=True, text=True)` without the seconds that importing
torch takes, and `Process` is `subprocess.Popen`. Of what a command imports, only packages of others are there from the
beginning; modules of the project are not. The Python processes that it starts are forked from it in turn, also those
of multiprocessing, which get their arguments pickled all the same.
"""

from __future__ import annotations

import atexit
import builtins
import concurrent.futures.thread
import contextlib
import functools
import gc
import importlib
import json
import multiprocessing.util
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import types
import warnings
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

PRELOADED = ("torch", "torch.distributed", "torch._dynamo", "numpy", "scipy.linalg", "PIL.Image", "click", "psutil")
SECONDS_TO_START = 120   # more than importing takes anywhere
TESTS = Path(__file__).resolve().parent


class Process:
    """A running command."""

    def __init__(
        self,
        words: Sequence[str | Path],            # what follows `python`: options, then a script, -m or -c, and arguments
        folder: str | Path,                     # where what it prints goes, to the files `stdout` and `stderr`
        cwd: str | Path = ".",
        env: Mapping[str, str] | None = None,   # the environment of this process by default
    ):
        self.returncode: int | None = None
        answers = os.path.join(os.path.abspath(folder), "answers")
        os.mkfifo(answers)
        descriptor = os.open(answers, os.O_RDONLY | os.O_NONBLOCK)   # nobody writes there yet
        request = dict(words=[str(word) for word in words], folder=os.path.dirname(answers), cwd=os.path.abspath(cwd),
                       env=dict(os.environ if env is None else env))
        server = _server()
        server.write(json.dumps(request) + "\n")
        server.flush()
        assert select.select([descriptor], [], [], SECONDS_TO_START)[0], "no process was forked"
        os.set_blocking(descriptor, True)
        self._answers = os.fdopen(descriptor)
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        return self._read(seconds=0)

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired after so many seconds."""
        code = self._read(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def _read(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._answers], [], [], seconds)[0]:
            self.returncode = int(self._answers.read())
            self._answers.close()
        return self.returncode


def run(
    words: Sequence[str | Path],
    cwd: str | Path = ".",
    env: Mapping[str, str] | None = None,
    check: bool = False,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        process = Process(words, folder, cwd, env)
        try:
            code = process.wait(timeout)
        except BaseException:
            process.kill()
            raise
        output = [Path(folder, name).read_text() for name in ("stdout", "stderr")]
    assert not check or code == 0, output[1]
    return subprocess.CompletedProcess([sys.executable, *words], code, *output)


def call(function: Callable[..., None], *args: Any) -> None:
    """Call a function of a test file in a process of its own. Its arguments are numbers and strings."""
    code = f"import {function.__module__} as tests; tests.{function.__name__}(*{args!r})"
    run(["-c", code], env={**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}, check=True)


@functools.cache
def _server() -> Any:
    """The standard input of the process that all are forked from. It ends when this one does."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONWARNINGS")}
    command = [sys.executable, str(TESTS / "warm_python.py")]
    return subprocess.Popen(command, env=env | dict(OMP_NUM_THREADS="1"), text=True, stdin=subprocess.PIPE).stdin


# In the server


def serve() -> NoReturn:
    del sys.path[0]   # the folder of this file
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    for line in iter(sys.stdin.readline, ""):
        if os.fork() == 0:
            _answer(json.loads(line))
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:   # those that have answered
                pass
    os._exit(0)


def _answer(request: dict[str, Any]) -> NoReturn:
    """Write the number of a new process, wait for it, and write its exit code."""
    paths = [os.path.join(request["folder"], name) for name in ("answers", "stdout", "stderr")]
    answers = os.open(paths[0], os.O_WRONLY)
    if (pid := os.fork()) == 0:
        for descriptor, path in enumerate([os.devnull, *paths[1:]]):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), descriptor)
        os.chdir(request["cwd"])
        become(request["words"], request["env"])
    os.write(answers, f"{pid}\n".encode())
    os.write(answers, str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    os._exit(0)


# In forked processes


def become(words: Sequence[str], env: Mapping[str, str], kept_descriptors: Collection[int] = ()) -> NoReturn:
    """Do what a fresh interpreter does with these arguments in this environment."""
    _forget_parent(kept_descriptors)
    os.environ.clear()
    os.environ.update(env)
    words, filters = list(words), [text for text in env.get("PYTHONWARNINGS", "").split(",") if text]
    while words[0].startswith("-") and words[0] not in ("-c", "-m"):
        option = words.pop(0)
        value = words.pop(0) if option in ("-W", "-X") else option[2:]
        filters += [value] if option.startswith("-W") else []
    for text in filters:
        action, _, category = text.partition("::")   # error::DeprecationWarning
        sys.warnoptions.append(text)
        warnings.filterwarnings(action, category=getattr(builtins, category or "Warning"))  # type: ignore[arg-type]
    sys.argv = words
    first = {"-c": "", "-m": os.getcwd()}.get(words[0], os.path.dirname(os.path.realpath(words[0])))
    sys.path[:] = [first, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *_path_of_packages()]
    subprocess.Popen = ForkedPopen   # type: ignore[misc]
    multiprocessing.util.spawnv_passfds = _spawn
    code = _exit_code()
    threading._shutdown()   # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()
    os._exit(code)   # taking everything apart that was imported would take most of a second


@functools.cache
def _path_of_packages() -> list[str]:
    return list(sys.path)


def _forget_parent(kept_descriptors: Collection[int]) -> None:
    """Files, signal handlers, threads and what is to be done at the end are those of the process that forked this."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in map(int, os.listdir("/dev/fd")):
        if descriptor > 2 and descriptor not in kept_descriptors:
            with contextlib.suppress(OSError):          # that of the folder itself
                os.dup2(nothing, descriptor)            # not closed: the object that it belongs to will do that
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    concurrent.futures.thread._threads_queues.clear()   # type: ignore[attr-defined]
    atexit._clear()
    weakref.finalize._registry.clear()   # type: ignore[attr-defined]
    weakref.finalize._registered_with_atexit = False   # type: ignore[attr-defined]
    atexit.register(multiprocessing.util._exit_function)   # type: ignore[attr-defined]


def _exit_code() -> int:
    """Of the command, after printing what the interpreter prints at its end."""
    try:
        _execute()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _execute() -> None:
    """As the interpreter does with its arguments, in the module __main__."""
    kind = sys.argv[0]
    if kind == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        return
    main: Any = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    if kind == "-c":
        code = compile(sys.argv.pop(1), "<string>", "exec")
    else:
        main.__file__ = kind
        code = compile(Path(kind).read_bytes(), kind, "exec")
    exec(code, main.__dict__)


class ForkedPopen(subprocess.Popen):
    """Forks this process where the command is one for Python."""

    def __init__(self, args: Any, *rest: Any, **options: Any):
        if isinstance(args, (list, tuple)) and args[0] == sys.executable:
            options["preexec_fn"] = lambda: become(args[1:], options.get("env") or dict(os.environ))
        super().__init__(args, *rest, **options)


def _spawn(path: Any, args: Sequence[Any], passfds: Collection[int]) -> int:
    """As multiprocessing.util.spawnv_passfds, which starts its processes."""
    if (pid := os.fork()) == 0:
        become([os.fsdecode(arg) for arg in args[1:]], dict(os.environ), passfds)
    return pid


if __name__ == "__main__":
    serve()
