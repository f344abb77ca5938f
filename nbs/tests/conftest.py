"""Every test gets an outputs folder of its own; caches of public parts (model, indexes) are shared, and so is
the built site."""

import gc
import json
import os
import shutil

import pytest
from executing import forked_kernels
from filelock import FileLock

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the processes that tests start compile a module once
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests never reach for a hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers of two threads each would wait for each other


def pytest_ignore_collect(collection_path, config):
    "A file that is slow as a whole is not even imported by `-m 'not slow'`: many load the model's libraries."
    if config.option.markexpr == "not slow" and collection_path.suffix == ".py":
        return True if "\npytestmark = pytest.mark.slow\n" in collection_path.read_text() else None


# The files that take longest, the longest first (the last four in the fast lane); those in one
# line share what they wait for.
LONGEST = [
    ("test_browser", "test_site"),
    ("test_notebooks",),
    ("test_local",),
    ("test_colab",),
    ("test_board",),
    ("test_published",),
    ("test_study",),
    ("test_jobs",),
    ("test_run",),
    ("test_server",),
    ("test_resume",),
    ("test_agent",),
    ("test_launching",),
    ("test_installed",),
    ("test_tampering",),
    ("test_align",),
    ("test_trace",),
    ("test_hostile",),
    ("test_store",),
    ("test_tools",),
    ("test_hangs",),
    ("test_imports",),
]
GROUPS = {name: names for names in LONGEST for name in names}


def pytest_collection_modifyitems(items):
    "Long files first, so that no process ends long after the others."
    rank = {name: i for i, names in enumerate(LONGEST) for name in names}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "The tests of a file, or of a group of files, are run by one process."
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            name = nodeid.split("::")[0].rsplit("/")[-1].removesuffix(".py")
            return "+".join(GROUPS.get(name, (name,)))

    config.option.loadscopereorder = False
    return ByGroup(config, log)


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    "The test's own outputs folder: store, generation cache, exports."
    folder = tmp_path / "outputs"
    monkeypatch.setenv("LLMFORGE_OUTPUTS", str(folder))
    return folder


@pytest.fixture(scope="session")
def _kernels():
    with forked_kernels() as folder:
        yield folder


@pytest.fixture
def kernels(_kernels, monkeypatch):
    "Jupyter's kernels are forked ones."
    monkeypatch.setenv("JUPYTER_PATH", _kernels)


HOSTILE = [
    '<script>document.title="pwned"</script>',
    "[x](javascript:alert(1)) <a href='javascript:alert(2)'>y</a>",
    '"><img src=x onerror=alert(3)></td></table></details>',
    "```\n\n<b>bold</b>\n\n# heading {{x:y}}",
    "{raw} html\n````\n<i>i</i> $x$ | pipe | ${z} \u2028 </script>",
]


def hostile_experiment(folder, name, skip=0):
    "An experiment on invented questions whose model, titles and notebook are all hostile; its id."
    from llmforge.batching import FakeEngine
    from llmforge.config import load_config
    from llmforge.exports import export_experiment
    from llmforge.runner import run_experiment
    from llmforge.store import Store

    data = folder.parent / "hostile.jsonl"
    data.write_text(
        "".join(
            json.dumps({"id": f"q{i}/{t[:9]}", "question": f"What is {t}", "answers": [t, "two"]}) + "\n"
            for i, t in enumerate(HOSTILE)
        )
    )
    store, config = (
        Store(f"sqlite:///{folder.parent}/hostile.db"),
        load_config(
            {
                "experiment": {
                    "name": name,
                    "engine": {"name": "fake", "cache": False},
                    "method": {"shots": 0},
                    "dataset": {"name": "hostile.jsonl"},
                }
            }
        ),
    )
    replies = iter((HOSTILE * 9)[skip:])
    id = run_experiment(
        config, store, FakeEngine(lambda text, sampling: " " + next(replies).replace("\n", " ")), show=False
    )
    export_experiment(store, id, folder / id)
    outputs = [
        {
            "output_type": "execute_result",
            "execution_count": 1,
            "metadata": {},
            "data": {
                "text/html": t,
                "text/markdown": t,
                "text/plain": t,
                "application/javascript": "alert(4)",
            },
        }
        for t in HOSTILE
    ]
    outputs += [
        {"output_type": "display_data", "metadata": {}, "data": {mime: t, "text/plain": "plain"}}
        for t in HOSTILE
        for mime in ("text/html", "text/markdown")
    ] + [{"output_type": "stream", "name": "stdout", "text": "\n".join(HOSTILE)}]
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": "# Run"},
        {"cell_type": "code", "metadata": {}, "source": "run()", "outputs": outputs, "execution_count": 1},
    ]
    (folder / id / "experiment.ipynb").write_text(
        json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4})
    )
    return id


def build_with_hostile(work):
    "What is published, with two hostile experiments beside it, as a site in a folder; their ids."
    from tracked import copy_tracked

    from llmforge.site import build_site

    copy_tracked(work)
    with pytest.MonkeyPatch.context() as m:
        m.setenv("LLMFORGE_DATA", str(work))
        m.setenv("LLMFORGE_OUTPUTS", str(work / "outputs"))
        ids = (
            hostile_experiment(work / "outputs", "hostile"),
            hostile_experiment(work / "outputs", "more-hostile", skip=1),
        )
        build_site(work / "site", work / "outputs")
    return ids


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    "The site, the outputs it was built from, the ids of the hostile experiments; built once for all workers."
    work = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        work = work.parent
    with FileLock(work / "site.lock"):
        if not (done := work / "ids.json").exists():
            done.write_text(json.dumps(build_with_hostile(work)))
            gc.collect()
    return work / "site", work / "outputs", tuple(json.loads(done.read_text()))


@pytest.fixture(scope="session")
def chromium():
    "The path of an installed browser; where there is none the tests that need it are skipped, and say so."
    found = next(
        filter(
            None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))
        ),
        None,
    )
    return found or pytest.skip(
        "NO BROWSER HERE: scripts of the site are not tested; "
        "apt-get install chromium, or any Chrome on the PATH"
    )
