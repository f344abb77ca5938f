"Files from outside, of any shape: read, or refused in a sentence; never a traceback, never a file elsewhere."

import copy
import gzip
import hashlib
import json
import os
import random
import re
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from llmforge.cli import app
from llmforge.core import DataError, LlmForgeError, StoreError, fingerprint
from llmforge.experiment import Experiment
from llmforge.exports import export_experiment, import_experiment, import_plan, record_folder
from llmforge.files import project_root
from llmforge.logs import import_lm_eval
from llmforge.plan import plan_table, stored_study
from llmforge.published import published
from llmforge.results import provenance_table
from llmforge.rows import file_text
from llmforge.shapes import bounded, column_faults, provenance_fault
from llmforge.store import Store
from llmforge.tables import RESULTS
from llmforge.trace import from_dict, render, render_html

OUTPUTS = project_root() / "outputs"
REACT, STUDY = "react-04be8240", "study-reasoning"
WRONG = [
    None,
    "",
    "x",
    0,
    -1,
    1.5,
    True,
    10**30,
    float("nan"),
    [],
    {},
    [[]],
    {"x": []},
    "\ud800",
    "../../x",
    [7] * 3,
]


def places(value, path=()):
    "Every place in a JSON value."
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from places(part, (*path, key))


def damaged(value, rng):
    "A copy with one part replaced by something else, or left out."
    copied = copy.deepcopy(value)
    path = rng.choice(list(places(copied)))
    if not path:
        return rng.choice(WRONG)
    at = copied
    for key in path[:-1]:
        at = at[key]
    if rng.random() < 0.25:
        del at[path[-1]]
    else:
        at[path[-1]] = rng.choice(WRONG)
    return copied


@pytest.fixture(scope="module")
def rows():
    lines = (OUTPUTS / REACT / "runs.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[:2]]


def head_of_two():
    "What result.json says, of two rows."
    head = json.loads((OUTPUTS / REACT / "result.json").read_text())
    head["experiment"]["provenance_json"]["dataset"]["examples"] = 2
    return head


def write(folder, head, rows):
    "An export whose hashes and counts fit, whatever is in it."
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if isinstance(head, dict):
        head = head | {"runs_sha256": hashlib.sha256(lines.encode()).hexdigest()}
        if isinstance(head.get("result"), dict):
            head["result"] = head["result"] | {"n": len(rows)}
    folder.mkdir(exist_ok=True)
    (folder / "runs.jsonl").write_text(lines)
    (folder / "result.json").write_text(json.dumps(head))
    shutil.copyfile(OUTPUTS / REACT / "config.yaml", folder / "config.yaml")


@pytest.mark.slow
def test_rows_and_traces_of_any_shape(tmp_path, rows):
    "What is refused is refused in a sentence; what is taken can be drawn."
    head, rng, taken = head_of_two(), random.Random(0), 0
    head["result"] = {}  # numbers that the rows below do not give would be refused
    for i in range(250):
        store = Store("sqlite://")
        wrong = (
            [damaged(rows[0], rng), rows[1]]
            if i % 2
            else [{**rows[0], "trace": damaged(rows[0]["trace"], rng)}]
        )
        write(tmp_path / "x", head, wrong)
        try:
            id = import_experiment(store, tmp_path / "x")
        except LlmForgeError as e:
            assert len(str(e)) < 500
            continue
        taken += 1
        for row in Experiment(id, store).rows:
            if row["trace"]:
                assert render(from_dict(row["trace"]), full=True) and render_html(from_dict(row["trace"]))
    assert 10 < taken < 240


@pytest.mark.slow
def test_heads_of_any_shape(tmp_path, rows):
    head, rng = head_of_two(), random.Random(1)
    for _ in range(200):
        write(tmp_path / "x", damaged(head, rng), rows)
        try:
            import_experiment(Store("sqlite://"), tmp_path / "x")
        except LlmForgeError as e:
            assert len(str(e)) < 500


@pytest.mark.parametrize("code", ["x", None, ["x"], {"plugin": 1}])
def test_code_is_a_text_for_each_name(code):
    assert "provenance_json.code must be a text for each" in provenance_fault({"code": code})
    assert provenance_fault({"code": {"plugin": "1f0c"}}) is None


@pytest.mark.parametrize(
    "provenance", [None, {}, {"packages": None, "python": 3}, {"skipped": 5, "index": [1]}]
)
def test_a_provenance_that_lacks_parts_is_shown(tmp_path, provenance):
    shutil.copytree(OUTPUTS / REACT, tmp_path / "x")
    head = json.loads((tmp_path / "x" / "result.json").read_text())
    head["experiment"]["provenance_json"] = provenance
    (tmp_path / "x" / "result.json").write_text(json.dumps(head))
    store = Store("sqlite://")
    e = Experiment(import_experiment(store, tmp_path / "x"), store)
    assert "| commit | none |" in provenance_table(e) and "| python | " in provenance_table(e)


@pytest.mark.slow
def test_plans_of_any_shape(tmp_path):
    "Also those whose hash fits."
    plan, rng, taken = json.loads((OUTPUTS / STUDY / "plan.json").read_text()), random.Random(2), 0
    for i in range(300):
        wrong = damaged(plan, rng) if i % 3 == 0 else plan | {"plan_json": damaged(plan["plan_json"], rng)}
        try:
            wrong["plan_hash"] = fingerprint(wrong["plan_json"])
        except (TypeError, KeyError, ValueError, UnicodeError):
            pass
        (tmp_path / "plan.json").write_text(json.dumps(wrong))
        try:
            store = Store("sqlite://")
            assert plan_table(stored_study(import_plan(store, tmp_path).name, store))
            taken += 1
        except LlmForgeError as e:
            assert len(str(e)) < 2000
    assert taken > 5


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, "\x00", "", "null", "[]", '"x"']
)
def test_files_that_are_none(tmp_path, text):
    for name in ("plan.json", "result.json"):
        (tmp_path / name).write_text(text)
    (tmp_path / "runs.jsonl").write_text(text)
    (tmp_path / "config.yaml").write_text(text[:5000])
    for read in (import_plan, import_experiment):
        with pytest.raises(StoreError):
            read(Store("sqlite://"), tmp_path)


@pytest.mark.parametrize(
    "id", ["../../x", "/etc/x", "a/b", "a\\b", "", ".", "..", "a\nb", "x" * 300, "ünï", 7, None]
)
def test_ids_that_lead_elsewhere(tmp_path, rows, id):
    head = head_of_two()
    head["experiment"]["id"] = id
    write(tmp_path / "x", head, rows)
    with pytest.raises(StoreError, match="cannot name a folder"):
        import_experiment(Store("sqlite://"), tmp_path / "x")
    plan = json.loads((OUTPUTS / STUDY / "plan.json").read_text()) | {"name": id}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(StoreError, match="cannot name a folder|must be text"):
        import_plan(Store("sqlite://"), tmp_path)


def test_a_deep_trace(tmp_path, rows):
    head, deep = head_of_two(), rows[0]["trace"]
    for _ in range(150):
        deep = {**rows[0]["trace"], "children": [deep]}
    write(tmp_path / "x", head, [rows[0] | {"trace": deep}])
    with pytest.raises(StoreError, match="deeper than 100 levels"):
        import_experiment(Store("sqlite://"), tmp_path / "x")


@pytest.mark.parametrize(
    "part, value", [("sealed_at", None), ("plan", []), ("experiments", 7), ("experiments", {REACT: 7})]
)
def test_seals_of_any_shape(tmp_path, part, value):
    "Also with a hash that fits."
    shutil.copytree(OUTPUTS / REACT, tmp_path / REACT)
    seal = {"previous": "", "sealed_at": "2026-12-01", "plan": {}, "experiments": {REACT: {"rows": "x"}}}
    for changed, sentence in ((seal | {part: value}, "link 1 is no seal"), (seal, "and was None when study")):
        named = {**changed, "of": REACT}  # a chain is read where it names the experiment
        links = [{**named, "hash": fingerprint(named, n=64)}]
        (tmp_path / "study-x").mkdir(exist_ok=True)
        (tmp_path / "study-x" / "chain.json").write_text(json.dumps({"links": links}))
        with pytest.raises(StoreError, match=sentence):
            import_experiment(Store("sqlite://"), tmp_path / REACT)


def test_integers_that_a_database_cannot_hold():
    "PostgreSQL's have 32 bits, but where a column says 64."
    faults = list(column_faults({"n": 2**31, "tokens_used": 2**40, "latency_p50": 2**40}, RESULTS))
    assert faults == ["n must be of type integer; received '2147483648'"]


def test_a_value_is_stored_within_its_bounds():
    "What lies too deep, and lists for which there is no room, are named by their type; they were kept whole."
    deep: list = []
    for _ in range(300):
        deep = [deep]
    assert (
        str(bounded(deep)).count("[") == 200 and len(str(bounded([["x" * 50] * 10] * 10_000, 1000))) < 20_000
    )
    assert bounded([np.float32(0.5), np.array([1, 2]), (1, 2), {1}], 50) == [
        0.5,
        "(ndarray)",
        [1, 2],
        "(set)",
    ]


def test_links_are_refused(tmp_path):
    "Of an export, a plan, a card and a notebook."
    outputs = tmp_path / "outputs"
    shutil.copytree(OUTPUTS / REACT, outputs / REACT)
    assert list(published(outputs).experiments) == [REACT]
    for name in ("runs.jsonl", "config.yaml", "result.json"):
        (outputs / REACT / name).rename(tmp_path / name)
        (outputs / REACT / name).symlink_to(tmp_path / name)
        with pytest.raises(StoreError, match="is a link"):
            published(outputs)
        (outputs / REACT / name).unlink()
        (tmp_path / name).rename(outputs / REACT / name)
    (outputs / REACT / "plan.json").symlink_to(OUTPUTS / STUDY / "plan.json")
    with pytest.raises(StoreError, match="is a link"):
        published(outputs)
    (outputs / REACT / "plan.json").unlink()
    (outputs / "cards").mkdir()
    (outputs / "cards" / "x.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is a link"):
        published(outputs)


@pytest.mark.parametrize(
    "name", ("result.json", "runs.jsonl", "config.yaml", "votes.jsonl", "plan.json", "chain.json")
)
@pytest.mark.parametrize(
    "make", (os.mkfifo, lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 2**40))
)
@pytest.mark.timeout(20)
def test_a_pipe_and_a_file_larger_than_memory_are_refused(tmp_path, make, name):
    folder = tmp_path / "x"
    shutil.copytree(OUTPUTS / (STUDY if name in ("plan.json", "chain.json") else REACT), folder)
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    done = CliRunner().invoke(app, ["import", str(folder)])
    assert done.exit_code == 1 and re.search("must be a file|are read", done.output), done.output


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("llmforge.rows.LARGEST_FILE", 1000)
    path = tmp_path / "x.jsonl.gz"
    for size in (1000, 1001):
        path.write_bytes(gzip.compress(b"x" * size))
        if size == 1000:
            assert len(file_text(path)) == size
    with pytest.raises(DataError, match="unpacked it has more than 1,000 bytes"):
        file_text(path)


def test_one_bad_folder_does_not_stop_the_others(tmp_path, outputs):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "result.json").write_text("{}")
    r = CliRunner().invoke(
        app, ["import", *map(str, (tmp_path / "bad", OUTPUTS / REACT, tmp_path, OUTPUTS / STUDY))]
    )
    assert r.exit_code == 1 and r.stderr.count("error:") == 2  # alone, and as all that is in the folder
    assert r.stdout.splitlines() == [REACT, "plan of reasoning"]


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", '{"experiment": null}'])
def test_a_result_that_cannot_be_read_is_nobodys_record(outputs, text):
    store = Store("sqlite://")
    store.create_experiment("x-1", "x", {})
    (outputs / "x-1").mkdir(parents=True)
    (outputs / "x-1" / "result.json").write_text(text)
    assert record_folder(store, "x-1") == outputs / "x-1"


def test_an_import_and_an_export_overwrite_nobodys_record(tmp_path, outputs, rows):
    "Another run of the same id: refused by the store, and written beside what is there."
    head = head_of_two()
    head["result"] = {}
    write(tmp_path / "x", head, rows)
    assert CliRunner().invoke(app, ["import", str(tmp_path / "x")]).exit_code == 0
    r = CliRunner().invoke(app, ["import", str(OUTPUTS / REACT)])
    assert r.exit_code == 1 and "with other content; neither was changed" in r.stderr
    shutil.copytree(OUTPUTS / REACT, outputs / REACT)
    record = json.loads((outputs / REACT / "result.json").read_text())
    record["experiment"]["created_at"] = "2020-01-01T00:00:00.000+00:00"
    (outputs / REACT / "result.json").write_text(before := json.dumps(record))
    assert CliRunner().invoke(app, ["export", REACT]).exit_code == 0
    assert (outputs / REACT / "result.json").read_text() == before
    assert (outputs / f"{REACT}-rerun" / "result.json").exists()
    export_experiment(Store(), REACT, tmp_path / "again")


@pytest.mark.slow
def test_damaged_gz(tmp_path):
    "Cut anywhere, or with a byte changed anywhere."
    sample = {"doc_id": 0, "target": "a", "arguments": [["q", {}]], "resps": [["a"]], "filtered_resps": ["a"]}
    sample |= {"filter": "none", "doc": {"question": "q"}, "exact_match": 1.0}
    whole, rng = gzip.compress((json.dumps(sample) + "\n").encode() * 50, mtime=0), random.Random(3)
    path = tmp_path / "samples_x_2026-01-01T00-00-00.jsonl.gz"
    for i in range(200):
        data = bytearray(whole)
        if i % 2:
            data = data[: rng.randrange(len(data))]
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(data))
        try:
            import_lm_eval(Store("sqlite://"), path)
        except LlmForgeError as e:
            assert len(str(e)) < 500
