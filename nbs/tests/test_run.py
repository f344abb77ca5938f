"The whole spine on the embedded model: papermill, the command, a completed re-run, provenance."

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from executing import command, start_command
from typer.testing import CliRunner

from llmforge.batching import FakeEngine, Fault
from llmforge.card import save_card
from llmforge.cards import make_card
from llmforge.cli import app
from llmforge.comparison import compare
from llmforge.config import load_config
from llmforge.core import ConfigError, engines, metrics
from llmforge.experiment import Experiment, results_table
from llmforge.files import project_root
from llmforge.metrics import contains
from llmforge.notebooks import remove_abandoned
from llmforge.runner import prepare, run_experiment
from llmforge.store import Store
from llmforge.tables import Status

pytestmark = pytest.mark.slow

SMALL = "dataset=meridia dataset.limit=3 method.shots=2 retrieval.top_k=1 engine.batch_size=3"


def call(*args, ok=True):
    p = command(*args, cwd=project_root())
    assert (p.returncode == 0) == ok, p.stdout + p.stderr
    return p


def test_papermill_in_the_users_own_words(tmp_path, outputs):
    "papermill nbs/run_experiment.ipynb OUT -p config rag_hybrid.yaml: COMPLETED, and the page shows it."
    target = tmp_path / "rag_hybrid.ipynb"
    given = ["-p", "config", "rag_hybrid.yaml", "-p", "overrides", SMALL]
    papermill = str(Path(sys.executable).with_name("papermill"))  # started as by a user
    p = subprocess.run(
        [papermill, "nbs/run_experiment.ipynb", str(target), *given],
        cwd=project_root(),
        capture_output=True,
        text=True,
    )
    assert p.returncode == 0, p.stderr
    store = Store()
    (id,) = store.experiments().id
    assert store.experiment(id).status == "COMPLETED"
    rows = store.rows(id)
    assert len(rows) == 3 and all(
        r["tokens_out"] > 0 and r["latency_ms"] > 0 and not r["cached"] for r in rows
    )
    for r in rows:  # asked once more where a line break ended the first reply
        kinds = [s["kind"] for s in r["trace"]["children"]]
        assert kinds in (["retriever", "llm"], ["retriever", "llm", "llm"])
    nb = nbformat.read(target, as_version=4)
    images = [
        o for c in nb.cells if c.cell_type == "code" for o in c.outputs if "image/png" in o.get("data", {})
    ]
    assert len(images) == 3 and id in str(nb.cells)
    about = json.loads((outputs / id / "result.json").read_text())["experiment"]["provenance_json"]
    assert (
        about["engine"]["model"]
        and about["dataset"]["fingerprint"]
        and about["index"]
        and about["packages"]["torch"]
    )


def test_run_show_compare(outputs, kernels):
    "The command: two arms, a re-run that asks nobody, show, list, compare, export and import."
    common = ["-o", "dataset=meridia", "-o", "dataset.limit=3", "-o", "method.shots=2"]
    first = call("llmforge", "run", "naive.yaml", *common)
    assert "warning" not in first.stderr.lower(), "a library's or a kernel's"
    id = re.search(r"^(\S+): COMPLETED", first.stdout, re.M)[1]
    assert (outputs / id / "experiment.ipynb").exists() and {
        "config.yaml",
        "result.json",
        "runs.jsonl",
    } <= set(os.listdir(outputs / id))
    before = (outputs / id / "experiment.ipynb").read_bytes()
    calls = Store().rows(id)
    again = call("llmforge", "run", "naive.yaml", *common)
    assert again.stdout == first.stdout and Store().rows(id) == calls
    assert (outputs / id / "experiment.ipynb").read_bytes() == before, (
        "a re-run writes the same notebook, byte for byte"
    )
    second = call("llmforge", "run", "cot.yaml", "--no-notebook", *common)
    other = re.search(r"^(\S+): COMPLETED", second.stdout, re.M)[1]
    say = lambda *args: CliRunner().invoke(app, args)
    assert id in say("list").stdout
    assert "3 attempted" in say("show", id[:8]).stdout
    assert "exact match" in say("compare", id, other).stdout
    p = call("llmforge", "compare", id, "nonsense", ok=False)
    assert p.returncode == 1 and "nonsense" in p.stderr and "Traceback" not in p.stderr


def test_rerun_asks_no_engine(outputs, monkeypatch):
    "A completed experiment is only read: no engine is made for it."
    from llmforge import runner
    from llmforge.config import load_config

    config = load_config(
        {
            "experiment": {
                "name": "once",
                "engine": "fake",
                "dataset": {"name": "meridia", "limit": 5},
                "method": {"shots": 0},
            }
        }
    )
    id = runner.run_experiment(config, show=False)
    monkeypatch.setattr(runner, "make_engine", lambda config: pytest.fail("an engine was made"))
    assert runner.run_experiment(config, show=False) == id


def test_a_published_record_is_not_overwritten(outputs):
    "outputs/<id>/ may hold somebody's published run: a run of one's own goes beside it."
    from llmforge.config import load_config
    from llmforge.runner import run_experiment

    config = load_config(
        {
            "experiment": {
                "name": "again",
                "engine": "fake",
                "dataset": {"name": "meridia", "limit": 5},
                "method": {"shots": 0},
            }
        }
    )
    id = run_experiment(config, Store(f"sqlite:///{outputs.parent}/theirs.db"), show=False)
    theirs = {p.name: p.read_bytes() for p in (outputs / id).iterdir()}
    for _ in range(2):
        assert run_experiment(config, Store(f"sqlite:///{outputs.parent}/mine.db"), show=False) == id
    assert {p.name: p.read_bytes() for p in (outputs / id).iterdir()} == theirs
    assert (outputs / f"{id}-rerun" / "result.json").exists()


def test_a_notebook_that_fails_says_why(outputs, tmp_path, kernels):
    "The cell's error becomes the command's: one sentence, exit code 1, the half-executed notebook kept."
    (tmp_path / "bad.yaml").write_text(
        "experiment: {name: t, model: no/such-model, dataset: {name: meridia, limit: 3}, method: {shots: 0}}"
    )
    p = call("llmforge", "run", str(tmp_path / "bad.yaml"), ok=False)
    assert p.returncode == 1 and "no/such-model" in p.stderr and "Traceback" not in p.stderr.splitlines()[-1]
    assert set(Store().experiments().status) == {"FAILED"}


# a metric of one's own


def own(name="own", extra=("half_right",), **more):
    return load_config(
        {
            "experiment": {
                "name": name,
                "engine": "fake",
                "dataset": {"name": "meridia", "limit": 12},
                "method": {"shots": 0},
                "metrics": {"extra": list(extra)},
                **more,
            }
        }
    )


def half_right(prediction, answers, style):
    return 0.5 + contains(prediction, answers, style) / 2


def test_an_own_metric_is_stored_compared_and_carries_its_card(outputs, monkeypatch):
    "Failures count as 0; both arms show it; its card goes with the results made after the card."
    monkeypatch.setitem(metrics._entries, "half_right", half_right)
    store = Store()
    a = Experiment(run_experiment(own("a"), store, FakeEngine(" Brennolm"), show=False), store)
    assert a.result[
        "cards"
    ] == {} and "half&#95;right: it has no metric card, so nothing is known of its errors." in results_table(
        a
    )
    save_card(make_card("half_right", "2026-01-02"))
    b = Experiment(
        run_experiment(
            own("b"), store, FakeEngine(" Brennolm", faults=[Fault(r"born\?\nAnswer:$")]), show=False
        ),
        store,
    )
    lost = sum(r["error_type"] is not None for r in b.rows)
    assert 0 < lost < 12 and all(("half_right" in r["scores"]) == (r["error_type"] is None) for r in b.rows)
    e = b.estimate("half_right")
    assert e.n == 12 and e.value == pytest.approx(
        sum(r["scores"]["half_right"] for r in b.rows if not r["error_type"]) / 12
    )
    assert list(b.result["cards"]) == [
        "half_right"
    ] and "half&#95;right &#40;version 1&#41; on 583 labelled cases" in results_table(b)
    lines = [x.split(" | ")[0] for x in results_table(b).splitlines() if x.startswith("|")]
    assert lines.index("| contains") < lines.index("| half right") < lines.index("| latency p50 (ms)")
    found = compare(a, b).contrasts["half_right"]
    assert (
        found.paired.n == 12
        and found.left_out == 0
        and found.failed == (0, lost)
        and found.effect.value < 0
        and found.bounds[1] > found.effect.value
    )
    monkeypatch.delitem(metrics._entries, "half_right")
    again = Experiment(b.id, Store())
    assert (
        again.config.metrics.extra == ("half_right",)
        and compare(a, again).contrasts.keys() == compare(a, b).contrasts.keys()
    ), "what is stored is read without the code"
    assert "cards" not in store.result(run_experiment(own("c", ()), store, FakeEngine(" x"), show=False))


@pytest.mark.parametrize(
    "metric, words",
    [
        (lambda p, a, s: 100, "gave 100 for the prediction"),
        (lambda p, a, s: None, "gave None"),
        (lambda p, a, s: p.split()[0] == a[0], "raised IndexError for the prediction ''"),
        (lambda p: 1.0, "raised TypeError"),
    ],
)
def test_a_metric_that_cannot_work_is_refused_before_anything_runs(outputs, monkeypatch, metric, words):
    monkeypatch.setitem(metrics._entries, "half_right", metric)
    with pytest.raises(ConfigError, match="experiment.metrics.extra: metric 'half_right'") as e:
        run_experiment(own(), show=False)
    assert words in str(e.value) and not (outputs / "llmforge.db").exists()
    monkeypatch.delitem(metrics._entries, "half_right")
    with pytest.raises(
        ConfigError, match="'half_right' is not registered; registered: .*import the module, or run the cell"
    ):
        prepare(own())


def test_a_metric_that_fails_is_the_failure_of_its_question(outputs, monkeypatch):
    """The error names the metric and what it was given; the other questions keep their rows, and a run of
    which some failed is complete."""
    asked = []

    def reply(text, sampling):
        asked.append(text)
        return " Brennolm" if len(asked) < 6 else " Brennolm, or so"

    monkeypatch.setitem(engines._entries, "scripted", lambda config: FakeEngine(reply, batch_size=1))

    def breaks(prediction, answers, style):
        return 1 / ("or so" not in prediction)

    monkeypatch.setitem(metrics._entries, "half_right", breaks)
    config = own(engine={"name": "scripted", "batch_size": 1, "concurrency": 1})
    id, store = run_experiment(config, show=False), Store()
    rows = store.rows(id)
    failed = [r for r in rows if r["error_type"]]
    assert store.experiment(id).status == Status.COMPLETED and 0 < len(failed) < len(rows)
    for r in failed:
        assert "metric 'half_right' raised ZeroDivisionError" in r["error"]
        assert "Brennolm, or so" in r["error"]
    assert all("half_right" in r["scores"] for r in rows if not r["error_type"])


# --- what killed runs leave


def test_notebooks_of_killed_runs_are_removed(tmp_path):
    "Those that no process holds any more, and nothing else."
    gone = [
        f"..{2**22 + 7}-0123abcd.ipynb",
        ".study-89abcdef.ipynb",
        f".{2**22 + 7}.ipynb",
        "..1-00000000.ipynb",
    ]
    kept = [
        "study.ipynb",
        ".study.ipynb",
        f".{os.getpid()}.ipynb",
        ".x-0123abcd.yaml",
        ".study-nothex!!.ipynb",
    ]
    for name in [*gone, *kept, "..5-ffffffff.ipynb"]:
        (tmp_path / name).write_text("{}")
    holder = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print(1, flush=True); input()"
    p = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / "..5-ffffffff.ipynb")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    p.stdout.readline()
    remove_abandoned(tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {*kept, "..5-ffffffff.ipynb"}
    p.kill()
    p.wait()
    remove_abandoned(tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == set(kept)


@pytest.mark.slow
def test_a_killed_notebook_is_removed_by_the_next_run(tmp_path, outputs, kernels):
    "A real run, killed while its kernel starts; and a second one that lives, which stays untouched."
    config = tmp_path / "x.yaml"
    config.write_text(
        "experiment: {name: x, engine: fake, dataset: {name: meridia, limit: 2}, method: {shots: 0}}"
    )
    p = start_command("llmforge", "run", str(config))
    deadline = time.monotonic() + 60
    while not (halves := list(outputs.glob("..*.ipynb"))) and time.monotonic() < deadline:
        time.sleep(0.01)
    remove_abandoned(outputs)
    assert halves and list(outputs.glob("..*.ipynb"))  # it may have written it again meanwhile
    p.kill()
    p.wait()
    call("llmforge", "run", str(config))
    assert not list(outputs.glob(".*.ipynb"))
