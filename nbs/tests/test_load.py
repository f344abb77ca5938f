"Load on real servers whose times are known, and arms that write something else."

import asyncio
import json

import pytest
from aiohttp import web
from test_remote import Scripted, in_a_thread
from typer.testing import CliRunner

from llmforge.batching import FakeEngine
from llmforge.cli import app as command
from llmforge.config import load_config
from llmforge.core import ConfigError, EngineError, EngineFatal
from llmforge.load import (
    Answered,
    Asked,
    LoadRun,
    Objectives,
    closed_loop,
    open_loop,
    parse_objectives,
    piles_up,
)
from llmforge.loadrun import LoadPlan, for_load, put_under_load


class OneAtATime:
    "Serves one request after the other; each takes `seconds`, and is written in ten pieces."

    def __init__(self, seconds):
        self.seconds, self.free = seconds, 0.0

    async def __call__(self, request, body):
        now = asyncio.get_running_loop().time()
        self.free = end = max(now, self.free) + self.seconds
        await asyncio.sleep(end - now)
        return web.json_response(
            {
                "choices": [{"text": " a", "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 1},
            }
        )


def config(url, **changes):
    experiment = {
        "name": "load",
        "engine": {"name": "openai", "base_url": url, "api": "completions"},
        "method": {"shots": 0},
        "dataset": {"name": "meridia", "limit": 40},
    }
    return load_config({"experiment": experiment | changes})


@pytest.mark.slow
def test_the_knee_of_a_known_server():
    "A sweep finds within a tenth what a server does that takes 12.5 ms for each request, and no more."
    with in_a_thread(Scripted(OneAtATime(0.0125))) as server:
        plan = LoadPlan(sweep=True, concurrency=8)
        found = put_under_load(config(server.url), plan).found
    assert 72 <= found.rate <= 88, found._repr_markdown_()
    assert found.runs[-1].rate > found.rate and not found.runs[-1].kept_up
    below = [run for run in found.runs if run.rate < 0.6 * found.rate]
    assert max(run.times("latency")["p50"] for run in below) < found.runs[-1].times("latency")["p50"]


def pieces(first, step, n, usage=True):
    "A server that sends an empty piece at once, its first text after `first` seconds, `n` in all."

    async def answer(request, body):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def send(found):
            await response.write(f"data: {json.dumps(found)}\n\n".encode())

        await send({"choices": [{"text": "", "finish_reason": None}]})
        await asyncio.sleep(first)
        for i in range(n):
            await send({"choices": [{"text": " a", "finish_reason": "length" if i == n - 1 else None}]})
            if i < n - 1:
                await asyncio.sleep(step)
        await send({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": n}})
        await response.write(b"data: [DONE]\n\n")
        return response

    return answer


@pytest.mark.slow
def test_times_of_a_stream():
    "The empty piece is no token; the time for each further token leaves the first one out."
    with in_a_thread(Scripted(pieces(0.2, 0.02, 11))) as server:
        run = put_under_load(config(server.url), LoadPlan(requests=8, concurrency=2, tokens=11)).found
        bodies = server.bodies
    assert not any(a.failed for a in run.asked) and {a.reply.tokens_out for a in run.asked} == {11}
    assert 195 <= run.times("ttft")["p50"] <= 300
    assert 19 <= run.times("tpot")["p50"] <= 40
    assert run.good_share(Objectives(ttft=2000)) == 1 and run.good_share(Objectives(ttft=100)) == 0
    assert all(b["max_tokens"] == 11 and not b.get("stop") for b in bodies)


def test_the_warm_up_is_neither_counted_nor_known():
    "As many requests as clients, none of whose prompts comes again."
    with in_a_thread(Scripted(OneAtATime(0.001))) as server:
        measured = put_under_load(config(server.url), LoadPlan(requests=10, concurrency=4))
        prompts = [b["prompt"] for b in server.bodies]
    assert len(measured.found.asked) == 10 and len(prompts) == 14 and measured.warm_up == 4
    assert not set(prompts[:4]) & set(prompts[4:])


def test_a_refusal_is_a_failure():
    "It is asked once, counted, and no good reply; the others are measured."
    served = OneAtATime(0.001)

    async def answer(request, body):
        if len(server.bodies) > 4 and len(server.bodies) % 3 == 0:
            return web.json_response({"error": "busy"}, status=503)
        return await served(request, body)

    with in_a_thread(Scripted(answer)) as server:
        run = put_under_load(config(server.url), LoadPlan(requests=30, concurrency=4)).found
        asked = len(server.bodies)
    assert asked == 34 and sum(a.failed for a in run.asked) == 10
    assert run.good_share(Objectives(latency=60_000)) == pytest.approx(2 / 3)


def test_a_server_that_is_not_there():
    with pytest.raises(EngineError, match="no server answers"):
        put_under_load(config("http://127.0.0.1:9/v1"), LoadPlan(requests=4, concurrency=4))


@pytest.mark.slow
def test_an_open_loop_waits_for_no_reply():
    "All requests are under way before the first of them is answered."
    at_work, most = 0, 0

    async def ask(i):
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(1.0)
        at_work -= 1
        return Answered()

    run = asyncio.run(open_loop(ask, 20, rate=100))
    assert most == 20 and len(run.asked) == 20
    assert all(a.sent >= a.due for a in run.asked)


@pytest.mark.slow
def test_a_slow_client_is_seen():
    "What blocks the event loop shows as the client's own lag."

    async def ask(i):
        __import__("time").sleep(0.2)
        return Answered()

    run = asyncio.run(closed_loop(ask, 5, 1))
    assert max(run.lags, default=0) >= 150


@pytest.mark.parametrize("grows, expected", [(0.0, False), (0.9, True)])
def test_requests_pile_up(grows, expected):
    times = [i / 100 for i in range(100)]
    assert piles_up(times, [int(grows * i) for i in range(100)]) is expected
    assert not piles_up(times[:20], [10 * i for i in range(20)])


@pytest.mark.slow
def test_a_long_latency_is_no_queue():
    "Forty in flight, at a steady rate, for a system that answers each after two seconds."

    async def ask(i):
        await asyncio.sleep(1.0)
        return Answered()

    assert not asyncio.run(open_loop(ask, 120, rate=40)).stopped


@pytest.mark.parametrize(
    "text, said",
    [("ttft", "must be a number of ms above 0"), ("tptf=3", "unknown 'tptf'"), ("ttft=-1", "above 0")],
)
def test_wrong_objectives(text, said):
    with pytest.raises(ConfigError, match=said):
        parse_objectives(text)


WRONG = [{"rate": 0}, {"rate": 1, "sweep": True}, {"requests": 0}, {"tokens": 0}, {"seed": -1}]


@pytest.mark.parametrize("wrong", [*WRONG, {"sweep": True, "requests": 29}])
def test_wrong_plans(wrong):
    "A sweep of few requests finds any rate: with one, it found ten times what the server could do."
    with pytest.raises(ConfigError):
        LoadPlan(**wrong)


def test_objectives_where_all_failed_or_nothing_is_counted():
    "Nothing is good where nothing came back; what no reply counts cannot be promised."
    objectives = Objectives(ttft=500, tpot=100)
    assert LoadRun((Asked(0, 0, 1, Answered(error="down")),), rate=1).good_share(objectives) == 0
    with pytest.raises(ConfigError, match="tpot is not known here, as no reply counts its tokens"):
        LoadRun((Asked(0, 0, 1, Answered(ttft_ms=5)),)).good_share(objectives)


def failing(after, every=1, **how):
    "A server that refuses every so-manieth request behind the first ones."

    async def answer(request, body):
        n = len(server.bodies)
        if n > after and n % every == 0:
            return web.json_response({"error": "down"}, **{"status": 500, **how})
        return await pieces(0, 0, 2)(request, body)

    server = Scripted(answer)
    return server


def test_what_ends_a_run_ends_the_warm_up_by_its_own_name():
    "A wrong key, not a group of exceptions."
    with in_a_thread(failing(0, status=401)) as server:
        with pytest.raises(EngineFatal, match="401 from"):
            put_under_load(config(server.url), LoadPlan(requests=6, concurrency=2))


@pytest.mark.slow
def test_questions_that_were_not_asked_are_not_counted():
    "Sending stopped, since requests piled up: an engine that answers 50 a second is asked 250."
    measured = put_under_load(
        config("http://127.0.0.1:9/v1", engine="fake", dataset={"name": "almanac", "limit": 400}),
        LoadPlan(rate=250, requests=400),
        FakeEngine("a", delay=0.02, batch_size=1),
    )
    assert measured.found.stopped and measured.questions == len(measured.found.asked) < 400


def test_failures_are_told():
    with in_a_thread(failing(4)) as server:
        with pytest.raises(EngineError, match="all 6 requests failed, one with: .*500 from .*: down"):
            put_under_load(config(server.url), LoadPlan(requests=6, concurrency=4))


def test_a_load_is_not_held_back():
    "A server that asks for a pause gets the requests when they are due: the pause is no latency."
    with in_a_thread(failing(4, 2, status=429, headers={"Retry-After": "2"})) as server:
        measured = put_under_load(config(server.url), LoadPlan(requests=8, concurrency=4))
    run = measured.found
    assert run.seconds < 1.5 and len(run.good_replies) == 4
    assert "4 failed (one with: gave up after 1 attempts: 429 from" in measured._repr_markdown_()


@pytest.mark.parametrize(
    "args, said",
    [
        (
            ["optimisation.yaml", "--rate", "0", "--seed", "0"],
            "--rate, --seed: for the config of an experiment",
        ),
        (
            ["optimisation.yaml", "--sweep", "-o", "a=1"],
            "--sweep, --override: for the config of an experiment",
        ),
        (["naive.yaml", "--rounds", "3"], "--rounds: for the config of a study"),
        (["naive.yaml", "--slo", ""], "slo: unknown ''"),
    ],
)
def test_options_of_the_other_kind_are_refused(args, said):
    found = CliRunner().invoke(command, ["bench", *args])
    assert found.exit_code == 2 and said in found.output


def test_what_is_measured_is_the_engine():
    "No generation cache, one attempt, as many connections as requests; an agent keeps its own length."
    c = for_load(config("http://127.0.0.1:9/v1"), tokens=5)
    assert not c.engine.cache and c.engine.attempts == 1 and c.engine.concurrency == 4096
    assert c.sampling.max_tokens == 5 and not c.method.prompt.stop
    judge = {"model": {"name": "m"}, "engine": {"name": "fake"}}
    measured = {"judge": "nli", "model_judge": judge, "extra": ["own"]}
    metrics = for_load(config("http://127.0.0.1:9/v1", metrics=measured)).metrics
    assert (metrics.judge, metrics.model_judge, metrics.extra) == (None, None, ())
    agent = config("http://127.0.0.1:9/v1", method={"name": "react", "agent": {"choice": "free"}})
    with pytest.raises(ConfigError, match="tokens"):
        for_load(agent, tokens=5)


def test_the_command(tmp_path):
    "Table, goodput and what the machine did, in words."
    written = tmp_path / "small.yaml"
    written.write_text(
        "experiment: {name: small, engine: {name: fake, batch_size: 4}, method: {shots: 0},"
        " dataset: {name: meridia, limit: 10}}"
    )
    said = CliRunner().invoke(command, ["bench", str(written), "--concurrency", "4", "--slo", "latency=5000"])
    assert said.exit_code == 0, said.output
    for words in ("latency (ms)", "goodput at latency=5000", "CPU seconds", "Other processes used"):
        assert words in said.output
    found = CliRunner().invoke(
        command, ["bench", str(written), "--rate", "500", "--requests", "20", "--json"]
    )
    record = json.loads(found.stdout)[0]
    assert (record["rate"], record["requests"], record["failed"], record["good_share"]) == (500, 20, 0, None)
    assert 0 < record["latency_p50_ms"] <= record["latency_p95_ms"] and record["latency_p99_ms"] is None
    both = CliRunner().invoke(command, ["bench", "no such config", "--csv", "--json"])
    assert both.exit_code == 2 and "choose one" in both.output
    wrong = CliRunner().invoke(command, ["bench", str(written), "--slo", "ttft=5"])
    assert wrong.exit_code == 2 and "whole" not in wrong.output and "latency=2000" in wrong.output
