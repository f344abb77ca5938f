"Logs that Inspect 0.3.285 wrote (those in JSON without their events), and changes to them."

import copy
import json
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmforge.cli import app
from llmforge.core import DataError, MissingExtra
from llmforge.experiment import Experiment, results_table
from llmforge.inspectlogs import _answer, import_inspect, inspect_logs
from llmforge.results import cost_line, provenance_table, worst_examples
from llmforge.store import Store
from llmforge.study import open_study
from llmforge.studyconfig import load_study

LOGS = Path(__file__).parent / "logs"
ONE = LOGS / "2026-11-29T02-56-12-00-00_ruritania_x.json"
TWO = LOGS / "2026-11-29T02-56-12-00-00_ruritania_two_scorers_x.json"
ARCHIVE = ONE.with_suffix(".eval")


@pytest.fixture
def store():
    return Store("sqlite://")


@pytest.fixture
def changed(tmp_path):
    "A log with changes: of its fields, and of its first sample."

    def _changed(sample=None, path=ONE, **fields):
        log = json.loads(path.read_text())
        log |= copy.deepcopy(fields)
        log["samples"] and log["samples"][0].update(sample or {})
        (tmp_path / path.name).write_text(json.dumps(log))
        return tmp_path / path.name

    return _changed


def test_a_log_is_an_experiment(store):
    "What Inspect says of it: 3 of 4 right, 43 tokens."
    id = import_inspect(store, ONE)
    result, rows = store.result(id), store.rows(id)
    assert (result["n"], result["exact_match"], result["tokens_used"]) == (4, 0.75, 43)
    assert [r["correct"] for r in rows] == [True, False, True, True]
    assert rows[2]["input_text"] == "How many towers has the castle of Zenda?"
    assert rows[2]["output_text"] == "The answer is 4" and rows[2]["scores"]["includes"] == 1
    assert rows[2]["trace"]["attributes"]["expected"] == ["four", "4"]
    assert rows[1]["abstained"] and result["abstained"] == 1, "I do not know"
    assert (rows[0]["tokens_in"], rows[0]["tokens_out"], rows[0]["latency_ms"]) == (7, 1, None)
    engine = store.experiment(id).provenance_json["engine"]
    assert (engine["name"], engine["model"], engine["exact_match"]) == (
        "inspect_ai",
        "mockllm/model",
        "includes",
    )
    e = Experiment(id, store)
    assert cost_line(e) == "43 tokens"
    assert all(map(str, (results_table(e), worst_examples(e), provenance_table(e))))
    assert import_inspect(store, ONE) == id and len(store.experiments()) == 1


def test_the_archive_is_the_same_experiment(store):
    "Read by Inspect's own reader."
    pytest.importorskip("inspect_ai", reason="Inspect reads its archives; the extra inspect is not installed")
    assert import_inspect(store, ARCHIVE) == import_inspect(store, ONE)


def test_an_archive_without_the_reader_says_what_to_install(store, monkeypatch):
    for module in ("inspect_ai", "inspect_ai.log"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"pip install 'llmforge-lab\[inspect\]'"):
        import_inspect(store, ARCHIVE)


def test_of_several_scorers_one_is_asked_for(store):
    with pytest.raises(DataError, match=r"which metric .*--metric \(metric=\): includes, match$"):
        import_inspect(store, TWO)
    assert store.experiments().empty
    accuracies = [
        store.result(import_inspect(store, TWO, metric=m))["accuracy"] for m in ("includes", "match")
    ]
    assert accuracies == [0.75, 0.5]
    assert _answer({"a": {"answer": "x"}, "b": {"answer": "y"}}, "b") == "y", "of the scorer that counts"
    assert _answer({"a": {"answer": "x"}, "b.c": {"answer": "y"}}, "b.c.d") == "y"
    assert _answer({"a": {"answer": None}, "b": {"answer": "y"}}, None) == "y"
    with pytest.raises(DataError, match="metric 'mach' is missing.*those that are: includes, match.*'match'"):
        import_inspect(store, TWO, metric="mach")


@pytest.mark.parametrize(
    "value, score",
    [("C", 1), ("P", 0.5), ("I", 0), ("N", 0), (True, 1), (False, 0), (1, 1), (0.25, 0.25)]
    + [("yes", 1), ("True", 1), ("no", 0), ("false", 0), ("0.25", 0.25), ("1", 1)],
)
def test_values_of_scores(store, changed, value, score):
    rows = store.rows(import_inspect(store, changed({"scores": {"includes": {"value": value}}})))
    assert rows[0]["scores"]["exact_match"] == score and rows[0]["answer"] == "Strelsau"


@pytest.mark.parametrize("value", [float("nan"), None, "maybe", "c", "nan", "7", 7, -1, [1, 0]])
def test_a_value_that_is_no_share_is_refused_with_its_sample(store, changed, value):
    with pytest.raises(DataError, match="sample 1: metric 'includes' (is|is missing).*between 0 and 1"):
        import_inspect(store, changed({"scores": {"includes": {"value": value}}}))
    assert store.experiments().empty


def test_a_scorer_with_several_values(store, changed):
    log = changed()
    data = json.loads(log.read_text())
    for s in data["samples"]:
        s["scores"] = {"judge": {"value": {"right": "C", "brief": 0.5}}}
    log.write_text(json.dumps(data))
    with pytest.raises(DataError, match="judge.brief, judge.right"):
        import_inspect(store, log)
    assert store.result(import_inspect(store, log, metric="judge.right"))["exact_match"] == 1


def test_a_sample_that_ended_in_an_error_failed(store, changed):
    failed = {"scores": {}, "error": {"message": "Timeout"}, "output": {"choices": []}, "model_usage": {}}
    id = import_inspect(store, changed(failed))
    row, result = store.rows(id)[0], store.result(id)
    assert (row["error_type"], row["error"], row["correct"]) == ("SampleError", "Timeout", False)
    assert (result["failed"], result["answered"], result["tokens_used"]) == (1, 2, None)


def test_an_error_without_a_message_is_one(store, changed):
    id = import_inspect(store, changed({"scores": {}, "error": {"message": ""}}))
    assert store.result(id)["failed"] == 1 and store.rows(id)[0]["error"] == "an error without a message"


@pytest.mark.parametrize("error, told", [({"message": "Timeout"}, ""), (None, "has no metric, so it does")])
def test_choices_without_a_score(store, changed, error, told):
    "Where all ended in an error all failed; else nobody knows which are right."
    log = changed()
    data = json.loads(log.read_text())
    for s in data["samples"]:
        s |= {"choices": ["a", "b"], "scores": {}, "error": error}
    log.write_text(json.dumps(data))
    if told:
        with pytest.raises(DataError, match=told):
            import_inspect(store, log)
    else:
        assert store.result(import_inspect(store, log))["failed"] == len(data["samples"])


def test_a_score_without_bounds_is_no_number(store, changed):
    "JSON cannot hold it, so it could not be stored."
    log = changed()
    data = json.loads(log.read_text())
    for s in data["samples"]:
        s["scores"]["ratio"] = {"value": float("inf")}
    log.write_text(json.dumps(data))
    assert "ratio" not in store.rows(import_inspect(store, log, metric="includes"))[0]["scores"]


@pytest.mark.parametrize("part", [{"id": "a\ud83d"}, {"scores": {"a\ud83d": {"value": "C"}}}])
def test_half_a_character_in_an_id_or_in_the_name_of_a_score(store, changed, part):
    with pytest.raises(DataError, match="has half of a character in it") as e:
        import_inspect(store, changed(part), metric=next(iter(part.get("scores", {"includes": 0}))))
    assert str(e.value).encode() and store.experiments().empty


def test_tokens_that_the_log_does_not_know(store, changed):
    id = import_inspect(store, changed({"model_usage": {}}))
    assert store.result(id)["tokens_used"] is None and cost_line(Experiment(id, store)).startswith(
        "an unknown"
    )
    graded = {"lab/grader": {"input_tokens": 900, "output_tokens": 900}}
    assert store.rows(import_inspect(store, changed({"model_usage": graded})))[0]["tokens_in"] is None


def test_texts_in_parts_in_messages_and_in_attachments(store, changed):
    parts = [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "attachment://abc"}]
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "attachment://def"}]
    said = {"choices": [{"message": {"role": "assistant", "content": parts}}]}
    more = {
        "input": asked,
        "messages": asked,
        "output": said,
        "attachments": {"abc": "Vela", "def": "Which?"},
    }
    row = store.rows(import_inspect(store, changed({**more, "scores": {"includes": {"value": "C"}}})))[0]
    assert (row["input_text"], row["output_text"], row["answer"]) == ("Which?", "Vela", "Vela")
    assert row["trace"]["input"] == "Be brief.\n\nWhich?"


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"status": "cancelled"}, "did not end well .status 'cancelled'"),
        ({"status": "error", "error": {"message": "No key"}}, "did not end well .status 'error': No key"),
        ({"status": "error", "error": None}, "did not end well .status 'error'.$"),
        ({"samples": None}, "has no samples"),
        ({"samples": []}, "has no samples"),
        ({"samples": {}}, "has no samples"),
        ({"eval": {}}, "not as Inspect writes it: KeyError: 'model'"),
        ({"eval": None}, "not as Inspect writes it"),
        ({"samples": [{}]}, "not as Inspect writes it"),
        ({"samples": [3]}, "not as Inspect writes it"),
    ],
)
def test_logs_that_are_not_whole(store, changed, fields, message):
    log = changed(**{k: v for k, v in fields.items() if k != "samples"})
    if "samples" in fields:
        log.write_text(json.dumps(json.loads(log.read_text()) | fields))
    with pytest.raises(DataError, match=message):
        import_inspect(store, log)
    assert store.experiments().empty


@pytest.mark.parametrize(
    "target, expected",
    [(4, ["4"]), (None, []), ([4, "four"], ["4", "four"]), ("4", ["4"]), ([], [])],
)
def test_targets_of_any_type(store, changed, target, expected):
    row = store.rows(import_inspect(store, changed({"target": target})))[0]
    assert row["trace"]["attributes"]["expected"] == expected


def test_an_id_that_is_none_or_that_is_there_twice(store, changed):
    with pytest.raises(DataError, match="the id of a sample must be a number or a text; received None"):
        import_inspect(store, changed({"id": None}))
    with pytest.raises(DataError, match="id '2' is there twice"):
        import_inspect(store, changed({"id": "2"}))


def in_epochs(log, **changes):
    "A log whose samples were run again: in the second epoch all right, in the third all wrong."
    data = json.loads(log.read_text())
    data["samples"] += [
        {**s, "epoch": epoch, "scores": {"includes": {"value": value, "answer": "x"}}}
        for epoch, value in ((2, "C"), (3, "I"))
        for s in data["samples"]
    ]
    log.write_text(json.dumps(data | changes))
    return log


def test_epochs_are_repeats(store, changed):
    "Of 4 questions 3, 4 and 0 right: 7 of 12, each right at least once; the interval is over questions."
    log = in_epochs(changed(), plan={"config": {"temperature": 0.7}})
    e = Experiment(import_inspect(store, log), store)
    rows, metrics = store.rows(e.id), e.result["metrics"]
    assert [r["example_id"] for r in rows] == [f"{i}#{epoch}" for epoch in (1, 2, 3) for i in (1, 2, 3, 4)]
    assert metrics["exact_match"]["value"] == pytest.approx(7 / 12) and metrics["pass@3"]["value"] == 1
    assert (metrics["exact_match"]["low"], metrics["exact_match"]["high"]) == pytest.approx((5 / 12, 8 / 12))
    assert (e.config.sampling.repeats, e.config.sampling.temperature) == (3, 0.7)
    once = Experiment(import_inspect(store, ONE), store)
    assert once.config.sampling.repeats == 1 and "pass@3" not in once.result["metrics"]


def test_a_study_of_logs_with_epochs_is_planned_over_questions(store, changed, outputs):
    "Of 4 questions in 3 epochs a study can show what it can of 4 questions, not of 12."
    log = in_epochs(changed(), plan={"config": {"temperature": 0.7}})
    arms = {name: {"imported": import_inspect(store, log, name)} for name in ("one", "two")}
    opened = open_study(load_study({"study": {"name": "s", "question": "?", "arms": arms}}), store)
    assert opened.frozen.plan_json["questions"] == {"default": 4}


def test_epochs_that_are_no_repeats(store, changed):
    with pytest.raises(DataError, match="several epochs at temperature 0; a log of one epoch"):
        import_inspect(store, in_epochs(changed(), plan={"config": {"temperature": 0}}))
    log = in_epochs(changed())
    data = json.loads(log.read_text())
    log.write_text(json.dumps(data | {"samples": data["samples"][:-1]}))
    with pytest.raises(DataError, match="id '4' is not in every epoch; each sample must be in all 3"):
        import_inspect(store, log)
    log.write_text(json.dumps(data | {"samples": [*data["samples"], data["samples"][-1]]}))
    with pytest.raises(DataError, match="id '4' is there twice"):
        import_inspect(store, log)


@pytest.mark.parametrize(
    "sample, message",
    [
        ({"epoch": [1]}, r"the epoch of a sample must be a number; received \[1\]"),
        ({"model_usage": {"mockllm/model": {"input_tokens": "12"}}}, "numbers of tokens; received '12'"),
        ({"model_usage": {"mockllm/model": {"output_tokens": 1.5}}}, "numbers of tokens; received 1.5"),
        ({"model_usage": {"mockllm/model": {"output_tokens": 10**30}}}, "numbers of tokens; received 1000"),
    ],
)
def test_fields_of_another_type(store, changed, sample, message):
    with pytest.raises(DataError, match=message):
        import_inspect(store, changed(sample))


@pytest.mark.parametrize("field", ["model", "task"])
@pytest.mark.parametrize("value", [None, 1.5, "", {}])
def test_a_name_that_is_none(store, changed, field, value):
    named = json.loads(ONE.read_text())["eval"] | {field: value}
    with pytest.raises(DataError, match=f"eval.{field} must be a text; received"):
        import_inspect(store, changed(eval=named))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '{"a": 1}', "[" * 100_000, "\xff", '{"eval": 1}']
)
def test_files_that_are_no_logs(store, tmp_path, text):
    (tmp_path / "x.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="x.json: (cannot be read|is no log of Inspect)"):
        import_inspect(store, tmp_path / "x.json")


def test_the_command_imports_a_folder_of_logs(tmp_path, outputs):
    "One bad log does not stop the others."
    (tmp_path / "logs" / "deep").mkdir(parents=True)
    shutil.copy(ONE, tmp_path / "logs" / "deep")
    shutil.copy(TWO, tmp_path / "logs")
    (tmp_path / "logs" / "logs.json").write_text("{}")
    assert len(inspect_logs(tmp_path)) == 2
    result = CliRunner().invoke(app, ["import", str(tmp_path / "logs")])
    assert result.exit_code == 2 and "which metric says" in result.output
    assert "model_ruritania-" in result.output
    chosen = CliRunner().invoke(app, ["import", str(TWO), "--metric", "match"])
    assert chosen.exit_code == 0 and chosen.output.startswith("model_ruritania-")
    filtered = CliRunner().invoke(app, ["import", str(ONE), "--filter", "x"])
    assert filtered.exit_code == 2 and "has no filters" in filtered.output


def test_what_cannot_be_imported_is_told(tmp_path, outputs):
    (tmp_path / "helm").mkdir()
    (tmp_path / "helm" / "scenario_state.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("x")
    for path, words in (
        ("helm", "runs of HELM"),
        ("no", "does not exist"),
        ("notes.txt", ".eval or .json of"),
    ):
        result = CliRunner().invoke(app, ["import", str(tmp_path / path)])
        assert result.exit_code == 2 and words in result.output, result.output
