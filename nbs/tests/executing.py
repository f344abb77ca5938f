"Each notebook is executed in a process of its own, forked from one that has the heavy imports done."

import multiprocessing
import os
import sys
import traceback
from pathlib import Path

PRELOADED = [  # not llmforge: that comes from the copy under test
    "nbdev.test",
    "nbdev.clean",
    "matplotlib.pyplot",
    "seaborn",
    "scipy.stats",
    "statsmodels.stats.power",
    "sqlalchemy",
    "typer",
    "torch",
    "transformers",
    "sentence_transformers",
]
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(PRELOADED)


def _execute(path: str, home: str, environment: dict[str, str], log: str) -> None:
    "In the child: run, save and clean a notebook as nbdev-test --save and nbdev-clean do."
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1), os.dup2(output, 2)
    sys.__stderr__ = sys.stderr = open(2, "w", closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(home)
    sys.path.insert(0, home)
    try:
        from nbdev.clean import nbdev_clean
        from nbdev.test import test_nb

        well, _ = test_nb(path, save=True)
        if well:
            nbdev_clean.__wrapped__(fname=path)
    except BaseException:
        traceback.print_exc()
        well = False
    sys.stderr.flush()
    os._exit(0 if well else 1)  # without the clean-up of libraries that a fork does not own


def run_as_stored(path: Path, home: Path, log: Path) -> None:
    "Execute a notebook in a copy of the project, save and clean it; fails with what it printed."
    environment = {**os.environ, "PYTHONPATH": str(home), "LLMFORGE_HOME": str(home)}
    child = context.Process(target=_execute, args=(str(path), str(home), environment, str(log)))
    child.start()
    child.join()
    assert child.exitcode == 0, f"{path.name} ended with {child.exitcode}:\n{log.read_text()[-4000:]}"
