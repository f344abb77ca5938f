"""What goes wrong in one question is that question's failure, wherever it goes wrong: all else is answered.

The faults are the rows of the matrix, the places where they happen its columns."""

import asyncio
import sqlite3
import threading
from contextlib import closing, nullcontext

import numpy as np
import pytest
from test_hangs import Mute, config, generation, within

import llmforge.answer
import llmforge.retriever
import llmforge.runner
from llmforge.batching import FakeEngine
from llmforge.caching import CachedEngine
from llmforge.config import load_config
from llmforge.core import methods, metrics, retrievers, tools
from llmforge.data import load_dataset
from llmforge.engine import Sampling, prompt_text
from llmforge.runner import run_experiment
from llmforge.scorer import Judgement, Scorer
from llmforge.store import Store
from llmforge.tools import call_tool, tool
from llmforge.trace import span

pytestmark = pytest.mark.slow


class Own(BaseException):
    "Somebody's own, past all `except Exception`."


class Unprintable:
    "A value that raises when it is looked at."

    def __repr__(self):
        raise Own("no words")

    __str__ = __repr__


def deep(levels=5_000):
    value = []
    for _ in range(levels):
        value = [value]
    return value


def raising(error):
    def fault():
        raise error

    return fault


FAULTS = {
    "none": lambda: None,
    "a list": lambda: ["x"],
    "numpy": lambda: np.int64(7),
    "bytes": lambda: b"ok",
    "unprintable": Unprintable,
    "exception": raising(ValueError("mine")),
    "mute": raising(Mute()),
    "own": raising(Own("mine")),
    "cancelled": raising(asyncio.CancelledError()),
    "exit": raising(SystemExit(0)),
    "interrupt": raising(KeyboardInterrupt()),
    "generator exit": raising(GeneratorExit()),
    "stop iteration": raising(StopIteration()),
}


def first(c):
    return load_dataset(c.dataset).examples[0]


def ran(c, engine=None, failed=1):
    "The rows of a run, which ends in time and completes; the first is that of the faulty question."
    store = Store()
    id = within(lambda: run_experiment(c, store, engine or FakeEngine("ok"), show=False), 60)
    rows = store.rows(id)
    assert str(store.experiment(id).status) == "COMPLETED" and store.result(id)["n"] == len(rows) == 6
    assert [bool(r["error_type"]) for r in rows] == [True] * failed + [False] * (6 - failed)
    assert all(r["error"] for r in rows[:failed]) and store.result(id)["failed"] == failed
    return rows


class Plain:
    "An engine of one's own without any of ours below it."

    identity, native_tools = {"engine": "plain"}, False

    def __init__(self, fault, question):
        self.fault, self.question = fault, question

    async def generate(self, prompt, sampling):
        await asyncio.sleep(0)
        return self.fault() if self.question in prompt_text(prompt) else generation()

    def running(self):
        return nullcontext()

    def close(self):
        pass


@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_an_engine(fault):
    ran(config(), Plain(fault, first(config()).question))


@pytest.mark.parametrize(
    "field", ["text", "tokens_in", "latency_ms", "finish_reason", "logprobs", "tool_calls", "cost"]
)
@pytest.mark.parametrize("value", [np.int64(1), b"x", ["x"], float("nan"), -(10**400)], ids=str)
def test_a_field_of_a_generation(field, value):
    "Whatever it holds, all questions have a row."
    question, store = first(config()).question, Store()

    def fault():
        g = generation()
        object.__setattr__(g, field, value)
        return g

    id = within(lambda: run_experiment(config(), store, Plain(fault, question), show=False), 60)
    assert len(store.rows(id)) == 6 and [r["error_type"] for r in store.rows(id)][1:] == [None] * 5


async def in_itself(fault, context):
    return fault()


async def in_a_task(fault, context):
    async def work():
        return fault()

    return (await asyncio.gather(work()))[0]


async def in_a_thread(fault, context):
    return await asyncio.to_thread(fault)


@pytest.mark.parametrize("where", [in_itself, in_a_task, in_a_thread], ids=lambda f: f.__name__)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_a_method(fault, where, monkeypatch):
    ends_a_coroutine = fault is FAULTS["generator exit"] and where is not in_itself
    if ends_a_coroutine or (where is in_a_thread and fault is FAULTS["stop iteration"]):
        pytest.skip("no future of Python's own can hand these on")
    question = first(config()).question

    async def method(asked, context):
        return await where(fault, context) if asked == question else "ok"

    monkeypatch.setitem(methods._entries, "faulty", method)
    ran(config("faulty"))


def of_generations(context):
    context.generations.append(None)


def of_hits(context):
    context.hits.append("x")


def tool_without_time(context):
    with span("tool", "mine"):
        pass


def retriever_without_time(context):
    with span("retriever", "mine"):
        pass


def odd_attributes(context):
    with span("tool", "mine", object(), odd={1: np.float32(2), "nan": float("nan")}, work_ms="a while") as s:
        s.output = Unprintable()


def odd_spans(context):
    with span("tool", None) as s:
        s.children.append("no span")
        s.duration_ms = "long"


def deep_output(context):
    with span("tool", "mine", deep()) as s:
        s.output = deep()


def deep_trace(context, levels=400):
    with span("tool", f"level {levels}"):
        if levels:
            deep_trace(context, levels - 1)


MESSES = (
    of_generations,
    of_hits,
    tool_without_time,
    retriever_without_time,
    odd_attributes,
    odd_spans,
    deep_output,
    deep_trace,
)


@pytest.mark.parametrize("mess", MESSES, ids=lambda f: f.__name__)
def test_what_a_method_leaves_in_its_context(mess, monkeypatch):
    "Recorded as far as it can be: the question has a row, answered or failed, and the others are answered."
    question, store = first(config()).question, Store()

    async def method(asked, context):
        if asked == question:
            mess(context)
        return "ok"

    monkeypatch.setitem(methods._entries, "faulty", method)
    id = within(lambda: run_experiment(config("faulty"), store, FakeEngine("ok"), show=False), 60)
    assert len(store.rows(id)) == 6 and [r["error_type"] for r in store.rows(id)][1:] == [None] * 5


TEXTS = {
    "ten million": "x" * 10_000_000,
    "words": "x y " * 2_500_000,
    "nul": "a\0b",
    "surrogate": "a\ud800b",
    "escapes": "\x1b[31mred\u2028",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_an_answer_of_any_text(text, monkeypatch):
    "It is stored, with its length bounded, and so is the trace that has it, too."
    question = first(config()).question

    async def method(asked, context):
        with span("tool", "mine", text, text=text):
            return text if asked == question else "ok"

    monkeypatch.setitem(methods._entries, "faulty", method)
    row = ran(config("faulty"), failed=0)[0]
    assert len(row["answer"]) <= 100_000 and len(str(row["trace"])) <= 1_000_000


@pytest.mark.parametrize("in_thread", [True, False], ids=["function", "coroutine"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_a_tool(fault, in_thread, monkeypatch):
    "The model is told, and the question goes on."
    monkeypatch.setattr(tools, "_entries", dict(tools._entries))

    def function() -> str:
        "Do it."
        return fault()

    async def coroutine() -> str:
        "Do it."
        return fault()

    made, results = tool(function if in_thread else coroutine), []

    async def method(asked, context):
        results.append(await call_tool(made.name, {}, context))
        return "ok"

    monkeypatch.setitem(methods._entries, "faulty", method)
    ran(config("faulty"), failed=0)
    assert len(results) == 6 and all(r.failed and r.text.startswith("error: ") for r in results)


def with_metric(fault, monkeypatch):
    "A config whose metric fails on one of the answers."

    def metric(prediction, answers, style):
        return fault() if prediction == "bad" else 1.0

    monkeypatch.setitem(metrics._entries, "faulty", metric)
    return config().model_copy(update={"metrics": config().metrics.model_copy(update={"extra": ("faulty",)})})


def replies(question):
    return lambda text, sampling: "bad" if question in text else "ok"


@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_a_metric(fault, monkeypatch):
    "It is named, and what was answered is kept."
    c = with_metric(fault, monkeypatch)
    (row, *_) = ran(c, FakeEngine(replies(first(c).question)))
    assert row["answer"] == "bad" and "metric 'faulty'" in row["error"] and not row["correct"]


@pytest.fixture
def hurried(monkeypatch):
    "Limits in time are short."
    for worker in (llmforge.answer._own_metrics, llmforge.answer._judges):
        monkeypatch.setattr(worker, "limit", 0.2)
    monkeypatch.setattr(llmforge.retriever, "SEARCH_LIMIT", 0.2)


def hanging(free):
    return lambda: free.wait(60)


def test_a_metric_that_hangs(hurried, monkeypatch):
    free = threading.Event()
    c = with_metric(hanging(free), monkeypatch)
    (row, *_) = ran(c, FakeEngine(replies(first(c).question)))
    assert "metric 'faulty': " in row["error"] and "no result within 0.2 s" in row["error"]
    free.set()


def with_retriever(fault, monkeypatch, **metrics):
    "A config whose retriever fails on the first question."
    question = first(config()).question

    def search(searcher, query, k):
        return fault() if query == question else [(0, 1.0)]

    monkeypatch.setitem(retrievers._entries, "faulty", search)
    settings = {"name": "faulty", "engine": {"name": "fake"}, "method": {"shots": 0}, "metrics": metrics}
    data = {"dataset": {"name": "meridia", "limit": 6}, "retrieval": {"name": "faulty", "top_k": 1}}
    return load_config({"experiment": settings | data})


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_a_retriever(fault, monkeypatch):
    if fault is FAULTS["generator exit"]:
        pytest.skip("no future of Python's own can hand it on")
    ran(with_retriever(fault, monkeypatch))


@pytest.mark.slow
def test_a_retriever_that_hangs(hurried, monkeypatch):
    free = threading.Event()
    (row, *_) = ran(with_retriever(hanging(free), monkeypatch))
    assert "retriever: no result within 0.2 s" in row["error"]
    free.set()


@pytest.mark.slow
@pytest.mark.parametrize("fault", [*FAULTS.values(), None], ids=[*FAULTS, "hangs"])
def test_a_judge(fault, hurried, monkeypatch):
    "What was answered is kept."
    if fault is FAULTS["generator exit"]:
        pytest.skip("no future of Python's own can hand it on")
    free, question = threading.Event(), first(config()).question
    fault = fault or hanging(free)

    class Judge(Scorer):
        name, rate_name, version = "faulty", "faulty_rate", "1"

        def judge(self, asked, answer, passages):
            return fault() if asked == question else Judgement((), {})

    c = with_retriever(lambda: [(0, 1.0)], monkeypatch)
    monkeypatch.setattr(llmforge.runner, "make_scorer", lambda judge, threshold: Judge())
    (row, *_) = ran(c)
    assert row["answer"] == "ok"
    free.set()


def test_a_cache_that_is_locked_is_waited_for(outputs):
    engine = CachedEngine(FakeEngine("ok"))
    engine._db.execute("PRAGMA busy_timeout=10")
    with closing(
        sqlite3.connect(outputs / "generations.db", isolation_level=None, check_same_thread=False)
    ) as other:
        other.execute("BEGIN IMMEDIATE")

        async def ask():
            asyncio.get_running_loop().call_later(0.5, other.execute, "COMMIT")
            return await engine.generate("x", Sampling())

        assert within(lambda: asyncio.run(ask())).text == "ok"
