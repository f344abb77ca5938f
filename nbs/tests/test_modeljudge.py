"A language model that judges by a rubric: what it is asked, what is a verdict, what a run keeps of it."

import asyncio
import json

import numpy as np
import pytest
from aiohttp import web
from test_remote import USAGE, Scripted, in_a_thread

from llmforge.batching import FakeEngine
from llmforge.card import save_card
from llmforge.check import checks
from llmforge.comparison import compare, difference_at_equal_length
from llmforge.config import experiment_id, load_config
from llmforge.core import ConfigError, EngineError, StoreError
from llmforge.engine import Sampling, prompt_text
from llmforge.experiment import Experiment, results_table
from llmforge.labelled import labelled_answers
from llmforge.metricsconfig import JudgeConfig
from llmforge.modeljudge import ModelJudge, check_judge, judge_card, judge_config, judge_prompts, verdict
from llmforge.records import Dataset, Example
from llmforge.runner import run_experiment
from llmforge.security import check_stranger
from llmforge.store import Store

ASKED = JudgeConfig(model={"name": "a"})
REFERENCE, ANSWER = "Right answers: ", "-----\n"


def experiment(judge, **fields):
    return {
        "name": "judged",
        "engine": "fake",
        "metrics": {"judge": judge},
        "dataset": {"limit": 30},
        **fields,
    }


def config(judge, **fields):
    return load_config({"experiment": experiment(judge, **fields)})


@pytest.mark.parametrize(
    "reply, said",
    [
        ("Reasons.\nVerdict: yes", True),
        ("Reasons.\nVerdict: no", False),
        ("VERDICT: **No**.", False),
        ("**Verdict:** yes", True),
        ("### Verdict\n\nYes", True),
        ("verdict = 'yes'", True),
        ("First I thought Verdict: no. It is right.\nVerdict: yes", True),
        ("<think>Verdict: no</think>\nVerdict: yes", True),
        ("It is right.\n\nYes.", True),
        ("no", False),
        ("Verdict: yes/no", None),
        ("Verdict: yes or no", None),
        ("Verdict: yesterday", None),
        ("Yes, it is right.", None),
        ("No verdict.", None),
        ("The verdict is in: nobody knows", None),
        ("", None),
    ],
)
def test_a_verdict(reply, said):
    assert verdict(reply) is said


def test_both_orders_are_asked_and_the_answer_is_text():
    first, second = map(prompt_text, judge_prompts(ASKED, "Who?", ["{answer}", "b"], "x {verdicts} {0} y"))
    assert first != second and len(first) == pytest.approx(len(second), abs=20)
    for text in (first, second):
        assert "Right answers: {answer} | b\n" in text and "-----\nx {verdicts} {0} y\n-----" in text
    plain = judge_prompts(
        JudgeConfig(model={"name": "a"}, format="completion", rubric="Kind?"), "Who?", [], " "
    )
    assert all(isinstance(p, str) and "Rubric: Kind?" in p and "(no answer)" in p for p in plain)
    assert "Right answers" not in plain[0]


def judged(replies, **more):
    judge = ModelJudge(JudgeConfig(model={"name": "a"}, **more), FakeEngine(replies))
    return asyncio.run(judge.judge("Who?", ["b"], "c")).scores


def test_scores():
    assert judged("Verdict: yes") == {"judge_score": 1.0, "judge_consistent": 1.0}
    assert judged("Verdict: no") == {"judge_score": 0.0, "judge_consistent": 1.0}
    assert judged(["Verdict: yes", "Verdict: no"]) == {"judge_score": 0.5, "judge_consistent": 0.0}
    assert judged(["Verdict: yes", "I see."]) == {}


def test_another_rubric_is_another_judge():
    made = [
        ModelJudge(JudgeConfig(model={"name": "a"}, **more), FakeEngine()) for more in ({}, {"rubric": "b"})
    ]
    assert made[0].version != made[1].version and made[0].name == made[1].name == "judge a"


def reads(text, sampling):
    "Yes where a right answer occurs in the answer."
    right = text.split(REFERENCE)[1].splitlines()[0].split(" | ")
    answer = text.split(ANSWER)[1]
    return "Verdict: " + ("yes" if any(r in answer for r in right) else "no")


@pytest.mark.slow
def test_a_card(tmp_path, monkeypatch):
    judge = ModelJudge(ASKED, FakeEngine(reads))
    cases = labelled_answers()[:90]
    card = asyncio.run(judge_card(judge, cases))
    (m,) = card.measures
    assert m.kinds["in a sentence"][0] >= 9 and m.kinds["denied"][0] == 0
    assert set(m.baselines) == {"exact match", "answer length"}
    silent = asyncio.run(judge_card(ModelJudge(ASKED, FakeEngine("Hm.")), cases)).measures[0]
    assert silent.sensitivity[0] == 0 and silent.specificity[0] == silent.specificity[1]
    assert all(a.question for a in labelled_answers())


async def server_judges(request, body):
    "An OpenAI-compatible server whose model judges, and answers nothing else."
    text = body["messages"][-1]["content"]
    said = {"role": "assistant", "content": reads(text, None)}
    return web.json_response(
        {"choices": [{"index": 0, "message": said, "finish_reason": "stop"}], "usage": USAGE}
    )


@pytest.fixture
def server():
    with in_a_thread(Scripted(server_judges)) as server:
        yield server


def at(server, **more):
    price = {"input": 1.0, "output": 2.0}
    engine = {"name": "openai", "base_url": server.url, "stream": False, "cache": False, "price": price}
    return {"model": "judge-1", "engine": engine, **more}


def answers_like(data):
    "A script that gives right answers in a sentence to every second question."

    def reply(text, sampling):
        example = next(e for e in data.examples if f"Question: {e.question}\nAnswer:" in text[-400:])
        number = data.examples.index(example)
        return f" It is {example.answers[0]}." if number % 2 else " Nothing at all."

    return reply


def run(c, script=None):
    from llmforge.data import load_dataset

    engine = FakeEngine(script or answers_like(load_dataset(c.dataset)))
    store = Store()
    return Experiment(run_experiment(c, store, engine=engine, show=False), store)


@pytest.mark.slow
def test_a_run_that_a_server_judges(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_OUTPUTS", str(tmp_path))
    e = run(config(at(server)))
    score = e.estimate("judge_score")
    assert (score.value, score.n) == (0.5, 30) and e.estimate("judge_consistent").value == 1
    assert e.estimate("exact_match").value == 0
    judge = e.result["judge"]
    assert judge["tokens_in"] == 30 * 2 * USAGE["prompt_tokens"] and judge["cost"] > 0 and not judge["itself"]
    assert e.result["tokens_used"] < judge["tokens_in"], "what the judge reads is not the run's"
    shown = results_table(e)
    assert "15 say yes where exact match says no" in shown and "no metric card" in shown
    spans = [s for s in e.rows[0]["trace"]["children"] if s["kind"] == "evaluator"]
    assert spans[0]["name"] == "judge judge-1" and len(spans[0]["output"]) == 2
    assert len(server.bodies) == 60
    again = run(config(at(server)))
    assert again.id == e.id and len(server.bodies) == 60


@pytest.mark.slow
def test_its_card_is_shown_once_it_is_measured(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_OUTPUTS", str(tmp_path))
    c = config(at(server))
    measured = ModelJudge(c.metrics.model_judge, FakeEngine(reads))
    save_card(asyncio.run(judge_card(measured, labelled_answers()[:90])))
    assert "balanced accuracy" in results_table(run(c))


@pytest.mark.slow
def test_two_runs_are_compared_by_one_judge_only(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_OUTPUTS", str(tmp_path))
    a = run(config(at(server), name="a"))
    b = run(config(at(server), name="b"), lambda text, sampling: " None of it, and more words than that.")
    found = compare(a, b)
    assert found.differences["judge_score"].difference.value == -0.5
    other = run(config(at(server, rubric="Is it kind?"), name="c"))
    with pytest.raises(StoreError, match="different models or rubrics"):
        compare(a, other)
    assert compare(a, other, ["exact_match"]).differences


def test_check_tries_the_judge_and_says_what_it_costs(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_OUTPUTS", str(tmp_path))
    lines = list(checks(config(at(server))))
    assert lines[0] == "the judge's key: none is sent" and server.url in lines[1]
    assert "judge: a verdict in both orders on 5 of 5 answers" in lines
    assert lines[-1] == "the judge: 30 questions × 200 tokens in, 20 out ≈ $0.0072"
    assert len(server.bodies) == 10 and Store().experiments().empty
    assert list(checks(config(at(server)))) == lines and len(server.bodies) == 20  # not from the cache


@pytest.mark.slow
def test_a_run_begins_with_what_the_judge_will_cost(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLMFORGE_OUTPUTS", str(tmp_path))
    run_experiment(config(at(server)), Store(), engine=FakeEngine(" Paris"))
    said = capsys.readouterr().err
    assert "the judge: 30 questions × 200 tokens in, 20 out ≈ $0.0072" in said and len(server.bodies) == 60


def test_what_a_judge_cannot_do_is_said_before_anything_is_run(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_OUTPUTS", str(tmp_path))
    for judge, path in (
        ({"model": "m", "engine": "openai"}, r"metrics\.model_judge\.engine\.base_url: is missing"),
        ({"model": "m", "engine": "opnai"}, r"metrics\.model_judge\.engine"),
        ({"rubric": "r"}, r"metrics\.model_judge\.model: is missing"),
        ({"model": "m", "rubrics": "r"}, "did you mean 'rubric'"),
    ):
        with pytest.raises(ConfigError, match=path):
            run_experiment(config(judge), Store(), engine=FakeEngine(), show=False)
    assert Store().experiments().empty
    with pytest.raises(ConfigError, match="give one of them"):
        load_config({"experiment": {"name": "x", "metrics": {"judge": {"model": "m"}, "model_judge": {}}}})


def test_questions_without_answers_need_a_rubric():
    data = Dataset("open", (Example("1", "Why?", ()), Example("2", "Who?", ("b",))))
    with pytest.raises(ConfigError, match="1 of the 2 questions of 'open' have none"):
        check_judge(config({"model": "m"}), data)
    check_judge(config({"model": "m", "rubric": "Is it polite?"}), data)


def test_a_judge_that_fails_fails_the_question(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_OUTPUTS", str(tmp_path))

    async def poison(request, body):
        if "Kenya" in body["messages"][-1]["content"]:
            return web.json_response({"error": {"message": "no"}}, status=400)
        return await server_judges(request, body)

    with in_a_thread(Scripted(poison)) as server:
        data = tmp_path / "q.jsonl"
        texts = [("Where is Nairobi?", "Kenya"), ("Where is Lima?", "Peru")]
        data.write_text("\n".join(json.dumps({"question": q, "answer": a}) for q, a in texts))
        monkeypatch.setenv("LLMFORGE_DATA", str(tmp_path))
        c = config(
            at(server), dataset={"name": "q.jsonl", "exemplars": "none"}, method={"name": "naive", "shots": 0}
        )
        e = run(c, lambda text, sampling: " Peru")
    assert [r["error_type"] for r in e.rows] == [EngineError.__name__, None]
    assert e.rows[1]["scores"]["judge_score"] == 1


def test_the_id_holds_what_determines_verdicts():
    def id_of(**more):
        engine = {"name": "openai", "base_url": "https://example.org/v1", **more.pop("engine", {})}
        return experiment_id(config({"model": "m", "engine": engine, **more}), "data")

    plain = experiment_id(load_config({"experiment": experiment(None)}), "data")
    assert id_of() == id_of(engine={"concurrency": 3, "key_env": "MY_KEY", "timeout": 5})
    assert len({plain, id_of(), id_of(rubric="r"), id_of(max_tokens=9), id_of(engine={"api": "chat"})}) == 5


def test_a_stranger_reaches_no_further_by_a_judge():
    engine = {"name": "openai", "base_url": "http://169.254.169.254/v1"}
    with pytest.raises(ConfigError, match=r"metrics\.model_judge\.engine\.base_url"):
        check_stranger(config({"model": "m", "engine": engine}))
    with pytest.raises(ConfigError, match=r"metrics\.model_judge\.model\.name"):
        check_stranger(config({"model": "../../secret"}))
    check_stranger(config({"model": "m", "engine": {"name": "hf_api"}}))


def test_the_model_that_answers_can_judge_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_OUTPUTS", str(tmp_path))
    c = config({"model": "smollm2-135m-instruct", "engine": "fake"}, dataset={"limit": 4})
    e = run(c, lambda text, sampling: "Verdict: yes" if "by a rubric" in text else " Paris")
    assert e.result["judge"]["itself"] and "**It judged its own answers.**" in results_table(e)
    assert e.estimate("judge_score").value == 1


@pytest.mark.slow
def test_at_equal_length():
    "What longer answers gain is taken out: planted, and found again."
    rng = np.random.default_rng(0)
    longer = rng.integers(-40, 90, 400)
    gain = 0.1 + 0.004 * longer + rng.normal(0, 0.05, 400)
    found = difference_at_equal_length(gain, longer, [str(i) for i in range(400)])
    assert found.low < 0.1 < found.high and found.high - found.low < 0.02 and np.mean(gain) > 0.15
    assert difference_at_equal_length(gain[:9], longer[:9], list("abcdefghi")) is None
    assert difference_at_equal_length(gain, [3] * 400, [str(i) for i in range(400)]) is None


def test_its_engine_has_the_checks_of_any_other():
    with pytest.raises(ConfigError, match="metrics.model_judge.format: completion"):
        judge_config(
            config(
                {"model": "m", "engine": {"name": "openai", "base_url": "http://x/v1", "api": "completions"}}
            ).metrics.model_judge
        )
    assert judge_config(ASKED).sampling.max_tokens and Sampling()
