"The whole spine on the embedded model: papermill, the command, a completed re-run, provenance."
import json, os, re, subprocess, sys, time
from pathlib import Path
import nbformat
import pytest
from llmforge.core import project_root
from llmforge.store import Store

BIN = Path(sys.executable).parent
SMALL = "dataset=meridia dataset.limit=6 method.shots=2 retrieval.top_k=1 engine.batch_size=3"

def call(*args, ok=True):
    p = subprocess.run([str(BIN/args[0]), *args[1:]], cwd=project_root(), capture_output=True, text=True)
    assert (p.returncode == 0) == ok, p.stdout + p.stderr
    return p

def test_papermill_in_the_users_own_words(tmp_path, outputs):
    "papermill nbs/run_experiment.ipynb OUT -p config rag_hybrid.yaml: COMPLETED, and the page shows it."
    target = tmp_path/"rag_hybrid.ipynb"
    call("papermill", "nbs/run_experiment.ipynb", str(target), "-p", "config", "rag_hybrid.yaml", "-p", "overrides", SMALL)
    store = Store()
    (id,) = store.experiments().id
    assert store.experiment(id).status == "COMPLETED"
    rows = store.rows(id)
    assert len(rows) == 6 and all(r["tokens_out"] > 0 and r["latency_ms"] > 0 and not r["cached"] for r in rows)
    assert all([s["kind"] for s in r["trace"]["children"]] == ["retriever", "llm"] for r in rows)
    nb = nbformat.read(target, as_version=4)
    images = [o for c in nb.cells if c.cell_type == "code" for o in c.outputs if "image/png" in o.get("data", {})]
    assert len(images) == 3 and id in str(nb.cells)
    about = json.loads((outputs/id/"result.json").read_text())["experiment"]["provenance_json"]
    assert about["engine"]["model"] and about["dataset"]["fingerprint"] and about["index"] and about["packages"]["torch"]

def test_run_show_compare(outputs):
    "The command: two arms, a re-run that asks nobody, show, list, compare, export and import."
    common = ["-o", "dataset=meridia", "-o", "dataset.limit=6", "-o", "method.shots=2"]
    first = call("llmforge", "run", "naive.yaml", *common)
    id = re.match(r"(\S+): COMPLETED", first.stdout)[1]
    assert (outputs/id/"experiment.ipynb").exists() and {"config.yaml", "result.json", "runs.jsonl"} <= set(os.listdir(outputs/id))
    before = (outputs/id/"experiment.ipynb").read_bytes()
    calls = Store().rows(id)
    again = call("llmforge", "run", "naive.yaml", *common)
    assert again.stdout == first.stdout and Store().rows(id) == calls
    assert (outputs/id/"experiment.ipynb").read_bytes() == before, "a re-run writes the same notebook, byte for byte"
    other = re.match(r"(\S+): COMPLETED", call("llmforge", "run", "cot.yaml", "--no-notebook", *common).stdout)[1]
    assert id in call("llmforge", "list").stdout
    assert "6 attempted" in call("llmforge", "show", id[:8]).stdout
    assert "exact match" in call("llmforge", "compare", id, other).stdout
    p = call("llmforge", "compare", id, "nonsense", ok=False)
    assert p.returncode == 1 and "nonsense" in p.stderr and "Traceback" not in p.stderr

def test_rerun_asks_no_engine(outputs, monkeypatch):
    "A completed experiment is only read: no engine is made for it."
    from llmforge import runner
    from llmforge.config import load_config
    from llmforge.engine import FakeEngine
    config = load_config({"experiment": {"name": "once", "engine": "fake", "dataset": {"name": "meridia", "limit": 5}, "method": {"shots": 0}}})
    id = runner.run_experiment(config, show=False)
    monkeypatch.setattr(runner, "make_engine", lambda config: pytest.fail("an engine was made"))
    assert runner.run_experiment(config, show=False) == id

def test_a_published_record_is_not_overwritten(outputs):
    "outputs/<id>/ may hold somebody's published run: a run of one's own goes beside it."
    from llmforge.config import load_config
    from llmforge.runner import run_experiment
    config = load_config({"experiment": {"name": "again", "engine": "fake", "dataset": {"name": "meridia", "limit": 5}, "method": {"shots": 0}}})
    id = run_experiment(config, Store(f"sqlite:///{outputs.parent}/theirs.db"), show=False)
    theirs = {p.name: p.read_bytes() for p in (outputs/id).iterdir()}
    for _ in range(2): assert run_experiment(config, Store(f"sqlite:///{outputs.parent}/mine.db"), show=False) == id
    assert {p.name: p.read_bytes() for p in (outputs/id).iterdir()} == theirs
    assert (outputs/f"{id}-rerun"/"result.json").exists()

def test_a_notebook_that_fails_says_why(outputs, tmp_path):
    "The cell's error becomes the command's: one sentence, exit code 1, the half-executed notebook kept."
    (tmp_path/"bad.yaml").write_text("experiment: {name: t, model: no/such-model, dataset: {name: meridia, limit: 3}, method: {shots: 0}}")
    p = call("llmforge", "run", str(tmp_path/"bad.yaml"), ok=False)
    assert p.returncode == 1 and "no/such-model" in p.stderr and "Traceback" not in p.stderr.splitlines()[-1]
    assert set(Store().experiments().status) == {"FAILED"}
