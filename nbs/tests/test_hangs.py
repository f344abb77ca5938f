"""What would leave somebody waiting for ever has an end: each of these runs has a hard limit in time."""

import asyncio
import gc
import re
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from llmforge.answer import answer_one
from llmforge.batching import FakeEngine
from llmforge.caching import CachedEngine, RetryingEngine
from llmforge.config import load_config
from llmforge.core import EngineError, EngineStuck, LlmForgeError, methods, metrics, tools
from llmforge.data import load_dataset
from llmforge.engine import Generation, Sampling
from llmforge.methods import Context
from llmforge.runner import run_experiment
from llmforge.store import Store
from llmforge.tools import tool
from llmforge.workers import in_future, run_loop

LIMIT = 20  # seconds: what takes longer hangs


def within(f, seconds=LIMIT):
    "The result of a call, which runs in a thread of its own; fails where it hangs."
    results = []

    def work():
        try:
            results.append((f(), None))
        except BaseException as e:
            results.append((None, e))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    result, error = results[0]
    if error:
        raise error
    return result


def process(code, *args, seconds=60):
    "Run code in a process of its own; the test fails where that hangs."
    lines = [sys.executable, "-c", textwrap.dedent(code), *args]
    return subprocess.run(lines, capture_output=True, text=True, timeout=seconds)


def config(method="naive", **engine):
    return load_config(
        {
            "experiment": {
                "name": "hangs",
                "engine": {"name": "fake", **engine},
                "dataset": {"name": "meridia", "limit": 6},
                "method": {"name": method, "shots": 0},
            }
        }
    )


class Mute(Exception):
    def __str__(self):
        raise ValueError("no words")


class MuteEngineError(EngineError):
    def __str__(self):
        raise ValueError("no words")


def generation(**changed):
    return Generation(**{**vars(Generation("ok", 1, 1, 0.0, 0.0, "stop")), **changed})


def raises(error):
    def raise_it(good):
        raise error

    return raise_it


WRONG = {  # what an engine makes of the right results -> what its items are told
    "none": (lambda good: None, "generate_batch gave NoneType; must be: a list of"),
    "too few": (lambda good: good[1:], "results; must be: a list of"),
    "too many": (lambda good: good + good, "results; must be: a list of"),
    "a text": (lambda good: "ok", "generate_batch gave str; must be"),
    "texts": (lambda good: ["ok" for _ in good], "gave str; must be: a Generation"),
    "nones": (lambda good: [None for _ in good], "gave NoneType; must be: a Generation"),
    "numpy": (
        lambda good: [generation(tokens_in=np.int64(3)) for _ in good],
        "tokens_in is of type numpy.int64",
    ),
    "tokens below 0": (
        lambda good: [generation(tokens_in=-5) for _ in good],
        "tokens_in is NaN, infinite, below 0 or",
    ),
    "a price below 0": (lambda good: [generation(cost=-0.5) for _ in good], "cost is NaN, infinite, below 0"),
    "a price in words": (
        lambda good: [generation(cost="free") for _ in good],
        "cost is of type builtins.str; must be: float or int or None",
    ),
    "log-probabilities in words": (
        lambda good: [generation(logprobs=("high",)) for _ in good],
        "cannot be stored: its logprobs are not all numbers",
    ),
    "attempts in words": (
        lambda good: [generation(attempts="one") for _ in good],
        "attempts is of type builtins.str; must be: int",
    ),
    "a call of nothing": (
        lambda good: [generation(tool_calls=({"name": None, "arguments": {}},)) for _ in good],
        "cannot be stored: a tool's name is no text",
    ),
    "no text": (lambda good: [generation(text=None) for _ in good], "text is of type builtins.NoneType"),
    "mute": (raises(Mute()), "generation failed: Mute: .asked for its text, it raised ValueError"),
    "mute engine error": (raises(MuteEngineError("x")), "asked for its text"),
    "returned": (lambda good: [SystemExit("x") for _ in good], "generation failed: SystemExit: x"),
    "exit": (raises(SystemExit(3)), "generation failed: SystemExit: 3"),
    "interrupt": (raises(KeyboardInterrupt()), "generation failed: KeyboardInterrupt"),
    "cancelled": (raises(asyncio.CancelledError()), "generation failed: CancelledError"),
    "stop iteration": (raises(StopIteration()), "generation failed: StopIteration"),
}


class Wrong(FakeEngine):
    "An engine that makes something else of its results."

    def __init__(self, makes, **kwargs):
        super().__init__("ok", **kwargs)
        self.makes = makes

    def generate_batch(self, requests):
        return self.makes(super().generate_batch(requests))


@pytest.mark.parametrize("name", WRONG)
def test_whatever_an_engine_gives_is_an_error_of_its_items(name):
    makes, told = WRONG[name]
    run = lambda: run_experiment(config(), Store(), Wrong(makes, batch_size=3), show=False)
    id = within(run)
    rows = Store().rows(id)
    assert len(rows) == 6 and {r["error_type"] for r in rows} <= {"EngineError", "MuteEngineError"}
    assert all(re.search(told, r["error"]) for r in rows), rows[0]["error"]


def test_one_bad_item_is_nobody_elses_error():
    "Also where the others' generations are committed to the cache in the same turn."

    def makes(good):
        return [generation(tokens_out=np.int64(1)), *good[1:-1], generation(logprobs=(np.float32(1),))]

    engine = CachedEngine(RetryingEngine(Wrong(makes)))

    async def ask():
        asked = (engine.generate(f"prompt {i}", Sampling()) for i in range(4))
        return await asyncio.gather(*asked, return_exceptions=True)

    first, *middle, last = within(lambda: asyncio.run(ask()))
    assert [g.text for g in middle] == ["ok", "ok"]
    assert isinstance(first, EngineError) and "tokens_out is of type numpy.int64" in str(first)
    assert isinstance(last, EngineError) and "cannot be stored" in str(last)


def test_a_cache_that_cannot_be_written_tells_all_who_wait(monkeypatch):
    engine = CachedEngine(FakeEngine("ok"))
    monkeypatch.setattr(engine, "_insert", raises(Mute()))
    with pytest.raises(EngineError, match="cannot write the generation cache: .asked for its text"):
        within(lambda: asyncio.run(engine.generate("x", Sampling())))


def test_a_closed_engine_says_so():
    engine = FakeEngine("ok")
    assert within(lambda: asyncio.run(engine.generate("x", Sampling()))).text == "ok"
    engine.close()
    with pytest.raises(EngineError, match="is closed and does no more work"):
        within(lambda: asyncio.run(engine.generate("x", Sampling())))


@pytest.mark.slow
def test_a_stuck_engine_ends_the_run_with_a_sentence():
    free = threading.Event()

    class Stuck(FakeEngine):
        def generate_batch(self, requests):
            if self.batches:
                free.wait(10 * LIMIT)
            return super().generate_batch(requests)

    engine = Stuck("ok", batch_size=2, timeout=0.3)
    with pytest.raises(EngineStuck, match=r"within 0.3 s \(engine.timeout\).*run again"):
        within(lambda: run_experiment(config(), Store(), engine, show=False))
    (id,) = Store().experiments().id
    assert str(Store().experiment(id).status) == "FAILED" and "EngineStuck" in Store().experiment(id).error
    errors = [r["error_type"] for r in Store().rows(id)]
    assert errors.count(None) == 2 and {*errors} == {None, "EngineStuck"}  # what was done before is kept
    free.set()
    again = within(lambda: run_experiment(config(), Store(), FakeEngine("ok"), show=False))
    assert str(Store().experiment(again).status) == "COMPLETED" and len(Store().rows(again)) == 6


def test_all_who_wait_for_a_stuck_engine_are_told():
    engine = FakeEngine("ok", batch_size=1, delay=2 * LIMIT, timeout=0.1)

    async def ask():
        asked = (engine.generate(f"prompt {i}", Sampling()) for i in range(3))
        first = await asyncio.gather(*asked, return_exceptions=True)
        return [*first, *await asyncio.gather(engine.generate("late", Sampling()), return_exceptions=True)]

    assert [type(e) for e in within(lambda: asyncio.run(ask()))] == [EngineStuck] * 4
    within(engine.close)  # it waits for nobody


@pytest.mark.slow
def test_a_stuck_thread_keeps_no_process_from_ending():
    p = process("""
        import asyncio, threading
        from llmforge.batching import FakeEngine
        from llmforge.core import EngineStuck
        from llmforge.engine import Sampling

        class Stuck(FakeEngine):
            def generate_batch(self, requests):
                threading.Event().wait()

        engine = Stuck(timeout=0.1)
        try:
            asyncio.run(engine.generate("x", Sampling()))
        except EngineStuck:
            engine.close()
            print("told")
    """)
    assert (p.returncode, p.stdout) == (0, "told\n"), p.stderr


# what is raised by the code of others, and what by the user


class Leaves(BaseException):
    def __str__(self):
        raise SystemExit(3)


BASE = [
    SystemExit("bye"),
    KeyboardInterrupt("mine"),
    asyncio.CancelledError("mine"),
    StopIteration(),
    Mute(),
    Leaves(),
]


async def cancels_itself(context):
    asyncio.current_task().cancel()
    await asyncio.sleep(0)


async def is_cancelled_while_it_asks(context):
    asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
    await context.engine.generate("Is it late?", Sampling())


async def cancels_itself_and_answers(context):
    asyncio.current_task().cancel()


def named(error):
    return type(error).__name__


@pytest.mark.parametrize("error", BASE, ids=named)
def test_what_a_method_raises_is_its_items_failure(error, monkeypatch):
    async def method(question, context):
        if question == first.question:
            raise error
        return "ok"

    first = load_dataset(config().dataset).examples[0]
    monkeypatch.setitem(methods._entries, "raising", method)
    id = within(lambda: run_experiment(config("raising"), Store(), FakeEngine("ok"), show=False))
    failed = [r["error_type"] for r in Store().rows(id)]
    name = "RuntimeError" if isinstance(error, StopIteration) else named(error)  # as Python has it
    assert failed == [name] + [None] * 5


@pytest.mark.parametrize("end", [cancels_itself, is_cancelled_while_it_asks, cancels_itself_and_answers])
def test_a_method_that_cancels_its_own_task_fails_alone(end, monkeypatch):
    async def method(question, context):
        if question == first.question:
            await end(context)
        return "ok"

    first = load_dataset(config().dataset).examples[0]
    monkeypatch.setitem(methods._entries, "cancelling", method)
    id = within(
        lambda: run_experiment(config("cancelling"), Store(), FakeEngine("ok", delay=0.05), show=False)
    )
    assert [r["error_type"] for r in Store().rows(id)] == ["CancelledError"] + [None] * 5


@pytest.mark.parametrize("part", ("generations", "hits", "config", "example", "choices"))
@pytest.mark.parametrize("left", (None, 5, "gone"))
def test_what_a_method_does_to_its_context_is_its_items_failure(part, left, monkeypatch):
    async def method(question, context):
        answer = (await context.engine.generate(question, Sampling())).text
        if question == first.question:
            delattr(context, part) if left == "gone" else setattr(context, part, left)
        return answer

    first = load_dataset(config().dataset).examples[0]
    monkeypatch.setitem(methods._entries, "changing", method)
    id = within(lambda: run_experiment(config("changing"), Store(), FakeEngine("ok"), show=False))
    rows = Store().rows(id)
    assert len(rows) == 6 and all(r["error_type"] is None for r in rows[1:])


@pytest.mark.parametrize("error", BASE, ids=named)
@pytest.mark.parametrize("in_thread", [True, False], ids=["function", "coroutine"])
def test_what_a_tool_raises_is_a_failed_result(error, in_thread, monkeypatch):
    monkeypatch.setattr(tools, "_entries", dict(tools._entries))

    def function() -> str:
        "Raise."
        raise error

    async def coroutine() -> str:
        "Raise."
        raise error

    made = tool(function if in_thread else coroutine)
    result = within(lambda: asyncio.run(made.execute()))
    assert result.failed and result.text.startswith("error: ")


@pytest.mark.parametrize("error", BASE, ids=named)
def test_what_a_metric_raises_names_the_metric(error, monkeypatch):
    def metric(prediction, answers, style):
        raise error

    monkeypatch.setitem(metrics._entries, "raising", metric)
    changed = {"metrics": config().metrics.model_copy(update={"extra": ("raising",)})}
    own = config().model_copy(update=changed)
    with pytest.raises(LlmForgeError, match=f"metric 'raising' raised {named(error)}"):
        within(lambda: run_experiment(own, Store(), FakeEngine("ok"), show=False))


def test_a_stop_iteration_in_a_thread_reaches_who_waits():
    "No future can hold one: the search of an own retriever, `next` of nothing, would hang."

    async def ask():
        return await asyncio.get_running_loop().run_in_executor(None, in_future, next, iter(()))

    with pytest.raises(RuntimeError, match="next raised StopIteration"):
        within(lambda: asyncio.run(ask()))


def test_a_cancellation_from_outside_still_ends_an_example():
    async def main():
        example = load_dataset(config().dataset).examples[0]
        context = Context(config(), FakeEngine("ok", delay=1))
        task = asyncio.create_task(answer_one(example, 0, context))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    within(lambda: asyncio.run(main()))


@pytest.mark.slow
@pytest.mark.parametrize("interrupts, at_work, stored", [(1, 2, {4}), (2, 2, {2}), (2, 4, {2, 3, 4})])
def test_the_users_interrupt_ends_a_run_and_the_same_call_goes_on(interrupts, at_work, stored, tmp_path):
    "The first waits for the questions at work, the second drops them: they have no rows, so are asked again."
    code = """
        import os, signal, time
        from llmforge.batching import FakeEngine
        from llmforge.config import load_config
        from llmforge.runner import run_experiment
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored below a shell's background job

        class Interrupted(FakeEngine):
            def generate_batch(self, requests):
                if len(self.batches) == 1:
                    for _ in range(INTERRUPTS):
                        os.kill(os.getpid(), signal.SIGINT)
                        time.sleep(0.2)
                return super().generate_batch(requests)

        names = {"name": "hangs", "engine": {"name": "fake", "concurrency": AT_WORK},
                 "dataset": {"name": "meridia", "limit": 6}, "method": {"shots": 0}}
        run_experiment(load_config({"experiment": names}), engine=Interrupted("ok", batch_size=2), show=False)
    """
    p = process(code.replace("INTERRUPTS", str(interrupts)).replace("AT_WORK", str(at_work)))
    assert p.returncode != 0 and "KeyboardInterrupt" in p.stderr, p.stderr
    assert "interrupt again to drop them" in p.stderr
    (id,) = Store().experiments().id
    assert str(Store().experiment(id).status) not in ("FAILED", "COMPLETED")
    assert len(rows := Store().rows(id)) in stored and {r["error_type"] for r in rows} == {None}
    own = config(concurrency=at_work)
    assert within(lambda: run_experiment(own, Store(), FakeEngine("ok"), show=False)) == id
    assert [r["error_type"] for r in Store().rows(id)] == [None] * 6


@pytest.mark.slow
def test_a_second_interrupt_leaves_an_engine_that_is_stuck():
    "Without a limit in time as well."
    lines = """
        import os, signal, threading, time
        from llmforge.workers import run_loop
        import asyncio
        signal.signal(signal.SIGINT, signal.default_int_handler)

        async def stuck():
            threading.Event().wait()

        def interrupt():
            for _ in range(2):
                time.sleep(0.3)
                os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        stop = threading.Event()
        try:
            run_loop(stuck(), stop)
        except KeyboardInterrupt:
            print("left", stop.is_set())
    """
    p = process(lines)
    assert (p.returncode, p.stdout) == (0, "left True\n"), p.stderr


@pytest.mark.slow
def test_an_interrupt_leaves_a_measurement_behind():
    "It runs in a thread of its own, as it does where a notebook has an event loop."
    lines = """
        import asyncio, os, signal, threading
        from llmforge.workers import in_own_thread
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            in_own_thread(asyncio.run, asyncio.sleep(3600))
        except KeyboardInterrupt:
            print("left")
    """
    p = process(lines)
    assert (p.returncode, p.stdout) == (0, "left\n"), p.stderr


def test_the_loop_passes_errors_on():
    async def fails():
        raise ValueError("plain")

    with pytest.raises(ValueError, match="plain"):
        within(lambda: run_loop(fails(), threading.Event()))


def test_a_task_that_never_began_is_not_told_of(recwarn):
    "A run that ends the moment it begins a batch: nothing but its own error is said."

    async def main():
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: loop.create_task(asyncio.sleep(1)))  # made as the loop stops
        raise ValueError("over")

    with pytest.raises(ValueError, match="over"):
        run_loop(main(), threading.Event())
    gc.collect()
    assert not [w for w in recwarn if "never awaited" in str(w.message)]


def test_no_batch_begins_for_those_who_were_cancelled():
    "While a run ends, its loop still turns."

    async def main():
        engine = FakeEngine("yes", batch_size=2)
        with engine.running():
            asked = [asyncio.create_task(engine.generate(f"{i}?", Sampling())) for i in range(2)]
            while len(engine._queue) < 2:
                await asyncio.sleep(0)
            for task in asked:
                task.cancel()
            engine._flush()
            assert engine._task is None and not engine._queue
        await asyncio.gather(*asked, return_exceptions=True)
        return engine.batches

    assert asyncio.run(main()) == []
