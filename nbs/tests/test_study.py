"Studies: checked before anything runs, frozen before anything is scored, resumed without a trace."

import json
import os
import random
import re
import signal
import sqlite3
import time

import pytest
import yaml
from executing import command, start
from typer.testing import CliRunner
from watching import count

from llmforge.batching import FakeEngine, Fault
from llmforge.cli import app
from llmforge.config import load_config
from llmforge.core import ConfigError, metrics
from llmforge.files import project_root
from llmforge.findings import arms_table, exploratory_table, verdict_table, verdicts
from llmforge.metrics import AGENT_SCORES, contains
from llmforge.plan import plan_table, planned, stored_study
from llmforge.store import Store
from llmforge.study import open_study, run_study
from llmforge.studyconfig import load_study, unmeasured

pytestmark = pytest.mark.slow

STUDY = {
    "study": {
        "name": "four_arms",
        "question": "Which retrieval?",
        "alpha": 0.05,
        "base": {
            "engine": {"name": "slow", "batch_size": 8},
            "method": {"shots": 0},
            "retrieval": {"name": "sparse", "top_k": 1},
        },
        "datasets": {
            "almanac": {"dataset": {"name": "almanac", "limit": 50}},
            "meridia": {"dataset": {"name": "meridia", "limit": 50}},
        },
        "arms": {
            "none": {"retrieval": "none"},
            "one": {},
            "three": {"retrieval": {"top_k": 3}},
            "five": {"retrieval": {"top_k": 5}},
        },
        "hypotheses": [
            {"id": "H1", "claim": "Reading helps", "treatment": "one", "control": "none", "min_effect": 0.05},
            {
                "id": "H2",
                "claim": "Five passages are better than three",
                "treatment": "five",
                "control": "three",
            },
            {
                "id": "H3",
                "claim": "One passage is not worse than three by more than 20 points",
                "treatment": "one",
                "control": "three",
                "margin": 0.2,
            },
            {
                "id": "H4",
                "claim": "Three passages hold an answer more often than one",
                "metric": "mrr",
                "treatment": "three",
                "control": "one",
            },
        ],
        "exploratory": ["accuracy", "f1"],
    }
}

# The same four arms without retrieval, several times as fast: they differ in the examples shown.
PLAIN = json.loads(json.dumps(STUDY))
PLAIN["study"]["base"] |= {"retrieval": {"name": "none"}}
PLAIN["study"]["arms"] = {
    "none": {},
    "one": {"method": {"shots": 1}},
    "three": {"method": {"shots": 3}},
    "five": {"method": {"shots": 5}},
}
PLAIN["study"]["hypotheses"][3] |= {"claim": "Three examples give a better F1 than one", "metric": "f1"}

# A scripted engine that reads and learns: it answers rightly, with some noise, where its prompt has an
# accepted answer or an example.
SCRIPT = """
from llmforge.almanac import almanac, meridia
from llmforge.core import engines, fingerprint
from llmforge.batching import FakeEngine

ANSWERS = {e.question: e.answers for d in (almanac(), meridia()) for e in d.examples}

def reply(text, sampling):
    passages, _, question = text.rpartition("Question: ")
    answers = ANSWERS[question.removesuffix("\\nAnswer:")]
    noise = int(fingerprint(text, n=4), 16) / 16**4
    found = [a for a in answers if a in passages]
    helped = found or "Question: " in passages
    if noise < (0.7 if helped else 0.1):
        return " " + (found or answers)[0]
    return " nobody knows this one"

@engines.register("slow")
def slow(config):
    delay = float(__import__("os").environ.get("DELAY", 0))
    return FakeEngine(reply, delay=delay, batch_size=config.engine.batch_size)
"""
exec(SCRIPT)
reply = globals()["reply"]  # of the script

CHILD = (
    SCRIPT
    + f"""
from llmforge.study import run_study
from llmforge.studyconfig import load_study
run_study(load_study({STUDY!r}), show=False)
"""
)


def said(study):
    "Everything a study says that does not depend on the clock, to the last digit."
    when = re.compile(r"frozen [\d :-]+ UTC")
    return (
        [repr(v) for v in verdicts(study)],
        when.sub("", verdict_table(study)),
        exploratory_table(study),
        arms_table(study, costs=False),
    )


def test_sigkill_leaves_no_trace_in_the_verdicts(tmp_path, outputs, monkeypatch):
    "Kill a study at four random moments, let it end: the verdicts of an undisturbed run, to the last digit."
    undisturbed = said(
        run_study(load_study(STUDY), Store(f"sqlite:///{tmp_path}/undisturbed.db"), show=False)
    )
    (outputs / "generations.db").unlink()
    rng, db = random.Random(6), outputs / "llmforge.db"
    for _ in range(4):
        before = count(db, "runs")
        p = start(CHILD, DELAY="0.05")
        while p.poll() is None and count(db, "runs") <= before:
            time.sleep(0.005)
        time.sleep(rng.random() * 0.4)
        p.send_signal(signal.SIGKILL)
        p.wait()
    assert 0 < count(db, "runs") < 400
    study = run_study(load_study(STUDY), show=False)
    assert count(db, "runs") == 400 and study.frozen.intact and not study.tampered and not study.late
    assert said(study) == undisturbed
    assert {v.verdict for v in verdicts(study)} >= {"supported"}


def test_second_run_asks_nobody_and_an_edit_is_tampering(outputs):
    first = run_study(load_study(PLAIN), show=False)

    def forbidden(config):
        pytest.fail("an engine was made")

    again = run_study(load_study(PLAIN), make=forbidden, show=False)
    assert again.ids == first.ids and said(again) == said(first)
    edited = json.loads(json.dumps(PLAIN))
    edited["study"]["hypotheses"][0]["min_effect"] = 0.01
    later = run_study(load_study(edited), make=forbidden, show=False)
    assert later.frozen == first.frozen and any("min_effect: was 0.05, is 0.01" in t for t in later.tampered)
    assert {v.verdict for v in verdicts(later)} == {"tampered"} and "tampered" in plan_table(later)
    assert {v.verdict for v in verdicts(run_study(load_study(PLAIN), show=False))} != {"tampered"}, (
        "the plan as it was is still the plan"
    )


def test_a_plan_changed_in_the_store_is_tampering(outputs):
    run_study(load_study(PLAIN), show=False)
    with sqlite3.connect(outputs / "llmforge.db") as db:
        db.execute("UPDATE studies SET plan_json = replace(plan_json, '0.05', '0.01')")
    study = open_study(load_study(PLAIN))
    assert study.tampered and not study.frozen.intact and {v.verdict for v in verdicts(study)} == {"tampered"}


def test_a_plan_frozen_after_the_runs_is_post_hoc(outputs):
    "An arm that another study ran before this plan was frozen is shared, and named."
    other = json.loads(json.dumps(PLAIN))
    other["study"] |= {"name": "earlier", "arms": {"a": {}, "b": {"method": {"shots": 1}}}, "hypotheses": []}
    early = run_study(load_study(other), show=False)
    late = run_study(load_study(PLAIN), show=False)
    assert set(early.ids.values()) <= set(late.ids.values()) and set(late.late) == set(early.ids.values())
    assert "post hoc" in plan_table(late) and "post hoc" in verdicts(late)[0].sentence()


def test_thirty_per_cent_failures(outputs):
    "Failures count as wrong, every table says how many there were, bounds are printed, and nothing is NaN."
    study = run_study(
        load_study(STUDY),
        make=lambda c: FakeEngine(reply, faults=[Fault(share=0.3)], batch_size=8),
        show=False,
    )
    text = (
        arms_table(study)
        + verdict_table(study)
        + exploratory_table(study)
        + "".join(v.sentence() for v in verdicts(study))
    )
    assert "nan" not in text.casefold().replace("finance", "")
    lost = [study.store.result(i)["failed"] for i in study.ids.values()]
    assert all(5 <= n <= 25 for n in lost)
    assert all(word in arms_table(study) for word in ("attempted", "answered", "failed", "best case"))


BETTER = {"id": "H", "claim": "c", "treatment": "one", "control": "none"}
BAD = {
    "one_arm": ({"arms": {"a": {}}}, ["study.arms"]),
    "unknown_key": ({"hypothesis": []}, ["study.hypothesis", "did you mean 'hypotheses'"]),
    "unknown_arm": (
        {"hypotheses": [{"id": "H", "claim": "c", "treatment": "thre", "control": "one"}]},
        ["hypotheses.0.treatment", "did you mean 'three'"],
    ),
    "same_arm": (
        {"hypotheses": [{"id": "H", "claim": "c", "treatment": "one", "control": "one"}]},
        ["two arms"],
    ),
    "both": (
        {
            "hypotheses": [
                {
                    "id": "H",
                    "claim": "c",
                    "treatment": "one",
                    "control": "none",
                    "min_effect": 0.1,
                    "margin": 0.1,
                }
            ]
        },
        ["exclude each other"],
    ),
    "metric": (
        {
            "hypotheses": [
                {"id": "H", "claim": "c", "treatment": "one", "control": "none", "metric": "acuracy"}
            ]
        },
        ["study.hypotheses.0.metric", "did you mean 'accuracy'"],
    ),
    "own_metric": (
        {
            "hypotheses": [
                {"id": "H", "claim": "c", "treatment": "one", "control": "none", "metric": "first_words"}
            ]
        },
        ["study.hypotheses.0.metric", "unknown metric 'first_words'", "add it to metrics.extra"],
    ),
    "own_metric_of_one": (
        {
            "arms": {"none": {"retrieval": "none"}, "one": {"metrics": {"extra": ["first_words"]}}},
            "hypotheses": [
                {"id": "H", "claim": "c", "treatment": "one", "control": "none", "metric": "first_words"}
            ],
        },
        ["arm 'none'", "unknown metric 'first_words'"],
    ),
    "own_metric_not_registered": (
        {"base": STUDY["study"]["base"] | {"metrics": {"extra": ["first_words"]}}},
        ["experiment.metrics.extra: metric 'first_words' is not registered"],
    ),
    "not_judged": (
        {
            "hypotheses": [
                {"id": "H", "claim": "c", "treatment": "one", "control": "three", "metric": "groundedness"}
            ]
        },
        ["metrics.judge"],
    ),
    "no_agent": (
        {
            "hypotheses": [
                {"id": "H", "claim": "c", "treatment": "one", "control": "three", "metric": "tool_calls"}
            ]
        },
        ["study.hypotheses.0.metric", "needs method react; the method is naive"],
    ),
    "the_same_arm_twice": (
        {
            "arms": {"none": {"retrieval": "none"}, "one": {}, "again": {"retrieval": {"top_k": 1}}},
            "hypotheses": [],
        },
        ["study.arms.one: is the experiment of 'again' once more; change it, or leave it out"],
    ),
    "a_seed_of_its_own": (
        {"arms": {"none": {"retrieval": "none"}, "one": {"seed": 1}}, "hypotheses": [BETTER]},
        ["study.arms.one.seed: every run has one of the study's seeds; set seeds"],
    ),
    "nobody_has_it": (
        {"exploratory": ["f1", "first_tool"]},
        ["study.exploratory.1: no arm has it: first_tool"],
    ),
    "no_such_k": (
        {
            "hypotheses": [
                {"id": "H", "claim": "c", "treatment": "one", "control": "three", "metric": "recall@3"}
            ]
        },
        ["recall@3 is not measured where top_k is 1"],
    ),
    "direction": (
        {"hypotheses": [{"id": "H", "claim": "c", "treatment": "one", "control": "none", "direction": "up"}]},
        ["study.hypotheses.0.direction", "higher, lower"],
    ),
    "bad_arm": (
        {"arms": {"a": {}, "b": {"retrieval": "hybird"}}, "hypotheses": []},
        ["arm 'b'", "did you mean 'hybrid'"],
    ),
    "other_questions": (
        {"arms": {"none": {}, "one": {"dataset": {"limit": 7}}}, "hypotheses": [BETTER]},
        ["study.arms.one: cannot be compared with 'none' on 'almanac'", "(50 of almanac and 7 of almanac)"],
    ),
    "other_questions_explored": (
        {
            "arms": {"a": {}, "b": {"method": "cot"}, "c": {"sampling": {"temperature": 1, "repeats": 2}}},
            "hypotheses": [],
        },
        ["study.arms.c: cannot be compared with 'a' on 'almanac': sampling.repeats differs (1 and 2)"],
    ),
    "other_score": (
        {"arms": {"none": {}, "one": {"metrics": {"normalization": "numeric"}}}, "hypotheses": [BETTER]},
        ["'meridia': metrics.normalization differs (squad and numeric); give both the same"],
    ),
    "grid_and_arms": ({"grid": {"seed": [1, 2]}}, ["study.grid", "not both"]),
    "bad_name": ({"name": "../x"}, ["study.name"]),
    "no_base": ({"base": "no_such.yaml"}, ["no_such.yaml", "does not exist"]),
    "alpha": ({"alpha": 2}, ["study.alpha"]),
    "data": ({"datasets": {"x": {"dataset": {"name": "almanac", "skip": 5000}}}}, ["dataset.skip", "5000"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_study(name, tmp_path, outputs):
    "One clear error, exit code 2, nothing written."
    change, words = BAD[name]
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"study": STUDY["study"] | change}))
    result = CliRunner().invoke(app, ["study", str(tmp_path / "s.yaml")])
    assert result.exit_code == 2, result.output
    assert all(w in result.output for w in words) and "Traceback" not in result.output
    assert count(outputs / "llmforge.db", "studies") == 0


@pytest.mark.parametrize("n", [0, 1, 3])
def test_what_too_few_questions_can_show(n):
    "No share differs by more than 1; it said that inf, or 1.8, can be shown."
    study = load_study(STUDY)
    least, warning = planned(study, n, study.hypotheses[0])
    assert (
        least is None and warning == f"too few questions: {n} can show no difference; expect 'inconclusive'"
    )


def test_a_value_that_a_grid_has_twice_is_refused():
    "It was left out without a word."
    study = {k: v for k, v in STUDY["study"].items() if k not in ("arms", "hypotheses")}
    with pytest.raises(ConfigError, match="study.grid: two arms have the label '3'; give each value once"):
        load_study({"study": study | {"grid": {"retrieval.top_k": [1, 3, 3]}}})


def test_which_arms_have_a_metric():
    """Tokens are measured everywhere, an agent's doings of an agent only.

    What is not a share has no effect size in points."""
    plain = load_config({"experiment": {"name": "x", "engine": "fake"}})
    agent = plain.model_copy(update={"method": plain.method.model_copy(update={"name": "react"})})
    for metric in AGENT_SCORES:
        assert unmeasured(metric, agent) == "" and metric in unmeasured(metric, plain)
    for metric in ("tokens", "latency", "failed", "accuracy"):
        assert unmeasured(metric, plain) == unmeasured(metric, agent) == ""
    assert "did you mean 'tool_calls'" in unmeasured(
        "tool_cals", agent
    ) and "did you mean 'tokens'" in unmeasured("token", plain)
    study = load_study(STUDY)

    def least(metric):
        return planned(study, 100, study.hypotheses[0].model_copy(update={"metric": metric}))[0]

    assert all(
        least(m) is None for m in ("tokens", "latency", "steps", "tool_calls", "failed_calls")
    ) and all(least(m) for m in ("accuracy", "first_tool", "forced"))


def test_a_claim_about_a_metric_of_ones_own(outputs, monkeypatch):
    """Supported by a paired test over all questions, failed ones as wrong; every table has it.

    The plan is read without the metric's code."""
    monkeypatch.setitem(
        metrics._entries,
        "stated",
        lambda prediction, answers, style: contains(prediction, answers, style) and "not" not in prediction,
    )
    mine = json.loads(json.dumps(PLAIN))
    mine["study"]["base"]["metrics"] = {"extra": ["stated"]}
    mine["study"] |= {
        "hypotheses": [
            {
                "id": "H1",
                "claim": "An example helps",
                "metric": "stated",
                "treatment": "one",
                "control": "none",
                "min_effect": 0.05,
            }
        ],
        "exploratory": ["stated"],
    }
    study = run_study(
        load_study(mine),
        make=lambda c: FakeEngine(reply, faults=[Fault(share=0.1)], batch_size=8),
        show=False,
    )
    (v,) = verdicts(study)
    assert v.verdict == "supported" and v.n == 100 and v.contrast.left_out == 0 and sum(v.contrast.failed) > 0
    assert (
        "| stated |" in arms_table(study)
        and "stated: it has no metric card" in arms_table(study)
        and "stated" in exploratory_table(study)
        and "one − none, stated: +" in verdict_table(study)
    )
    monkeypatch.delitem(metrics._entries, "stated")
    assert [repr(x) for x in verdicts(stored_study("four_arms"))] == [repr(v)]


def test_shipped_studies_are_valid():
    for path in sorted((project_root() / "configs" / "studies").glob("*.yaml")):
        study = load_study(path)
        assert study.hypotheses or study.speed


def test_the_command_on_the_embedded_model(tmp_path, outputs, kernels):
    "`llmforge study` with real parts: reranked against hybrid retrieval, judged; the notebook is kept."
    small = {
        "study": {
            "name": "small",
            "question": "Does it run?",
            "base": {
                "dataset": {"name": "meridia", "limit": 3},
                "method": {"shots": 1},
                "sampling": {"max_tokens": 12},
                "retrieval": {"name": "hybrid", "top_k": 1},
                "metrics": {"faithfulness": "groundedness"},
                "engine": {"batch_size": 3},
            },
            "arms": {"hybrid": {}, "reranked": {"retrieval": "reranked"}},
            "hypotheses": [
                {
                    "id": "H1",
                    "claim": "Reranking lowers the share of ungrounded claims",
                    "metric": "ungrounded_rate",
                    "treatment": "reranked",
                    "control": "hybrid",
                    "direction": "lower",
                }
            ],
            "exploratory": ["accuracy"],
        }
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    p = command("llmforge", "study", str(tmp_path / "small.yaml"), cwd=project_root())
    assert p.returncode == 0, p.stdout + p.stderr
    assert "H1" in p.stdout and any(v in p.stdout for v in ("supported", "refuted", "inconclusive"))
    assert {"plan.json", "study.ipynb"} <= set(os.listdir(outputs / "study-small"))
    store = Store()
    rows = [r for i in store.experiments().id for r in store.rows(i)]
    reranked = [r for r in rows if any(c.get("children") for c in r["trace"]["children"])]
    assert len(rows) == 6 and len(reranked) == 3
    spans = [s for r in reranked for c in r["trace"]["children"] for s in c.get("children", [])]
    assert all(s["kind"] == "reranker" and {"before", "after"} <= set(s["output"][0]) for s in spans)
    assert all("groundedness" in r["scores"] for r in rows if not r["abstained"] and not r["error_type"])


def test_the_seed_of_the_base_is_the_study_s_where_it_names_none():
    base = STUDY["study"]["base"] | {"seed": 7}
    assert load_study({"study": STUDY["study"] | {"base": base}}).seeds == (7,)
    assert load_study({"study": STUDY["study"] | {"base": base, "seeds": [1, 2]}}).seeds == (1, 2)
    assert load_study({"study": STUDY["study"]}).seeds == (0,)
