"""The engine's promises that a notebook page cannot show: several processes, SIGKILL, cancellation,
arrival order."""

import asyncio
import random
import signal
import sqlite3
import time

import executing
import pytest

from llmforge.batching import FakeEngine, Fault
from llmforge.caching import CachedEngine, RetryingEngine, generation_key
from llmforge.core import EngineError
from llmforge.engine import Generation, Message, Sampling, ToolCall, ToolMessage, parse_tool_calls

GREEDY = Sampling()


async def one(engine, prompt, steps=1, before=None):
    "An example of so many generations, after something else it has to do."
    with engine.running():
        if before is not None:
            await before
        return [(await engine.generate(f"{prompt}/{step}", GREEDY)).text for step in range(steps)]


def gather(*coroutines, **kwargs):
    async def main():
        return await asyncio.wait_for(asyncio.gather(*coroutines, **kwargs), 20)

    return asyncio.run(main())


# batching


@pytest.mark.parametrize(
    "examples, size, batches", [(1, 4, [1]), (4, 4, [4]), (6, 4, [4, 2]), (9, 4, [4, 4, 1])]
)
def test_a_full_batch_or_everybody_waiting(examples, size, batches):
    engine = FakeEngine("ok", batch_size=size)
    gather(*(one(engine, i) for i in range(examples)))
    assert engine.batches == batches


def test_the_queue_waits_for_an_example_that_is_busy_elsewhere():
    engine = FakeEngine("ok")
    gather(*(one(engine, i, before=asyncio.sleep(0.05 * i)) for i in range(4)))
    assert engine.batches == [4]


def test_steps_are_batched_across_examples():
    engine = FakeEngine("ok")
    gather(*(one(engine, i, steps=1 + i % 3) for i in range(9)))
    assert engine.batches == [9, 6, 3]


def test_batches_repeat_whatever_the_clock_says():
    def run(delay):
        engine = FakeEngine("ok", batch_size=4, delay=delay)
        gather(*(one(engine, i, steps=1 + i % 3) for i in range(7)))
        return [p for p, _ in engine.calls]

    assert run(0) == run(0.02)


def test_an_example_may_ask_for_several_things_at_once():
    async def samples(engine):
        with engine.running():
            return await asyncio.gather(*(engine.generate(f"sample {i}", GREEDY) for i in range(3)))

    engine = FakeEngine("ok")
    gather(samples(engine), one(engine, "x"))
    assert engine.batches == [4]


def test_generate_needs_no_running_block_and_the_engine_no_single_loop():
    engine = FakeEngine("ok")
    for _ in range(2):
        assert gather(engine.generate("x", GREEDY))[0].text == "ok"
    assert engine.batches == [1, 1]


def test_queue_time_is_not_latency():
    engine = FakeEngine("ok", delay=0.1, batch_size=1)
    first, second = gather(engine.generate("a", GREEDY), engine.generate("b", GREEDY))
    assert first.latency_ms == second.latency_ms == 100
    assert first.queue_ms < 50 < 90 < second.queue_ms


def test_generations_name_their_batch():
    "Two requests of one batch share its time; no other engine, and no other start of this one, has its name."
    engines = [FakeEngine("ok", batch_size=2) for _ in range(2)]
    named = [[g.batch for g in gather(*(e.generate(p, GREEDY) for p in "abc"))] for e in engines]
    for a, b, c in named:
        assert a == b != c
    assert not set(named[0]) & set(named[1]) and None not in named[0]


def lengths_of(sizes, **kwargs):
    "The lengths in each batch, for prompts of these lengths that all wait at once."
    engine = FakeEngine("ok", **kwargs)
    gather(*(engine.generate("x" * n, GREEDY) for n in sizes))
    lengths = iter([len(p) for p, _ in engine.calls])
    return [[next(lengths) for _ in range(n)] for n in engine.batches]


def test_a_batch_is_the_oldest_and_those_nearest_to_it_in_length():
    assert lengths_of([9, 1, 8, 2, 9, 3], batch_size=3) == [[9, 8, 9], [1, 2, 3]]
    assert lengths_of([5] * 5, batch_size=2) == [[5, 5], [5, 5], [5]]  # of equals, the first to come


def test_nobody_waits_for_ever_because_of_its_length():
    "One long prompt among ever new short ones is in the first batch after it is the oldest."
    engine, places = FakeEngine("ok", batch_size=2), []

    async def short(i):
        with engine.running():
            for step in range(9):
                await engine.generate(f"{i}{step}", GREEDY)

    async def long():
        with engine.running():
            await engine.generate("x" * 900, GREEDY)
            places.append(len(engine.batches))

    gather(*(short(i) for i in range(3)), long(), *(short(i) for i in range(3, 6)))
    assert places and places[0] <= 3 and sum(engine.batches) == 6 * 9 + 1


def test_texts_do_not_depend_on_what_a_batch_is_made_of():
    prompts = [f"{random.Random(i).randint(1, 10**9)}" * (1 + i % 5) for i in range(24)]

    def texts(size):
        engine = FakeEngine(lambda text, s: f" {len(text)} {text[:3]}", batch_size=size)
        return [g.text for g in gather(*(engine.generate(p, GREEDY) for p in prompts))]

    assert texts(1) == texts(4) == texts(24)


def test_concurrency_is_the_engines_unless_it_is_asked_for():
    assert FakeEngine(batch_size=4).concurrency == 16
    assert CachedEngine(RetryingEngine(FakeEngine(batch_size=2))).concurrency == 8


@pytest.mark.parametrize("asked, at_work", [(None, 8), (1, 1), (5, 5)])
def test_so_many_questions_are_at_work(asked, at_work):
    from llmforge.config import load_config
    from llmforge.runner import run_experiment

    seen = []

    class Watched(FakeEngine):
        def generate_batch(self, requests):
            seen.append(len(self._examples))
            return super().generate_batch(requests)

    experiment = {
        "name": "work",
        "engine": {"name": "fake", **({"concurrency": asked} if asked else {})},
        "dataset": {"name": "meridia", "limit": 20},
        "method": {"shots": 0},
    }
    run_experiment(load_config({"experiment": experiment}), engine=Watched(batch_size=2), show=False)
    assert max(seen) == at_work


# cancellation and failure


def test_cancelling_a_waiting_request_frees_the_others():
    async def main():
        engine = FakeEngine("ok")

        async def never():
            with engine.running():
                await asyncio.sleep(60)

        waiting, gone, stuck = (asyncio.create_task(c) for c in [one(engine, "a"), one(engine, "b"), never()])
        await asyncio.sleep(0.02)
        gone.cancel()
        await asyncio.sleep(0.02)
        assert not waiting.done()
        stuck.cancel()
        assert await asyncio.wait_for(waiting, 5) == ["ok"]
        assert [p for p, _ in engine.calls] == ["a/0"]

    asyncio.run(main())


def test_cancelling_a_request_in_a_batch_harms_nobody():
    async def main():
        engine = FakeEngine("ok", delay=0.1)
        tasks = [asyncio.create_task(one(engine, i, steps=2)) for i in range(3)]
        await asyncio.sleep(0.05)
        tasks[1].cancel()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert isinstance(results[1], asyncio.CancelledError) and results[0] == results[2] == ["ok", "ok"]
        assert engine.batches == [3, 2]

    asyncio.run(main())


def test_a_request_in_error_fails_alone_and_a_broken_batch_only_itself():
    engine = FakeEngine("ok", faults=[Fault(pattern="^1/")])
    results = gather(*(one(engine, i) for i in range(3)), return_exceptions=True)
    assert results[0] == results[2] == ["ok"] and isinstance(results[1], EngineError)

    class Breaks(FakeEngine):
        def generate_batch(self, requests):
            if len(self.batches) == 1:
                self.batches.append(0)
                raise ValueError("shape mismatch")
            return super().generate_batch(requests)

    engine = Breaks("ok", batch_size=2)
    results = gather(*(one(engine, i) for i in range(6)), return_exceptions=True)
    assert [isinstance(r, EngineError) for r in results] == [False, False, True, True, False, False]
    assert "ValueError: shape mismatch" in str(results[2]) and not results[2].transient


# retries


def test_transient_errors_are_retried_and_permanent_ones_are_not():
    engine = FakeEngine("ok", faults=[Fault("bad"), Fault(r"\d", transient=True, times=2)])
    results = gather(
        *(one(RetryingEngine(engine, pause=0.01), p) for p in ["good", "bad", "also"]), return_exceptions=True
    )
    assert results[0] == results[2] == ["ok"] and "injected fault" in str(results[1])
    calls = [p for p, _ in engine.calls]
    assert (calls.count("good/0"), calls.count("bad/0")) == (3, 1)


def test_retries_are_bounded_and_spaced():
    engine, start = FakeEngine(faults=[Fault(transient=True)]), time.monotonic()
    with pytest.raises(EngineError, match="gave up after 3 attempts: injected fault") as e:
        gather(RetryingEngine(engine, attempts=3, pause=0.05).generate("x", GREEDY))
    assert e.value.transient and len(engine.calls) == 3 and time.monotonic() - start >= 0.15


# records


@pytest.mark.parametrize(
    "bad",
    [
        dict(temperature=-1),
        dict(top_p=0),
        dict(top_p=1.1),
        dict(max_tokens=0),
        dict(stop=("a", "")),
        dict(choices=("a", "")),
    ],
)
def test_bad_sampling_is_refused(bad):
    with pytest.raises(EngineError, match="bad sampling"):
        Sampling(**bad)


def test_the_key_holds_everything_and_nothing_else():
    base = dict(identity={"model": "m"}, prompt="p", sampling=Sampling(temperature=0.5))
    others = [
        dict(identity={"model": "n"}),
        dict(identity={"model": "m", "revision": "1"}),
        dict(prompt="q"),
        dict(prompt=(Message("user", "p"),)),
        dict(prompt=(Message("system", "p"),)),
        *[
            dict(sampling=s)
            for s in [
                Sampling(temperature=0.6),
                Sampling(temperature=0.5, seed=1),
                Sampling(temperature=0.5, top_p=0.9),
                Sampling(temperature=0.5, max_tokens=33),
                Sampling(temperature=0.5, stop=("x",)),
                Sampling(),
            ]
        ],
    ]
    assert len({generation_key(**base), *(generation_key(**{**base, **o}) for o in others)}) == 1 + len(
        others
    )
    assert generation_key({}, "p", Sampling(seed=1, top_p=0.5)) == generation_key({}, "p", Sampling())


def test_keys_of_requests_without_choices_are_what_they_were():
    assert (
        generation_key({"engine": "fake"}, "hi", Sampling())
        == "a238ee5d7827c7b83493620c6eb5240649acb09e44a5a3fbd1d9aaa053bb4a74"
    )
    chat = (Message("user", "p"),)
    assert (
        generation_key({"engine": "fake"}, chat, Sampling(temperature=0.5, stop=("x", "y"), seed=3))
        == "17ee520c94761d6ffd904ace0074532e6321f3e50681c2125655f4304360d480"
    )


def test_the_key_of_choices_holds_the_choices_and_their_order_only():
    key = lambda *choices, **more: generation_key({}, "p", Sampling(choices=choices, **more))
    assert key("a", "b") == key("a", "b", temperature=1.0, top_p=0.5, seed=9, max_tokens=3, stop=("x",))
    assert len({key("a", "b"), key("b", "a"), key("a"), key("ab"), generation_key({}, "p", Sampling())}) == 5


# choices


def test_the_reply_of_a_script_names_the_choice():
    choices = (" calculator", " search", " search again", " finish")

    def ask(reply):
        return gather(
            FakeEngine(reply).generate("Action:", Sampling(choices=choices, stop=" ", max_tokens=1))
        )[0]

    for reply, best in [
        (" finish", 3),
        (" search", 1),
        (" search again[x]", 2),
        (lambda text, sampling: [-3, -1.5, -2, -1.5], 1),
        ([[-9, -9, -9, -1]], 3),
    ]:
        g = ask(reply)
        assert (
            g.text == choices[best]
            and len(g.logprobs) == 4
            and g.logprobs[best] == max(g.logprobs)
            and (g.tokens_in, g.tokens_out, g.finish_reason) == (6, 0, "stop")
        )
    assert ask(" finish").logprobs == (-10.0, -10.0, -10.0, 0.0)
    with pytest.raises(EngineError, match="begins like none of the choices"):
        ask("nothing")
    with pytest.raises(EngineError, match="generation failed: ValueError"):
        ask(lambda *_: [-1.0])


def test_choices_pass_through_retries_and_cache_and_are_batched(tmp_path):
    fake = FakeEngine(" yes", faults=[Fault("^a", transient=True, times=1)])
    engine = CachedEngine(RetryingEngine(fake, pause=0), tmp_path / "g.db")

    async def ask(p, *choices):
        with engine.running():
            return await engine.generate(p, Sampling(choices=choices))

    first = gather(*(ask(p, " no", " yes") for p in "abc"))
    assert sorted(fake.batches) == [1, 3] and [g.logprobs for g in first] == [(-10.0, 0.0)] * 3
    again = gather(*(ask(p, " no", " yes") for p in "abc"))
    assert all(g.cached for g in again) and [(g.text, g.logprobs, g.tokens_in) for g in again] == [
        (g.text, g.logprobs, g.tokens_in) for g in first
    ]
    assert not gather(ask("a", " yes", " no"))[0].cached


def test_generations_stored_before_there_were_logprobs_are_read(tmp_path):
    engine = CachedEngine(FakeEngine("never asked"), tmp_path / "g.db")
    old = (
        '{"text": "old", "tokens_in": 1, "tokens_out": 1, "latency_ms": 2.0, "queue_ms": 0.5, '
        '"finish_reason": "stop", "cached": false}'
    )
    engine._db.execute(
        "INSERT INTO generations VALUES (?, ?)", [generation_key(engine.identity, "x", GREEDY), old]
    )
    assert gather(engine.generate("x", GREEDY))[0] == Generation("old", 1, 1, 2.0, 0.5, "stop", cached=True)


SOUND = (
    '{"text": "a", "tokens_in": 1, "tokens_out": 1, "latency_ms": 0, "queue_ms": 0, "finish_reason": "stop"}'
)


@pytest.mark.parametrize(
    "damage",
    [
        *(
            "",
            "{",
            "null",
            "[1]",
            '"x"',
            "{}",
            '{"text": "o"',
            '{"text": 5}',
            '{"text": null}',
            '{"text": "a", "b": 1}',
        ),
        *(
            '{"text": "a", "tokens_in": "many"}',
            '{"text": "a", "tool_calls": [3]}',
            "[" * 100_000,
            b"\xff\x00",
            7,
        ),
        *('{"text": "a", "tokens_in": ' + "9" * 5000 + "}", '{"text": "a", "logprobs": 3}'),
        *(
            SOUND[:-1] + ', "logprobs": ["high"]}',
            SOUND[:-1] + ', "attempts": null}',
            SOUND[:-1] + ', "tool_calls": [{"name": 5, "arguments": {}}]}',
        ),
    ],
)
def test_a_damaged_row_is_a_miss_and_is_replaced(tmp_path, damage):
    fake = FakeEngine("new")
    engine = CachedEngine(fake, tmp_path / "g.db")
    key = generation_key(engine.identity, "x", GREEDY)
    engine._db.execute("INSERT INTO generations VALUES (?, ?)", [key, damage])
    first, again = (gather(engine.generate("x", GREEDY))[0] for _ in range(2))
    assert (first.text, first.cached, again.text, again.cached) == ("new", False, "new", True)
    assert len(fake.calls) == 1


def test_a_row_that_is_no_utf_8_is_a_miss(tmp_path):
    engine = CachedEngine(FakeEngine("new"), tmp_path / "g.db")
    key = generation_key(engine.identity, "x", GREEDY)
    engine._db.execute("INSERT INTO generations VALUES (?, CAST(x'fffe' AS TEXT))", [key])
    assert [gather(engine.generate("x", GREEDY))[0].cached for _ in range(2)] == [False, True]


# tools

SCHEMA = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"x": {"type": "number"}}}},
}
CALL = ToolCall("add", {"x": 1})


@pytest.mark.parametrize(
    "text, around, calls",
    [
        ("no call", "no call", []),
        (str(CALL), "", [CALL]),
        (f"a {CALL} b {CALL}", "a b", [CALL, CALL]),
        ('<tool_call>{"name": "add", "arguments": {"x": 1}}', "", [CALL]),  # a stop token took the end
        (
            '<tool_call>{"name": "add", "arguments": "{\\"x\\": 1}"}</tool_call>',
            "",
            [CALL],
        ),  # JSON within JSON
        ('<tool_call>{"name": "add", "arguments": "x = 1"}</tool_call>', "", [ToolCall("add", "x = 1")]),
        ('<tool_call>{"name": "add", "parameters": [1]}</tool_call>', "", [ToolCall("add", "[1]")]),
        ('<tool_call>{"name": "add"}</tool_call>', "", [ToolCall("add", {})]),
        (
            '<tool_call>{"name": "s", "arguments": {"q": "</tool_call><tool_call>"}}</tool_call>',
            "",
            [ToolCall("s", {"q": "</tool_call><tool_call>"})],
        ),
        (f"<tool_call> oh {CALL}", "<tool_call> oh", [CALL]),
    ],
)
def test_calls_are_found_in_text(text, around, calls):
    got, found = parse_tool_calls(text)
    assert (got.replace("  ", " "), list(found)) == (around, calls)


HOSTILE = [
    "<tool_call>",
    "<tool_call></tool_call>",
    "<tool_call>null</tool_call>",
    "<tool_call>{</tool_call>",
    '<tool_call>{"name": 7}</tool_call>',
    '<tool_call>{"name": ""}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"x": 1}</tool_call>',
    '<tool_call>{"name": "f"} and more</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"x": NaN}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"x": "\\ud800"}}</tool_call>',
    "</tool_call>" * 1000,
    "<tool_call>" * 90_000,
    "<tool_call>{" * 80_000,
    '<tool_call>{"' * 70_000,
    "<tool_call>" + '{"name":' * 120_000,
    "<tool_call>" + '{"name": "f", "arguments": ' + "[" * 500_000 + "]" * 500_000 + "}</tool_call>",
    '<tool_call>{"name": "f", "arguments": {"x": ' + "1" * 1_000_000 + "}}</tool_call>",
    '<tool_call>{"name": "' + "f" * 1_000_000,
    "<tool_call>" + " " * 1_000_000 + "x",
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_call_is_text(text):
    assert parse_tool_calls(text) == (text, ())
    assert parse_tool_calls(text[:100] + f"\n{CALL}")[1][-1:] in [(CALL,), ()]


def test_calls_pass_through_script_retries_and_cache(tmp_path):
    engine = CachedEngine(
        RetryingEngine(FakeEngine({"plus": f"I add. {CALL}", "done": "2"})), tmp_path / "g.db"
    )
    first, again, plain = [
        gather(engine.generate("1 plus 0", Sampling(tools=t)))[0] for t in ([SCHEMA], [SCHEMA], [])
    ]
    assert (
        first.text == "I add."
        and first.tool_calls == again.tool_calls == (CALL,)
        and again.cached
        and not first.cached
    )
    assert plain.tool_calls == () and "<tool_call>" in plain.text and not plain.cached and engine.native_tools
    episode = (
        Message("user", "1 plus 0"),
        ToolMessage("assistant", "", calls=(CALL,)),
        ToolMessage("tool", "1, done", name="add"),
    )
    assert gather(engine.generate(episode, Sampling(tools=[SCHEMA])))[0].text == "2"


def test_schemas_are_canonical_and_in_the_key():
    import json

    turned = json.dumps(dict(reversed(SCHEMA.items())), indent=2)
    assert Sampling(tools=[SCHEMA]) == Sampling(tools=[turned]) == Sampling(tools=SCHEMA) and hash(
        Sampling(tools=[SCHEMA])
    )
    keys = [
        generation_key({}, "p", Sampling(tools=t, choices=c))
        for t in ([], [SCHEMA], [SCHEMA, SCHEMA])
        for c in ([], ["a"])
    ]
    assert len(set(keys)) == 6
    for bad in (["{"], ["[1]"], [7]):
        with pytest.raises(EngineError, match="is no JSON schema"):
            Sampling(tools=bad)


# the cache


def test_hits_come_back_marked_and_do_not_split_batches(tmp_path):
    gather(*(one(CachedEngine(FakeEngine("ok"), tmp_path / "g.db"), i) for i in (1, 3)))
    fake = FakeEngine("ok")
    engine = CachedEngine(fake, tmp_path / "g.db")
    gather(*(one(engine, i) for i in range(6)))
    assert fake.batches == [4]
    assert gather(engine.generate("1/0", GREEDY))[0].cached


def test_errors_are_not_remembered(tmp_path):
    engine = CachedEngine(FakeEngine("ok", faults=[Fault(times=1)]), tmp_path / "g.db")
    with pytest.raises(EngineError):
        gather(engine.generate("x", GREEDY))
    assert not gather(engine.generate("x", GREEDY))[0].cached


def test_a_batch_is_one_commit(tmp_path):
    engine, commits = CachedEngine(FakeEngine("ok"), tmp_path / "g.db"), []
    engine._db.set_trace_callback(lambda sql: commits.append(sql) if sql.startswith("BEGIN") else None)
    gather(*(one(engine, i) for i in range(16)))
    assert len(commits) == 1


CHILD = """
import asyncio, os, sys
from pathlib import Path
from llmforge.batching import FakeEngine
from llmforge.caching import CachedEngine
from llmforge.engine import Sampling
folder, n, delay = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
def note(name, text):
    fd = os.open(folder/name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, (text + "\\n").encode()); os.close(fd)
def reply(text, sampling):
    note("generated", text)
    return "answer to " + text
async def example(engine, turn, i):
    async with turn:
        with engine.running():
            g = await engine.generate(f"p{i}", Sampling())
            note("handed", f"p{i}")
            return g.text
async def main():
    engine = CachedEngine(FakeEngine(reply, delay=delay, batch_size=4), folder/"g.db")
    turn = asyncio.Semaphore(8)
    texts = await asyncio.gather(*(example(engine, turn, i) for i in range(n)))
    assert texts == [f"answer to p{i}" for i in range(n)]
asyncio.run(main())
"""


def start(folder, n, delay):
    return executing.start(CHILD, str(folder), str(n), str(delay))


def lines(path):
    return path.read_text().split() if path.exists() else []


def stored(folder):
    return sqlite3.connect(folder / "g.db").execute("SELECT count(*) FROM generations").fetchone()[0]


@pytest.mark.slow
def test_processes_may_share_a_cache(tmp_path):
    children = [start(tmp_path, 60, 0.002) for _ in range(4)]
    assert [c.wait(60) for c in children] == [0] * 4
    assert stored(tmp_path) == 60


@pytest.mark.slow
def test_sigkill_never_loses_what_was_handed_on_and_nothing_stored_is_paid_twice(tmp_path):
    rng, n, kills = random.Random(0), 100, 0
    while kills < 5:
        handed = len(lines(tmp_path / "handed"))
        child = start(tmp_path, n, 0.03)
        while child.poll() is None and len(lines(tmp_path / "handed")) <= handed:
            time.sleep(0.002)  # it is at work now
        time.sleep(rng.uniform(0, 0.1))
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        kills += 1
        assert len(set(lines(tmp_path / "handed"))) <= stored(tmp_path)
        before = len(lines(tmp_path / "generated")), stored(tmp_path)
    paid, kept = before
    assert start(tmp_path, n, 0.001).wait(60) == 0
    assert len(lines(tmp_path / "generated")) - paid == n - kept
    assert stored(tmp_path) == n
    assert len(lines(tmp_path / "generated")) <= n + 4 * kills  # at most the one batch in flight at each kill
