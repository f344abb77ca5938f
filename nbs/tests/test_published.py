"What is published is what the store says: exported rows import, and the executed notebooks show the same again."

import json
import os
import re
import subprocess
import sys

import pytest

from llmforge.exports import export_experiment, import_experiment, import_plan
from llmforge.files import project_root
from llmforge.store import Store

OUTPUTS = project_root() / "outputs"
SHARED = os.environ.get("LLMFORGE_DATA") or next(
    (str(p) for p in [project_root().parent / "shared" / "data"] if p.is_dir()), None
)


def tracked(path):
    "Only what is in the repository is published; a reader's own runs lie beside it."
    return (
        subprocess.run(
            ["git", "ls-files", "--error-unmatch", str(path)], cwd=project_root(), capture_output=True
        ).returncode
        == 0
    )


EXPERIMENTS = sorted(p.parent for p in OUTPUTS.glob("*/result.json") if tracked(p))
PAGES = [p for p in EXPERIMENTS if tracked(p / "experiment.ipynb")]
STUDIES = sorted(p.parent for p in OUTPUTS.glob("study-*/plan.json") if tracked(p))


def test_enough_is_published():
    assert len(EXPERIMENTS) >= 15 and len(PAGES) >= 4 and len(STUDIES) >= 4


@pytest.mark.parametrize("folder", EXPERIMENTS, ids=lambda p: p.name)
def test_export_is_what_the_store_writes(folder, tmp_path):
    "Import, export again: the same bytes."
    store = Store()
    id = import_experiment(store, folder)
    export_experiment(store, id, tmp_path / "again")
    for name in ("config.yaml", "result.json", "runs.jsonl"):
        assert (tmp_path / "again" / name).read_text() == (folder / name).read_text()


def nbval(notebook):
    "Execute a notebook and compare every output with what it shows."
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--nbval",
            "-p",
            "no:cacheprovider",
            "-c",
            os.devnull,
            "--rootdir",
            str(notebook.parent),
            str(notebook),
        ],
        cwd=notebook.parent,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("folder", PAGES, ids=lambda p: p.name)
def test_experiment_page(folder, outputs):
    "The page of a published experiment says what the imported rows say."
    import_experiment(Store(), folder)
    p = nbval(folder / "experiment.ipynb")
    assert p.returncode == 0, p.stdout[-3000:]


def import_study(folder):
    "A study's plan, and the rows of all its experiments."
    store = Store()
    import_plan(store, folder)
    for other in EXPERIMENTS:
        import_experiment(store, other)


def needs_data(folder, monkeypatch):
    "Set LLMFORGE_DATA where a study asks questions that are not part of this repository."
    if "jsonl" not in (folder / "plan.json").read_text():
        return
    if not SHARED:
        pytest.skip(
            "the data of this study is not here: set LLMFORGE_DATA to the folder with its JSONL files"
        )
    monkeypatch.setenv("LLMFORGE_DATA", SHARED)


@pytest.mark.parametrize("folder", STUDIES, ids=lambda p: p.name)
def test_study_page(folder, outputs, monkeypatch):
    "Every number of a published study is made again from the exported rows, and is the one that is shown."
    needs_data(folder, monkeypatch)
    import_study(folder)
    p = nbval(folder / "study.ipynb")
    assert p.returncode == 0, p.stdout[-3000:]


def test_a_digit_changed_by_hand_is_found(outputs, tmp_path, monkeypatch):
    "The test above can fail: one digit of one number in a study's verdicts is changed, and nbval says where."
    folder = next(f for f in STUDIES if "jsonl" not in (f / "plan.json").read_text())
    import_study(folder)
    nb = json.loads((folder / "study.ipynb").read_text())
    cell = next(c for c in nb["cells"] if "verdict_table(done)" in "".join(c["source"]))
    text = "".join(cell["outputs"][0]["data"]["text/markdown"])
    number = re.search(r"0\.\d\d(\d)", text)
    changed = text[: number.start(1)] + str((int(number[1]) + 1) % 10) + text[number.end(1) :]
    cell["outputs"][0]["data"]["text/markdown"] = changed
    target = project_root() / "outputs" / f".{os.getpid()}-changed.ipynb"
    try:
        target.write_text(json.dumps(nb))
        p = nbval(target)
    finally:
        target.unlink()
    assert p.returncode == 1 and "verdict_table(done)" in p.stdout
