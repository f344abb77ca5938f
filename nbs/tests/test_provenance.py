"""What a result was made with: the content of local files in its id, what is stale, rows of several codes."""

import html
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmforge import contents
from llmforge.batching import FakeEngine
from llmforge.cli import app
from llmforge.config import load_config
from llmforge.contents import changed_since, changed_text, file_digest, local_contents
from llmforge.core import EngineFatal, StoreError
from llmforge.experiment import Experiment, results_table, state_line
from llmforge.exports import export_experiment, import_experiment
from llmforge.findingpages import told_of_arms
from llmforge.listing import is_stale
from llmforge.provenance import mixed_line, rows_by_code
from llmforge.results import provenance_table
from llmforge.runner import prepare, run_experiment
from llmforge.shapes import provenance_fault
from llmforge.store import Store
from llmforge.study import run_study, study_folder
from llmforge.studyconfig import load_study
from llmforge.tables import READABLE
from llmforge.verification import verify_study

TESTS = Path(__file__).parent
QUESTIONS = [{"id": f"q{i}", "question": f"Capital {i}?", "answers": ["Lima"]} for i in range(12)]


@pytest.fixture
def home(tmp_path, monkeypatch):
    "A project of somebody's own, with weights, questions and documents in it, and a cache of its own."
    folder = tmp_path / "home"
    (folder / "configs").mkdir(parents=True)
    for name in ("tuned", "docs"):
        (folder / name).mkdir()
    (folder / "tuned" / "model.safetensors").write_bytes(bytes(1000))
    (folder / "tuned" / "config.json").write_text("{}")
    (folder / "docs" / "peru.txt").write_text("Lima is the capital of Peru.")
    (folder / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
    (folder / "own.py").write_text("x = 1")
    monkeypatch.setenv("LLMFORGE_HOME", str(folder))
    monkeypatch.setenv("LLMFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(folder)
    return folder


def config(**more):
    about = {"name": "mine", "model": "tuned", "dataset": "questions.jsonl", "method": {"shots": 0}}
    return load_config({"experiment": {**about, "plugins": ["own.py"], "engine": {"cache": False}, **more}})


def run(c=None, show=False):
    return run_experiment(c or config(), Store(), FakeEngine(lambda *_: " Lima"), show=show)


def command(*args):
    r = CliRunner().invoke(app, list(args))
    return html.unescape(" ".join((r.stdout + r.stderr).split()))


def one_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


CHANGES = {
    "one byte of the weights": ("model.name", lambda home: one_byte(home / "tuned" / "model.safetensors")),
    "code of one's own": ("plugins.own.py", lambda home: (home / "own.py").write_text("x = 2")),
    "an answer in the data file": (
        "dataset.name",
        lambda home: (home / "questions.jsonl").write_text(
            (home / "questions.jsonl").read_text().replace("Lima", "Cusco", 1)
        ),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("field, change", CHANGES.values(), ids=CHANGES)
def test_what_changed_since_is_another_experiment_and_stale(home, capsys, field, change):
    "Said by run, show, list and the tables of the page; gone when the former content is back."
    before = shutil.copytree(home, home.parent / "before")
    first = run()
    assert not Experiment(first, Store()).stale and "stale" not in command("list")
    change(home)
    second = run(show=True)
    assert second != first
    e = Experiment(first, Store())
    what = changed_text(e.config, field)
    assert f"{what} changed since {first}" in capsys.readouterr().err
    assert e.stale == (field,) and f"**Stale**: {what}" in html.unescape(results_table(e))
    assert not Experiment(second, Store()).stale
    assert f"**Stale**: {what} changed since" in command("show", first) and "Stale" not in command(
        "show", second
    )
    listed = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)
    assert {r["id"]: r["stale"] for r in listed} == {first: True, second: False}
    assert "COMPLETED, stale" in command("list") and "`llmforge show ID` says which" in command("list")
    shutil.copytree(before, home, dirs_exist_ok=True)
    assert not Experiment(first, Store()).stale and run() == first


HARMLESS = {
    "touched": lambda home: os.utime(home / "questions.jsonl", (1, 1)),
    "a blank line": lambda home: (home / "questions.jsonl").open("a").write("\n"),
    "a note beside the weights": lambda home: (home / "tuned" / "README.md").write_text("mine"),
    "what is no longer here": lambda home: shutil.rmtree(home / "tuned"),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_what_changes_no_answer_is_not_stale(home, change):
    id = run()
    change(home)
    assert not Experiment(id, Store()).stale and "stale" not in command("list")


def test_every_local_content_is_in_an_id(home):
    "Documents, exemplars, adapter, reranker and judge; by content, and not of what is not used."
    shutil.copytree(home / "tuned", home / "adapter")
    settings = {"r": 8, "base_model_name_or_path": "tuned", "loftq_config": {}}
    (home / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    two = {f"q_proj.lora_{x}.weight": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]} for x in "AB"}
    header = json.dumps(two).encode()
    whole = len(header).to_bytes(8, "little") + header + b"a"
    (home / "adapter" / "adapter_model.safetensors").write_bytes(whole)
    shutil.copyfile(home / "questions.jsonl", home / "shown.jsonl")
    shutil.copytree(home / "tuned", home / "judge")
    shutil.copytree(home / "tuned", home / "order")
    c = config(
        dataset={"name": "questions.jsonl", "exemplars": "shown.jsonl"},
        corpus="docs/",
        retrieval={"name": "reranked", "reranker": "order"},
        metrics={"judge": "judge"},
        alignment={"name": "adapter", "adapter": "adapter"},
    )
    files = {
        "dataset.name": "questions.jsonl",
        "dataset.exemplars": "shown.jsonl",
        "corpus.name": "docs/peru.txt",
        "plugins.own.py": "own.py",
        "model.name": "tuned/config.json",
        "alignment.adapter": "adapter/adapter_config.json",
        "retrieval.reranker": "order/config.json",
        "metrics.judge": "judge/config.json",
    }
    then, ids = local_contents(c), [prepare(c).id]
    assert then.keys() == files.keys()
    for field, name in files.items():
        text = (home / name).read_text()
        (home / name).write_text(
            text.replace("Lima", "Cusco", 1).replace("{}", "{ }") + "\n" * (len(text) < 9)
        )
        assert {f for f, content in local_contents(c).items() if then[f] != content} == {field}
        if field != "dataset.exemplars":  # these are all asked already: none of them is ever shown
            ids.append(prepare(c).id)
        (home / name).write_text(text)
    assert len(set(ids)) == len(ids) and prepare(c).id == ids[0]
    unused = config(retrieval={"name": "none"}, metrics={"judge": "judge"}, engine={"name": "fake"})
    assert local_contents(unused).keys() == {"dataset.name", "plugins.own.py"}


def test_a_published_experiment_names_nothing_here():
    "So no content came into its id; see test_ids."
    assert not local_contents(load_config("naive.yaml")) and not local_contents(
        load_config("rag_hybrid.yaml")
    )


def test_a_large_file_is_read_once_until_it_changes(home, monkeypatch):
    "Nothing is taken from memory that was changed a moment ago."
    path = home / "large.safetensors"
    with path.open("wb") as f:
        f.truncate(contents.REMEMBERED)
    digest = file_digest(path)
    assert not list((home.parent / "cache").rglob("*.json"))  # too new to be remembered
    monkeypatch.setattr(contents, "_SETTLED", 0)
    assert file_digest(path) == digest
    (kept,) = (home.parent / "cache" / "contents").glob("*.json")
    known = json.loads(kept.read_text())
    kept.write_text(json.dumps(known | {"sha256": "from memory"}))
    assert file_digest(path) == "from memory"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    with path.open("r+b") as f:
        f.write(b"x")
    os.utime(path, ns=times)  # as a copy with the old times has it
    assert file_digest(path) not in ("from memory", digest)
    kept.write_text("{")
    assert file_digest(path) not in ("from memory", digest)


# --- rows of different code


def committed(home, text):
    "Change the project's code and commit it; its name."
    (home / "configs" / "code.txt").write_text(text)
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for args in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", text]):
        subprocess.run(["git", *args], cwd=home, check=True)
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=home, capture_output=True, text=True)
    return done.stdout.strip()[:12]


def breaking_after(n):
    "An engine that ends the run when it has answered some questions; the next run goes on."
    asked = []

    def reply(*_):
        asked.append(1)
        if len(asked) > n:
            raise EngineFatal("no more")
        return " Lima"

    return FakeEngine(reply)


@pytest.fixture
def mixed(home):
    "An experiment that was begun by one commit and ended by another; its id and the two."
    one = committed(home, "one")
    c = config(engine={"cache": False, "concurrency": 1})
    with pytest.raises(EngineFatal):
        run_experiment(c, Store(), breaking_after(4), show=False)
    two = committed(home, "two")
    return run(c), one, two


@pytest.mark.slow
def test_rows_of_two_commits_are_said(mixed, home):
    id, one, two = mixed
    e = Experiment(id, Store())
    assert rows_by_code(e.record, e.rows) == {f"commit {two}": 8, f"commit {one}": 4}
    assert [row["attempt"] for row in e.rows].count(1) == 4
    assert f"**Rows of different code**: 8 by commit {two}, 4 by commit {one}." in results_table(e)
    assert f"commit {two}: 8 rows, commit {one}: 4 rows" in provenance_table(e)
    assert f"**Rows of different code**: 8 by commit {two}, 4 by commit {one}." in command("show", id)


@pytest.mark.slow
def test_it_travels(mixed, tmp_path):
    id, one, two = mixed
    export_experiment(Store(), id, tmp_path / id)
    lines = [json.loads(line) for line in (tmp_path / id / "runs.jsonl").read_text().splitlines()]
    assert sorted(row["attempt"] for row in lines) == [1] * 4 + [2] * 8
    elsewhere = Store("sqlite://")
    e = Experiment(import_experiment(elsewhere, tmp_path / id), elsewhere)
    assert rows_by_code(e.record, e.rows) == {f"commit {two}": 8, f"commit {one}": 4}
    export_experiment(elsewhere, id, tmp_path / "again")
    for name in ("runs.jsonl", "result.json", "config.yaml"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / id / name).read_bytes()


def test_uncommitted_code_is_told_apart_by_its_content():
    facts = {"commit": "ab" * 20, "uncommitted_changes": True, "packages": {}}
    attempts = [{"attempt": n, "modules": content, **facts} for n, content in ((1, "1" * 16), (2, "2" * 16))]
    record = type("Record", (), {"provenance_json": {"attempts": attempts}})
    named = "commit abababababab with uncommitted changes (modules"
    assert rows_by_code(record, [{"attempt": 1}, {"attempt": 2}, {"attempt": 2}]) == {
        f"{named} 22222222)": 2,
        f"{named} 11111111)": 1,
    }
    assert rows_by_code(record, [{"attempt": 1}]) == {"commit abababababab with uncommitted changes": 1}


def test_one_attempt_says_nothing_of_it(home):
    id = run()
    e = Experiment(id, Store())
    assert len(rows_by_code(e.record, e.rows)) == 1 and "Rows of different" not in results_table(e)


def test_a_stopped_run_whose_file_changed_says_that_it_would_be_another(home):
    with pytest.raises(EngineFatal):
        run_experiment(config(), Store(), breaking_after(0), show=False)
    id = Store().listing()[0]["id"]
    assert "run it again: it goes on from there" in (line := state_line(Experiment(id, Store())))
    assert "changed since" not in line
    one_byte(home / "tuned" / "model.safetensors")
    line = state_line(Experiment(id, Store()))
    assert "model.name (tuned) changed since: run now, its config makes another experiment" in line


@pytest.mark.slow
def test_a_study_s_page_and_check_name_the_stale_arm(home):
    about = config().model_dump(mode="json")
    base = {name: about[name] for name in ("model", "dataset", "method", "plugins")}
    shutil.copytree(home / "tuned", home / "other")
    arms = {"a": {}, "b": {"model": "other"}}
    study = {"name": "two", "question": "Which?", "base": base, "datasets": {"mine": {}}, "arms": arms}
    done = run_study(load_study({"study": study}), Store(), lambda _: FakeEngine(" Lima"), show=False)
    assert told_of_arms(done) == ""
    one_byte(home / "other" / "model.safetensors")
    [line] = told_of_arms(done).splitlines()
    id = done.ids["b", "mine", 0]
    assert (
        f">{id}<" in line
        and "**Stale**: model.name" in line
        and "(other) changed since" in html.unescape(line)
    )
    checks = {check.what: check for check in verify_study(study_folder(done))}
    assert checks["ids"].ok and checks["files"].ok is None
    assert checks["files"].text == f"{id}: model.name (other) changed since"


@pytest.mark.parametrize("schema", sorted(READABLE)[:3])
def test_exports_from_before_say_nothing_of_it(schema):
    store = Store("sqlite://")
    record = store.experiment(import_experiment(store, TESTS / "exports" / f"schema-{schema}"))
    assert mixed_line(record, store.rows(record.id)) == "" and not is_stale(store.listing()[0])


def test_a_data_file_of_before_is_held_against_the_questions(home):
    "An experiment that noted no contents, as those before 2026-11-29."
    id = run()
    e = Experiment(id, Store())
    old = e.config, {}, e.record.dataset_fingerprint
    assert changed_since(*old) == ()
    CHANGES["an answer in the data file"][1](home)
    assert changed_since(*old) == ("dataset.name",)


STRANGE = [
    [],
    "x",
    {"contents": 1},
    {"contents": {"a": {}}},
    {"attempts": {}},
    {"attempts": [{}]},
    {"engine": 3},
]
STRANGE += [{"attempts": [{"attempt": 1, "packages": []}]}]


def test_a_strangers_provenance(home, tmp_path):
    assert all(map(provenance_fault, STRANGE)) and provenance_fault(None) is None
    id = run()
    folder = export_experiment(Store(), id, tmp_path / id)
    head = json.loads((folder / "result.json").read_text())
    assert provenance_fault(head["experiment"]["provenance_json"]) is None
    head["experiment"]["provenance_json"] = STRANGE[0]
    (folder / "result.json").write_text(json.dumps(head))
    with pytest.raises(StoreError, match="cannot be imported: provenance_json"):
        import_experiment(Store("sqlite://"), folder)
