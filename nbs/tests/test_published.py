"What is published is what the store says: exported rows import, executed notebooks show the same again."

import json
import os
import re
import shutil

import pytest
from executing import command
from tracked import tracked

from llmforge.exports import export_experiment, import_experiment, import_plan
from llmforge.files import project_root
from llmforge.store import Store

pytestmark = pytest.mark.slow
ROOT = project_root()
OUTPUTS = ROOT / "outputs"
DATA = ROOT.parent / "shared" / "data"
SHARED = os.environ.get("LLMFORGE_DATA") or (str(DATA) if DATA.is_dir() else None)


EXPERIMENTS = tracked("result.json")
PAGES = tracked("experiment.ipynb")
STUDIES = tracked("plan.json")


def asks_foreign_questions(study):
    "Whether a study asks questions that are not part of this repository."
    return "jsonl" in (study / "plan.json").read_text()


def test_enough_is_published():
    assert len(EXPERIMENTS) >= 15 and len(PAGES) >= 4 and len(STUDIES) >= 4


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    "A store with all that is published, imported once."
    path = tmp_path_factory.mktemp("published") / "llmforge.db"
    store = Store(f"sqlite:///{path}")
    for folder in STUDIES:
        import_plan(store, folder)
    for folder in EXPERIMENTS:
        import_experiment(store, folder)
    store.close()
    return path


@pytest.fixture
def published(everything, outputs, kernels):
    "An outputs folder whose store holds all that is published; kernels start quickly."
    outputs.mkdir()
    shutil.copyfile(everything, outputs / "llmforge.db")
    return outputs


def test_exports_are_what_the_store_writes(published, tmp_path):
    "Imported and exported again, every experiment is the same bytes."
    store = Store()
    for folder in EXPERIMENTS:
        export_experiment(store, folder.name, tmp_path / folder.name)
        for name in ("config.yaml", "result.json", "runs.jsonl"):
            assert (tmp_path / folder.name / name).read_bytes() == (folder / name).read_bytes(), folder.name


def nbval(*notebooks):
    "Execute notebooks and compare every output with what they show."
    options = ["-q", "--nbval", "-p", "nbval.plugin", "-p", "no:cacheprovider", "-c", os.devnull]
    where = ["--rootdir", str(OUTPUTS), *map(str, notebooks)]
    return command("pytest", *options, *where, cwd=OUTPUTS, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")


def test_experiment_pages(published):
    "The pages of published experiments say what the imported rows say."
    p = nbval(*(folder / "experiment.ipynb" for folder in PAGES))
    assert p.returncode == 0, p.stdout[-6000:]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    "The shared data, and the parts of HH-RLHF in one file, as configs/studies/alignment_hh.yaml wants them."
    if not SHARED:
        return None
    folder = tmp_path_factory.mktemp("foreign") / "data"
    shutil.copytree(SHARED, folder)
    parts = (folder / "preference" / f"hh_rlhf_{n}.jsonl.gz" for n in ("train", "validation", "test"))
    (folder / "hh_rlhf.jsonl.gz").write_bytes(b"".join(p.read_bytes() for p in parts if p.exists()))
    return folder


@pytest.mark.parametrize("folder", STUDIES, ids=lambda p: p.name)
def test_study_page(folder, published, foreign, monkeypatch):
    "Every number of a published study is made again from the exported rows, and is the one that is shown."
    if asks_foreign_questions(folder):
        if not foreign:
            pytest.skip(
                "the data of this study is not here: set LLMFORGE_DATA to the folder of its JSONL files"
            )
        monkeypatch.setenv("LLMFORGE_DATA", str(foreign))
    p = nbval(folder / "study.ipynb")
    assert p.returncode == 0, p.stdout[-3000:]


def test_a_digit_changed_by_hand_is_found(published, monkeypatch):
    "The tests above can fail: one digit of one number in a page is changed, and nbval says where."
    page = json.loads((PAGES[0] / "experiment.ipynb").read_text())
    calls = "kinds_table(experiment)"
    cell = next(c for c in page["cells"] if calls in "".join(c["source"]) and c["cell_type"] == "code")
    text = "".join(cell["outputs"][0]["data"]["text/markdown"])
    number = re.search(r"0\.\d\d(\d)", text)
    changed = text[: number.start(1)] + str((int(number[1]) + 1) % 10) + text[number.end(1) :]
    cell["outputs"][0]["data"]["text/markdown"] = changed
    target = OUTPUTS / f".{os.getpid()}-changed.ipynb"
    try:
        target.write_text(json.dumps(page))
        p = nbval(target)
    finally:
        target.unlink()
    assert p.returncode == 1 and calls in p.stdout
