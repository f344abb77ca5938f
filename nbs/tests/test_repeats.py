"Questions asked several times: rows, pass@k, and intervals over questions."

import json

import pytest

from llmforge.batching import FakeEngine
from llmforge.comparison import compare
from llmforge.config import load_config
from llmforge.core import ConfigError, StoreError
from llmforge.derived import interval_faults, result_faults
from llmforge.experiment import Experiment, results_table
from llmforge.exports import export_experiment, import_experiment
from llmforge.runner import run_experiment
from llmforge.store import Store
from llmforge.study import open_study
from llmforge.studyconfig import load_study

SAMPLED = {"temperature": 1, "repeats": 3}


@pytest.fixture
def questions(tmp_path, monkeypatch, outputs):
    "Twelve questions, three of which are kept as exemplars."
    monkeypatch.setenv("LLMFORGE_DATA", str(tmp_path))
    rows = [{"id": f"q#{i}", "question": f"Question {i}?", "answers": ["yes"]} for i in range(12)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def config(name="r", **more):
    dataset = {"name": "q.jsonl", "exemplars": "own"}
    fields = {"engine": "fake", "method": {"shots": 0}, "dataset": dataset, "sampling": SAMPLED}
    return load_config({"experiment": {"name": name, **fields, **more}})


def sometimes(prompt, sampling):
    "An answer that depends on the seed, which is another one at each attempt; one question never gets it."
    return "no" if "Question 1?" in prompt or sampling.seed % 3 else "yes"


def ran(c, store, reply=sometimes):
    return Experiment(run_experiment(c, store, FakeEngine(reply), show=False), store)


def test_each_attempt_is_a_row_and_pass_at_k_is_over_questions(questions, tmp_path):
    store = Store()
    e = ran(config(), store)
    by_question = {}
    for r in e.rows:
        by_question.setdefault(r["example_id"].rpartition("#")[0], []).append(r["correct"])
    assert len(e.rows) == 27 and len(by_question) == 9 and {len(v) for v in by_question.values()} == {3}
    best = [max(v) for v in by_question.values()]
    passed = e.estimate("pass@3")
    assert passed.value == sum(best) / 9 and passed.n == 9 and 0 < passed.value < 1
    assert e.estimate("accuracy").value == sum(r["correct"] for r in e.rows) / 27
    assert "pass@3" in results_table(e)
    result = store.result(e.id)
    assert not list(result_faults(e.rows, result, e.config.model_dump(mode="json")))
    assert not list(interval_faults(e.rows, result["summary"], e.record.config_json))
    export_experiment(store, e.id, tmp_path / e.id)  # importing derives every aggregate anew
    assert import_experiment(Store(f"sqlite:///{tmp_path}/other.db"), tmp_path / e.id) == e.id


def test_attempts_at_one_question_are_not_independent(questions):
    "Answers that depend on the question alone: three attempts say no more than one."
    same = lambda prompt, sampling: "yes" if int(prompt.split()[-2].strip("?\nAnswer:") or 0) % 2 else "no"
    store = Store()
    once = ran(config("once", sampling={"temperature": 1}), store, same)
    thrice = ran(config("thrice"), store, same)
    widths = [e.estimate("accuracy").high - e.estimate("accuracy").low for e in (once, thrice)]
    assert widths[1] == pytest.approx(widths[0], rel=0.15)


@pytest.mark.slow
def test_compared_over_questions(questions):
    store = Store()
    a = ran(config("a"), store)
    b = ran(config("b", method={"shots": 1}), store)
    (c,) = compare(a, b, ["accuracy"]).contrasts.values()
    assert c.paired.n == 27 and c.questions == 9 and c.groups == 9
    every = ran(config("every", dataset="q.jsonl"), store)
    with pytest.raises(StoreError, match=f"run {every.id} with dataset.exemplars: own, so that it asks"):
        compare(b, every)


def test_the_plan_counts_questions(questions):
    study = {
        "name": "s",
        "question": "?",
        "base": {
            "engine": "fake",
            "method": {"shots": 0},
            "dataset": {"name": "q.jsonl", "exemplars": "own"},
            "sampling": SAMPLED,
        },
        "arms": {"a": {}, "b": {"sampling": {"max_tokens": 9}}},
    }
    assert open_study(load_study({"study": study})).frozen.plan_json["questions"] == {"default": 9}


def test_the_short_form_and_what_is_refused():
    short = load_config("naive.yaml", ["repeats=5", "sampling.temperature=0.7"])
    long = load_config("naive.yaml", ["sampling.repeats=5", "sampling.temperature=0.7"])
    assert short == long and short.sampling.repeats == 5
    with pytest.raises(ConfigError, match="sampling.repeats: with temperature 0 all 5 answers"):
        load_config("naive.yaml", ["repeats=5"])
    with pytest.raises(ConfigError, match="another way to write sampling.repeats"):
        load_config({"experiment": {"name": "r", "repeats": 5, "sampling": {"repeats": 5}}})
    for bad in ("0", "2000", "x", "1.5"):
        with pytest.raises(ConfigError, match="sampling.repeats"):
            load_config("naive.yaml", [f"repeats={bad}", "sampling.temperature=0.7"])
