"""Workers on a real Redis, killed at moments that nobody chose: each question has one row, and all ends.

Calls of the model may exceed rows only by what was on its way at a kill."""

import os
import random
import signal
import time

import pytest
from executing import start
from serving import Model, ended, redis_server

from llmforge.api import create, prepared_of
from llmforge.jobs import cancel_run, job_records, queue_line, redis_queue, request_run, sweep, waiting
from llmforge.store import Store

pytest.importorskip("rq", reason="the extra `jobs` is not installed: the queue is not tested")
pytestmark = pytest.mark.slow
N = 12


@pytest.fixture
def model():
    model = Model(delay=0.1)
    yield model
    model.close()


@pytest.fixture
def redis(tmp_path):
    with redis_server(tmp_path) as redis:
        yield redis


@pytest.fixture
def env(tmp_path, monkeypatch, redis, model):
    env = {
        "LLMFORGE_OUTPUTS": str(tmp_path / "outputs"),
        "LLMFORGE_STORE": f"sqlite:///{tmp_path / 'store.db'}",
        "LLMFORGE_REDIS": redis.url,
        "LLMFORGE_SERVERS": model.url,
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return env


WORKER = """
import os, sys
from llmforge import jobs
from llmforge.cli import main
os.setsid()
jobs.SWEEP = 0.5
sys.argv[:1] = ["llmforge", "worker"]
main()
"""


def started_worker(env, *options):
    "A `llmforge worker`, forked, that sweeps ten times as often; test_server starts one as a user does."
    return start(WORKER, *options, **env)


@pytest.fixture
def store(env):
    store = Store()
    yield store
    store.close()


def requested(store, model, name, n=N):
    id, _ = create(store, prepared_of(model.config(name, n)))
    request_run(store, id, n)
    return id


def all_end(store, ids, seconds=180):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        states = [store.experiment(id).status for id in ids]
        if set(states) == {"COMPLETED"}:
            return
        time.sleep(0.1)
    raise AssertionError(f"{states}\n{job_records(store)}\n{queue_line()}")


def rows_are_whole(store, ids, n=N):
    for id in ids:
        assert [r["position"] for r in store.rows(id)] == list(range(n))
        assert store.result(id)["failed"] == 0


def test_a_burst_runs_what_is_requested(store, env, model):
    ids = [requested(store, model, f"burst-{i}") for i in range(3)]
    assert started_worker(env, "--burst").wait(90) == 0
    all_end(store, ids, 1)
    rows_are_whole(store, ids)
    assert sum(model.calls.values()) == 3 * N and not waiting(store)
    assert not list(redis_queue().connection.scan_iter("rq:job:*")), "RQ keeps nothing"


def test_a_request_is_in_the_queue_once(store, env, model):
    id = requested(store, model, "once")
    for _ in range(20):
        request_run(store, id)
        assert sweep(store)
    assert redis_queue().get_job_ids() == [f"{id}-0"]
    cancel_run(store, id)
    assert started_worker(env, "--burst").wait(60) == 0
    assert store.experiment(id).status == "PENDING" and not model.calls, "withdrawn before it began"


def test_what_a_dead_worker_had_taken_is_sent_again_at_once(store, env, model):
    "Killed between the taking of a job and its lease: the next sweep sees that its worker is dead."
    id = requested(store, model, "taken", 4)
    sweep(store)
    hangs = "import time\njobs.run_job = lambda id: time.sleep(600)\n"
    worker = start(WORKER.replace("sys.argv[:1]", hangs + "sys.argv[:1]"), **env)
    job = redis_queue().fetch_job(f"{id}-0")
    while not job.get_executions():
        time.sleep(0.05)
    sweep(store)
    assert not redis_queue().get_job_ids(), "it is on its way"
    for pid in (worker.pid, *(p.pid for p in children(worker.pid))):
        os.kill(pid, signal.SIGKILL)
    worker.wait()
    sweep(store)
    assert redis_queue().get_job_ids() == [f"{id}-0"]
    assert started_worker(env, "--burst").wait(60) == 0
    rows_are_whole(store, [id], 4)


def test_an_emptied_queue_is_filled_again(store, env, model, redis):
    ids = [requested(store, model, f"flushed-{i}", 4) for i in range(5)]
    sweep(store)
    redis.client.flushall()
    assert not redis_queue().get_job_ids()
    worker = started_worker(env)
    try:
        all_end(store, ids)
        rows_are_whole(store, ids, 4)
    finally:
        ended(worker)


def children(pid):
    import psutil

    return psutil.Process(pid).children()


def asked_again(store, ids, model, seconds=60):
    "Wait until the model is asked something, or all is done."
    before, end = sum(model.calls.values()), time.monotonic() + seconds
    while sum(model.calls.values()) == before and time.monotonic() < end:
        if all(store.experiment(id).status == "COMPLETED" for id in ids):
            return
        time.sleep(0.02)


@pytest.mark.parametrize("who", ["worker", "horse", "both"])
def test_a_kill_costs_no_row(store, env, model, who):
    "SIGKILL of the worker, of the process that it forked, or of both, at random moments, most at work."
    rng, in_flight = random.Random(who), 2
    ids = [requested(store, model, f"{who}-{i}") for i in range(2)]
    kills, worker = 0, started_worker(env)
    try:
        for i in range(3):
            if i:
                asked_again(store, ids, model)
            time.sleep(rng.random() * (0.5 if i else 1))
            victims = []
            if who in ("horse", "both"):
                victims += [p.pid for p in children(worker.pid)]
            if who in ("worker", "both"):
                victims.append(worker.pid)
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            kills += bool(victims)
            if who in ("worker", "both"):
                worker.wait()
                worker = started_worker(env)
        all_end(store, ids)
    finally:
        ended(worker)
    rows_are_whole(store, ids)
    assert kills and 2 * N <= sum(model.calls.values()) <= 2 * N + kills * in_flight


def test_redis_may_die(store, env, model, redis):
    "What runs goes on without it; what is requested meanwhile waits in the store."
    first = requested(store, model, "before", 30)
    worker = started_worker(env)
    try:
        while len(store.done(first)) < 3:
            time.sleep(0.05)
        redis.kill()
        second = requested(store, model, "meanwhile", 4)
        assert not sweep(store) and "does not answer" in queue_line()
        time.sleep(2)
        redis.start()
        all_end(store, [first])
        if worker.poll() is not None:  # RQ's worker may give up; the service manager starts it again
            worker = started_worker(env)
        all_end(store, [second])
    finally:
        ended(worker)
    rows_are_whole(store, [first], 30)
    rows_are_whole(store, [second], 4)
    assert sum(model.calls.values()) == 34


def test_two_workers_share(store, env, model):
    "Each experiment is run by one of them."
    ids = [requested(store, model, f"shared-{i}", 6) for i in range(4)]
    workers = [started_worker(env) for _ in range(2)]
    try:
        all_end(store, ids)
    finally:
        for worker in workers:
            ended(worker)
    rows_are_whole(store, ids, 6)
    assert sum(model.calls.values()) == 4 * 6
