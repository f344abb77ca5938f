"A server in trouble, a process that dies: no question without a row, no request that was not needed."

import asyncio
import json
import signal
import time
from collections import Counter

import pytest
from aiohttp import web
from executing import start
from test_remote import Scripted, asked, delta, echo, events, in_a_thread
from watching import count

from llmforge.config import load_config, to_yaml
from llmforge.runner import run_experiment
from llmforge.store import Store

pytestmark = pytest.mark.slow

N, ATTEMPTS = 1000, 4


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "Where data may lie."
    monkeypatch.setenv("LLMFORGE_DATA", str(tmp_path))
    return tmp_path


def config(url, folder, **engine):
    "An experiment on a thousand numbered questions."
    questions = folder / "questions.jsonl"
    lines = [json.dumps({"id": f"q{i}", "question": f"Number {i}?", "answers": [str(i)]}) for i in range(N)]
    questions.write_text("\n".join(lines))
    return load_config(
        {
            "experiment": {
                "name": "faults",
                "model": "m",
                "engine": {"name": "openai", "base_url": url, "attempts": ATTEMPTS, **engine},
                "dataset": {
                    "name": str(questions),
                    "exemplars": "almanac",
                },  # none of the questions is an exemplar
                "method": {"shots": 0, "prompt": {"template": "{question}"}},
            }
        }
    )


def test_a_server_in_trouble(outputs, folder):
    """Of 1,000 questions 100 meet a 429, 50 a 500, 20 a server that hangs, at their first request;
    10 meet a 500 at each: 990 are answered, 10 failed, and nobody is asked more often than allowed."""
    requests = Counter()

    async def answer(request, body):
        i = int(asked(body).removeprefix("Number ").removesuffix("?"))
        requests[i] += 1
        if i % 100 == 33:
            return web.json_response({"error": "poison"}, status=500)
        if requests[i] == 1 and i % 10 == 0:
            return web.json_response({}, status=429, headers={"Retry-After": "0.05"})
        if requests[i] == 1 and i % 20 == 7:
            return web.json_response({}, status=500)
        if requests[i] == 1 and i % 50 == 11:
            while request.transport and not request.transport.is_closing():
                await asyncio.sleep(0.05)
        return await events(request, delta(f" {i}", "stop"))

    with in_a_thread(Scripted(answer)) as server:
        store = Store()
        id = run_experiment(config(server.url, folder, concurrency=64, timeout=2), store, show=False)
    result, rows = store.result(id), store.rows(id)
    assert (result["n"], result["answered"], result["failed"], result["accuracy"]) == (N, 990, 10, 0.99)
    assert {r["example_id"] for r in rows if r["error"]} == {f"q{i}" for i in range(33, N, 100)}
    assert all("gave up after 4 attempts: 500 from" in r["error"] for r in rows if r["error"])
    asked_often = {n: {i % 100 for i, k in requests.items() if k == n} for n in (2, ATTEMPTS)}
    assert max(requests.values()) == ATTEMPTS and asked_often[ATTEMPTS] == {33}
    assert asked_often[2] == {*range(0, 100, 10), *range(7, 100, 20), 11, 61}
    assert requests.total() == N + 100 + 50 + 20 + 10 * (ATTEMPTS - 1)


CHILD = """
import sys
from llmforge.config import load_config
from llmforge.runner import run_experiment
print(run_experiment(load_config(sys.argv[1]), show=False))
"""


def test_after_a_kill_only_what_was_in_flight_is_asked_again(outputs, folder):
    "SIGKILL half-way, and the same again: all rows, and the requests made twice are those in flight."

    async def slowly(request, body):
        await asyncio.sleep(0.03)
        return await echo(request, body)

    with in_a_thread(Scripted(slowly)) as server:
        path = folder / "experiment.yaml"
        path.write_text(to_yaml(config(server.url, folder, concurrency=16)))
        died = start(CHILD, str(path))
        while count(outputs / "llmforge.db", "runs") < N // 2:
            time.sleep(0.003)
            assert died.poll() is None
        died.send_signal(signal.SIGKILL)
        died.wait()
        time.sleep(0.2)  # what was on its way arrives
        before, stored = [asked(b) for b in server.bodies], count(outputs / "generations.db", "generations")
        done = start(CHILD, str(path))
        printed, errors = done.communicate()
        assert done.returncode == 0, errors
        after = [asked(b) for b in server.bodies[len(before) :]]
    assert N // 2 <= stored < N and len(set(before)) == len(before)
    again = set(before) & set(after)
    assert len(again) == len(before) - stored <= 16, "those whose answer was not stored"
    assert len(before) + len(after) == N + len(again)
    rows = Store().rows(printed.strip())
    assert len({r["example_id"] for r in rows}) == len(rows) == N and not any(r["error"] for r in rows)
