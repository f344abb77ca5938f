"""Processes that tests start, each forked from one that has the heavy imports done.

llmforge itself is not among them: a fork imports it from the copy under test. What is about an interpreter's
own start, such as which modules `import llmforge` loads, starts one."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import entry_points
from multiprocessing.connection import wait
from pathlib import Path

PRELOADED = [
    "nbdev.test",
    "nbdev.clean",
    "pytest",
    "nbformat",
    "jupyter_client.manager",
    "papermill.cli",
    "ipykernel.kernelapp",
    "matplotlib.pyplot",
    "seaborn",
    "scipy.stats",
    "statsmodels.stats.power",
    "sqlalchemy",
    "pydantic",
    "typer",
    "torch",
    "transformers",
    "sentence_transformers",
    "trl.trainer.dpo_trainer",
]
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(PRELOADED)
_starting = threading.Lock()  # multiprocessing looks after all children whenever it starts one


class Started:
    "A forked process, and what it printed."

    def __init__(self, work: Callable, cwd: Path, environment: Mapping[str, str]):
        self._folder = tempfile.TemporaryDirectory()
        self._printed = [Path(self._folder.name, name) for name in ("out", "err")]
        args = (work, str(cwd), dict(environment), *map(str, self._printed))
        self._process = context.Process(target=_become, args=args)
        with _starting:
            self._process.start()
        self.pid, self.sentinel = self._process.pid, self._process.sentinel

    @property
    def returncode(self) -> int | None:
        "-9 after SIGKILL; None while it runs."
        with _starting:
            return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not wait([self.sentinel], timeout):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return self.returncode

    def printed(self) -> tuple[str, str]:
        "What it has printed so far."
        return tuple(path.read_text() if path.exists() else "" for path in self._printed)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        "What it printed, at its end."
        self.wait(timeout)
        return self.printed()

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _become(work: Callable, cwd: str, environment: dict[str, str], *printed: str) -> None:
    "In the child: be a process of its own, as if an interpreter had been started."
    for number, path in enumerate(printed, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = open(2, "w", closefd=False, buffering=1)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    code = 1
    try:
        work()
        code = 0
    except SystemExit as e:
        code = e.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without the clean-up of libraries that a fork does not own


def _run_code(code: str, args: tuple[str, ...]) -> None:
    sys.argv = ["-c", *args]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def start(code: str, *args: str, **environment: str) -> Started:
    "What `python -c` starts."
    return Started(partial(_run_code, code, args), Path.cwd(), {**os.environ, **environment})


def _run_command(args: tuple[str, ...]) -> None:
    (script,) = entry_points(group="console_scripts", name=args[0])
    sys.argv = [str(Path(sys.executable).with_name(args[0])), *args[1:]]
    sys.exit(script.load()())


def start_command(*args: str, **environment: str) -> Started:
    "Start an installed command, such as `llmforge`, in a session of its own."
    return Started(partial(_run_apart, args), Path.cwd(), {**os.environ, **environment})


def _run_apart(args: tuple[str, ...]) -> None:
    os.setsid()
    _run_command(args)


def command(*args: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    "Run an installed command, such as `llmforge`, to its end."
    process = Started(partial(_run_command, args), cwd, {**os.environ, **environment})
    printed = process.communicate()
    return subprocess.CompletedProcess(args, process.returncode, *printed)


# Notebooks


def papermill(notebook: Path, folder: Path, **parameters: object) -> tuple[Path, subprocess.CompletedProcess]:
    "Execute a notebook of nbs/ as papermill's command does: the page in a folder, and how it ended."
    page = folder / notebook.name
    given = [text for name, value in parameters.items() for text in ("-p", name, str(value))]
    asked = ["papermill", str(notebook), str(page), *given, "--no-progress-bar"]
    return page, command(*asked, cwd=notebook.parents[1])


def _run_and_clean(path: str) -> None:
    "As nbdev-test --save and nbdev-clean do."
    from nbdev.clean import nbdev_clean
    from nbdev.test import test_nb

    well, _ = test_nb(path, save=True)
    if not well:
        sys.exit(1)
    nbdev_clean.__wrapped__(fname=path)


def run_as_stored(path: Path, home: Path) -> None:
    "Execute a notebook in a copy of the project, save and clean it; fails with what it printed."
    environment = {**os.environ, "PYTHONPATH": str(home), "LLMFORGE_HOME": str(home)}
    process = Started(partial(_run_and_clean, str(path)), home, environment)
    printed = "".join(process.communicate())
    assert process.returncode == 0, f"{path.name} ended with {process.returncode}:\n{printed[-4000:]}"


def _run_kernel(connection_file: str) -> None:
    "What `python -m ipykernel_launcher` does."
    import matplotlib
    from ipykernel.kernelapp import IPKernelApp

    os.environ.pop("JPY_PARENT_PID", None)  # its parent is the fork server
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    matplotlib.rcParams["backend"] = os.environ["MPLBACKEND"]  # as its import would
    IPKernelApp.launch_instance(["-f", connection_file])


def _serve_kernel(asked: socket.socket) -> None:
    "Fork a kernel; it ends when the process that stands for it ends, and the other way round."
    with asked:
        connection_file, cwd, environment = json.loads(asked.makefile().readline())
        kernel = Started(partial(_run_kernel, connection_file), cwd, environment)
        wait([kernel.sentinel, asked])
        kernel.send_signal(9)
        kernel.wait()


STAND_IN = """
import json, os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(json.dumps([sys.argv[2], os.getcwd(), dict(os.environ)]).encode() + b"\\n")
s.recv(1)
"""


@contextmanager
def forked_kernels() -> Iterator[str]:
    "A folder for JUPYTER_PATH in which the kernel `python3` is forked: it starts in a tenth of the time."
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        address = os.path.join(folder, "kernels.socket")
        argv = [sys.executable, "-IS", "-c", STAND_IN, address, "{connection_file}"]
        spec = {"argv": argv, "display_name": "Python 3", "language": "python", "interrupt_mode": "message"}
        home = Path(folder, "kernels", "python3")
        home.mkdir(parents=True)
        (home / "kernel.json").write_text(json.dumps(spec))
        server.bind(address)
        server.listen()

        def _accept() -> None:
            while True:
                try:
                    asked, _ = server.accept()
                except OSError:  # closed
                    return
                threading.Thread(target=_serve_kernel, args=(asked,), daemon=True).start()

        threading.Thread(target=_accept, daemon=True).start()
        yield folder
