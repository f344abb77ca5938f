"What is published is what the store says: exported rows import, and the executed notebooks show the same again."
import os, subprocess, sys
import pytest
from llmforge.core import project_root
from llmforge.store import Store, export_experiment, import_experiment

PUBLISHED = sorted(p.parent for p in (project_root()/"outputs").glob("*/experiment.ipynb") if (p.parent/"result.json").exists())

def tracked(folder):
    "Only what is in the repository is published; a reader's own runs lie beside it."
    p = subprocess.run(["git", "ls-files", "--error-unmatch", str(folder/"experiment.ipynb")], cwd=project_root(), capture_output=True)
    return p.returncode == 0

PUBLISHED = [p for p in PUBLISHED if tracked(p)]

def test_something_is_published(): assert len(PUBLISHED) >= 4

@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda p: p.name)
def test_export_is_what_the_store_writes(folder, tmp_path):
    "Import, export again: the same bytes."
    store = Store()
    id = import_experiment(store, folder)
    export_experiment(store, id, tmp_path/"again")
    for name in ("config.yaml", "result.json", "runs.jsonl"): assert (tmp_path/"again"/name).read_text() == (folder/name).read_text()

@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda p: p.name)
def test_nbval(folder, outputs):
    "nbval executes the published notebook against the imported rows and compares every output."
    store = Store()
    import_experiment(store, folder)
    p = subprocess.run([sys.executable, "-m", "pytest", "-q", "--nbval", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder), str(folder/"experiment.ipynb")],
                       cwd=folder, capture_output=True, text=True)
    assert p.returncode == 0, p.stdout[-3000:]
