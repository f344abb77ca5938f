"The command as its users and their scripts meet it: forms of output, ids, marks, gates, imports."

import csv
import io
import json
import re
import signal
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from executing import command
from typer.testing import CliRunner

from llmforge.cli import app
from llmforge.files import project_root
from llmforge.jobs import request_run
from llmforge.marks import marks_of
from llmforge.results import _newest
from llmforge.store import Store
from llmforge.tables import RESULTS, RUNS
from llmforge.tabular import as_boxes
from llmforge.text import table

ROOT = project_root()
NONE, NAIVE, HYBRID = (
    f"retrieval-{name}"
    for name in ("none-almanac-5857a546", "naive-almanac-6e34c61e", "hybrid-almanac-4f4c2810")
)


def call(*args, code=0, input=None):
    r = CliRunner().invoke(app, list(map(str, args)), input=input)
    assert r.exit_code == code, (r.output, r.exception)
    return r


@pytest.fixture
def three(outputs):
    call("import", *(ROOT / "outputs" / id for id in (NONE, NAIVE, HYBRID)))


@pytest.mark.slow
def test_list_has_three_forms(three):
    "The same experiments, newest first, whichever form is asked for."
    shown = call("list").stdout
    records = json.loads(call("list", "--json").stdout)
    rows = list(csv.DictReader(io.StringIO(call("list", "--csv").stdout)))
    assert [r["id"] for r in records] == [r["id"] for r in rows] == [HYBRID, NAIVE, NONE]
    assert all(r["id"] in shown for r in records)
    assert records[1]["accuracy"] == 0.4 == float(rows[1]["accuracy"]) and records[1]["dataset"] == "almanac"
    assert "choose one" in call("list", "--csv", "--json", code=2).stderr


@pytest.mark.slow
def test_show_has_three_forms(three):
    record = json.loads(call("show", NAIVE, "--json").stdout)[0]
    assert record["result"]["accuracy"]["value"] == 0.4 and record["config"]["retrieval"]["name"] == "dense"
    rows = list(csv.DictReader(io.StringIO(call("show", NAIVE, "--csv").stdout)))
    assert rows[0]["metric"] == "accuracy" and float(rows[0]["value"]) == 0.4 and rows[0]["n"] == "100"


@pytest.mark.slow
def test_a_trace_as_json(three):
    record = json.loads(call("trace", NAIVE, "0", "--json").stdout)[0]
    assert {"retriever", "llm"} <= {child["kind"] for child in record["children"]}


def test_what_is_requested_in_three_forms():
    request_run(Store(), Store().create_experiment("asked-1f0c", "asked", {}))
    rows = list(csv.DictReader(io.StringIO(call("jobs", "--csv").stdout)))
    record = json.loads(call("jobs", "--json").stdout)[0]
    assert rows == [{key: value or "" for key, value in record.items()}] and record["status"] == "waits"
    assert "asked-1f0c | waits" in call("jobs").stdout


@pytest.mark.slow
def test_compare_has_three_forms(three):
    record = json.loads(call("compare", NONE, NAIVE, "--json").stdout)[0]
    assert (record["value_a"], record["value_b"], record["n"]) == (0.1, 0.4, 100)
    assert round(record["difference"], 3) == 0.3 and "+0.300" in call("compare", NONE, NAIVE).stdout
    rows = list(csv.DictReader(io.StringIO(call("compare", NONE, NAIVE, HYBRID, "--csv").stdout)))
    assert {r["b"] for r in rows} == {NAIVE, HYBRID} and {r["a"] for r in rows} == {NONE}


@pytest.mark.slow
def test_compare_of_several(three):
    "A table for each, and at the end all of them with p values adjusted for their number."
    shown = call("compare", NONE, NAIVE, HYBRID).stdout
    assert shown.count("question by question") == 2
    last = shown.split("p by Holm's method")[1]
    assert NAIVE in last and HYBRID in last and "3.9e-07" in last  # twice 1.9e-07
    assert "Holm" not in call("compare", NONE, NAIVE).stdout


@pytest.mark.slow
def test_a_program_that_reads_no_further_is_no_error(three):
    code = f"from llmforge.cli import main; import sys; sys.argv[1:] = ['show', {NAIVE!r}]; main()"
    p = subprocess.run(f'{sys.executable} -c "{code}" | head -1', shell=True, capture_output=True, text=True)
    assert p.returncode == 0 and NAIVE in p.stdout and p.stderr == ""


def test_a_beginning_of_many_ids_lists_them_once(three):
    "And of many that are known only the newest."
    text = call("show", "r", code=1).stderr
    assert text.count(NAIVE) == 1 and text.endswith("say which\n") and "known" not in text
    known = _newest([str(i) for i in range(12)])
    assert known == "11, 10, 9, 8, 7, 6, 5, 4, 3, 2 and 2 older ones (llmforge list)"


def test_latest_is_the_newest(three):
    assert call("show", "latest").stdout.startswith(f"**{HYBRID}")
    assert "experiments begin with 'latst'" in call("show", "latst", code=1).stderr
    assert (
        "experiments begin with 'latest'"
        in CliRunner(env={"LLMFORGE_STORE": "sqlite:///:memory:"}).invoke(app, ["show", "latest"]).stderr
    )


@pytest.mark.slow
def test_marks(three):
    "They are shown and taken away, change no result, and the archive is listed on request."
    before = call("show", NAIVE, "--csv").stdout
    call("tag", NAIVE, "paper", "v1.2")
    call("note", NAIVE, "the one in table 2")
    call("archive", NONE)
    assert "tags: paper, v1.2; the one in table 2" in call("show", NAIVE).stdout
    listed = call("list").stdout
    assert "paper, v1.2" in listed and NONE not in listed and "1 archived, not listed" in listed
    assert NONE in call("list", "--all").stdout and NONE not in call("list", "--json").stdout
    assert json.loads(call("list", "--json").stdout)[1]["tags"] == ["paper", "v1.2"]
    call("tag", NAIVE, "-paper", "--", "-v1.2")
    call("note", NAIVE, "")
    call("archive", NONE, "--undo")
    assert "no marks" in call("tag", NAIVE, "-gone").stdout and "archived" not in call("list").stdout
    assert call("show", NAIVE, "--csv").stdout == before
    assert "is no tag; allowed" in call("tag", NAIVE, "two words", code=2).stderr
    assert "allowed: 2,000" in call("note", NAIVE, "x" * 3000, code=2).stderr


@pytest.mark.slow
def test_delete(three):
    "It asks, says what rests on the experiment, and leaves nothing of it but the export."
    call("import", ROOT / "outputs" / "study-retrieval")
    call("tag", NAIVE, "x")
    assert "--yes deletes without asking" in call("delete", NAIVE, code=2).stderr
    assert f"{NAIVE}: deleted, 100 rows" in call("delete", NAIVE, "-y").stdout
    store = Store()
    with store.transaction() as c:
        for t in (RUNS, RESULTS):
            assert NAIVE not in set(c.scalars(t.select().with_only_columns(t.c.experiment_id)))
    assert NAIVE not in call("list", "--all").stdout and NAIVE not in marks_of(store)
    assert "no experiments begin with" in call("delete", NAIVE, "-y", code=1).stderr
    call("import", ROOT / "outputs" / NAIVE)
    assert NAIVE in call("list").stdout


def test_delete_says_which_studies_rest_on_it(three):
    from llmforge.marks import deletion_question

    call("import", ROOT / "outputs" / "study-retrieval")
    asked = deletion_question(Store(), NAIVE)
    assert (
        asked
        == f"Delete {NAIVE} with its 100 rows? Studies that rest on it: retrieval; they will lack an arm."
    )


def test_what_runs_is_not_deleted(three):
    store = Store()
    store.create_experiment("busy-1", "busy", {})
    store.claim("busy-1")
    assert "stop it first" in call("delete", "busy-1", "-y", code=3).stderr
    assert store.experiment("busy-1").status == "RUNNING"


def test_show_says_what_to_do_about_what_did_not_end(outputs):
    "A run that broke, and one whose process is gone."
    store = Store()
    id = store.create_experiment("broken-1", "broken", {})
    store.fail(store.claim(id), "prepare context: no space left")
    store.create_experiment("gone-1", "gone", {})
    store.claim("gone-1", ttl=0.0)
    assert "no space left" in (said := call("show", "broken").stdout) and "run it again" in said
    assert "was stopped" in (said := call("show", "gone").stdout) and "goes on from there" in said
    assert json.loads(call("show", "gone", "--json").stdout)[0]["result"] is None
    assert "only a completed experiment has results" in call("show", "gone", "--csv", code=1).stderr


@pytest.mark.slow
def test_gates_of_compare(three, tmp_path):
    "Worse is what the interval says; the report has a case for each treatment."
    call("compare", NONE, NAIVE, HYBRID, "--fail-if-worse")
    report = tmp_path / "report.xml"
    r = call("compare", NAIVE, NONE, HYBRID, "--fail-if-worse", "--junit", report, code=4)
    assert f"NOT PASSED: {NONE} is not worse" in r.stdout and f"passed: {HYBRID}" in r.stdout
    suite = ElementTree.parse(report).getroot()
    assert suite.attrib == {"name": "llmforge", "tests": "2", "failures": "1"}
    assert [len(case.findall("failure")) for case in suite] == [1, 0]
    r = call("compare", NAIVE, NONE, "--fail-if-worse", "--json", code=4)
    assert json.loads(r.stdout) and "NOT PASSED" in r.stderr


@pytest.mark.slow
def test_what_is_published_is_imported_at_once(tmp_path, outputs):
    "A folder of exports, and what a shell makes of outputs/*; what is none of them is passed over."
    published = tmp_path / "published"
    published.mkdir()
    for name in (NONE, NAIVE, "study-retrieval", "cards"):
        (published / name).symlink_to(ROOT / "outputs" / name)
    assert call("import", published).stdout.splitlines() == [NAIVE, NONE, "plan of retrieval"]
    assert call("import", *sorted(published.iterdir())).stdout.splitlines() == [
        NAIVE,
        NONE,
        "plan of retrieval",
    ]
    assert "nothing to import there" in call("import", published / "cards", code=2).stderr


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 300])
def test_boxes_keep_to_the_terminal(width):
    "No line is wider, an id is whole where it takes no more than half, and what is missing is named."
    rows = [("retrieval-none-almanac-5857a546", "COMPLETED", "almanac", "0.100 [0.050, 0.163]", "ü" * 50)]
    shown = as_boxes(table(["id", "status", "data set", "accuracy", "answer"], rows), width)
    box, _, note = shown.partition("\nleft out: ")
    assert all(len(line) <= width for line in box.splitlines())
    for heading in ("status", "data set", "accuracy", "answer"):
        assert (heading in note) or all(word in box for word in heading.split()) or width < 40
    if width >= 80:
        assert "retrieval-none-almanac-5857a546" in box


@pytest.mark.slow
def test_run_ends_with_the_scores_and_holds_its_gates(outputs, tmp_path):
    "Said at once: what is loaded. Said last: the scores, where they lie, and the demands."
    few = ["-o", "dataset.limit=2", "-o", "method.shots=0", "--no-notebook"]
    report = tmp_path / "report.xml"
    p = command(
        "llmforge",
        "run",
        "naive.yaml",
        *few,
        "--min",
        "accuracy=0.0",
        "--min",
        "f1=1",
        "--junit",
        str(report),
        cwd=ROOT,
    )
    assert p.returncode == 4, p.stderr
    assert re.match(r"naive-[0-9a-f]{8}: loading smollm2-135m-instruct on local\n", p.stderr)
    assert "| accuracy (exact match) |" in p.stdout and ": COMPLETED, see " in p.stdout
    assert "passed: naive: accuracy of at least 0 (" in p.stdout and "NOT PASSED: naive: f1 of at" in p.stdout
    assert ElementTree.parse(report).getroot().attrib["failures"] == "1"


def test_a_report_has_its_place_before_anything_runs(outputs, tmp_path):
    run = ("run", "naive.yaml", "-o", "engine=fake", "-o", "dataset.limit=2", "--no-notebook", "--junit")
    assert "is a folder; name a file in it" in call(*run, str(tmp_path), code=2).stderr
    (tmp_path / "file").write_text("")
    said = call(*run, str(tmp_path / "file" / "report.xml"), code=2).stderr
    assert "cannot be made" in said and "name another file" in said
    assert "No experiments yet." in call("list").stdout
    call(*run, str(tmp_path / "new" / "report.xml"))
    assert (tmp_path / "new" / "report.xml").exists()


@pytest.mark.parametrize(
    "minimum, said",
    [
        ("accuracy>0.4", "allowed: METRIC=NUMBER"),
        ("accuracy = much", "allowed: METRIC=NUMBER"),
        ("acuracy=0", "unknown metric 'acuracy'; allowed: accuracy, "),
        ("recall@5=0.5", "recall@5 needs retrieval; retrieval.name is none"),
        ("pass@5=0.5", "unknown metric 'pass@5'"),
        ("accuracy=40", "never more than 1; received 40, and 40% are written 0.4"),
        ("latency=100", "a run has no aggregate of that name; allowed: accuracy, exact_match, "),
    ],
)
def test_a_wrong_minimum_is_said_before_anything_runs(minimum, said, outputs):
    assert said in call("run", "naive.yaml", "--min", minimum, code=2).stderr
    assert "No experiments yet." in call("list").stdout


def test_help_and_completion_are_where_people_look():
    for args in (["-h"], ["run", "-h"]):
        assert "--help" in call(*args).stdout
    assert {"--install-completion", "--show-completion"} <= set(re.findall(r"--[\w-]+", call("-h").stdout))


def test_one_is_called_one(tmp_path, outputs):
    h = "{id: H1, claim: c, treatment: b, control: a}"
    head = "study: {name: s, question: q, base: {name: x}, arms: {a: {}, b: {method: cot}}, hypotheses: "
    for claims, said in ((f"[{h}]", "1 hypothesis)"), ("[]", "0 hypotheses)")):
        (tmp_path / "s.yaml").write_text(f"{head}{claims}}}\n")
        assert said in call("validate", tmp_path / "s.yaml").stdout


def test_a_worker_says_that_redis_does_not_answer(outputs, monkeypatch):
    "Also where nothing waits: it was a traceback."
    pytest.importorskip("rq")
    monkeypatch.setenv("LLMFORGE_REDIS", "redis://127.0.0.1:1/0")
    former = signal.getsignal(signal.SIGTERM)
    try:
        shown = call("worker", code=1).stderr
    finally:
        signal.signal(signal.SIGTERM, former)
    assert "the Redis that LLMFORGE_REDIS names does not answer" in shown and "Traceback" not in shown
