"""When a run stops, and how it goes on: bad questions never stop it, a dead server does at once."""

import asyncio
from contextlib import nullcontext

import pytest
from test_hangs import generation, within
from typer.testing import CliRunner

from llmforge.batching import FakeEngine, Fault
from llmforge.cli import app
from llmforge.config import load_config, to_yaml
from llmforge.core import BreakerOpen, EngineError, LlmForgeError, engines, fingerprint, methods
from llmforge.engine import prompt_text
from llmforge.exports import import_experiment
from llmforge.files import outputs_dir
from llmforge.progress import Breaker
from llmforge.runner import run_experiment
from llmforge.store import Store

N = 100


def config(name="breaking", n=N, kind="served", **engine):
    return load_config(
        {
            "experiment": {
                "name": name,
                "engine": {"name": kind, **engine},
                "dataset": {"name": "almanac", "limit": n},
                "method": {"shots": 0},
                "metrics": {"resamples": 100},
            }
        }
    )


class Served:
    "An engine with a latency, which tries again in vain what is poison; it may be down."

    identity, native_tools, retries = {"engine": "served"}, False, True

    def __init__(self, latency, poison):
        self.latency, self.poison, self.down = latency, poison, False

    async def generate(self, prompt, sampling):
        await asyncio.sleep(self.latency)
        if self.down:
            raise EngineError("no server there", transient=True)
        if self.poison(prompt_text(prompt)):
            await asyncio.sleep(0.02)
            raise EngineError("poison")
        return generation()

    def running(self):
        return nullcontext()

    def close(self):
        pass


@pytest.fixture
def serve(monkeypatch):
    "Makes an engine the one that configs call `served`."
    return lambda engine: monkeypatch.setitem(engines._entries, "served", lambda config: engine)


def some(text):
    return int(fingerprint(text, n=4), 16) % 25 == 0


POISONED = set()  # failed ids of all the runs below: the same each time


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 16, 64])
@pytest.mark.parametrize("cache", [True, False], ids=["cache", "no cache"])
@pytest.mark.parametrize("latency", [0, 0.01])
def test_a_few_bad_questions_never_stop_a_run(latency, cache, concurrency, serve):
    "Twice: with a cache the good answers come at once the second time, and the bad ones end last."
    serve(Served(latency, some))
    for name in ("first", "second"):
        store = Store()
        c = config(name, concurrency=concurrency, cache=cache)
        id = within(lambda c=c, s=store: run_experiment(c, s, show=False), 60)
        result, failed = store.result(id), frozenset(store.done(id, failed=True))
        assert str(store.experiment(id).status) == "COMPLETED" and result["n"] == N
        assert result["failed"] == len(failed) and 1 < len(failed) < 12
        POISONED.add(failed)
    assert len(POISONED) == 1


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 16, 64])
@pytest.mark.parametrize("alive", [0, 50], ids=["from the start", "later"])
def test_a_dead_server_stops_a_run_which_goes_on_when_it_is_back(alive, concurrency, serve):
    engine, asked = Served(0.001, lambda text: False), []

    def dying(text):
        asked.append(text)
        engine.down = len(asked) > alive
        return False

    engine.poison, engine.down, store = dying, not alive, Store()
    serve(engine)
    c = config(n=2 * N, concurrency=concurrency)
    with pytest.raises(BreakerOpen, match=r"\d+ questions in a row failed.*no server there.*run again"):
        within(lambda: run_experiment(c, store, show=False))
    (id,) = store.experiments().id
    assert str(store.experiment(id).status) == "FAILED"
    answered = store.done(id) - store.done(id, failed=True)
    assert len(store.done(id, failed=True)) <= 10 + concurrency and len(answered) >= alive - 1
    engine.down, engine.poison = False, lambda text: asked.append(text)
    asked.clear()
    assert within(lambda: run_experiment(c, store, show=False)) == id
    assert len(asked) == 2 * N - len(answered), "what was answered is not asked again"
    result = store.result(id)
    assert (str(store.experiment(id).status), result["n"], result["failed"]) == ("COMPLETED", 2 * N, 0)
    assert import_experiment(Store("sqlite://"), outputs_dir() / id) == id


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 50, N - 12])
@pytest.mark.parametrize("concurrency", [1, 16])
def test_bad_questions_side_by_side(place, concurrency, serve):
    "At the worst the run stops once; going on, it asks them after all others, and completes."
    from llmforge.data import load_dataset

    engine, store = Served(0.001, lambda text: any(q in text for q in bad)), Store()
    serve(engine)
    c = config(concurrency=concurrency)
    bad = [e.question for e in load_dataset(c.dataset).examples[place : place + 12]]
    try:
        id = within(lambda: run_experiment(c, store, show=False))
    except BreakerOpen:
        assert concurrency == 1
        id = within(lambda: run_experiment(c, store, show=False))
    assert store.result(id)["failed"] == 12 and store.result(id)["n"] == N


def test_a_breaker_waits_for_those_at_work():
    good, bad = {"error_type": None}, {"error_type": "EngineError", "error": "no"}

    async def main():
        breaker = Breaker(limit=2)
        numbers = [breaker.begin() for _ in range(4)]
        for number in numbers[:2]:
            breaker.end(number, bad)
        next_one = asyncio.create_task(breaker.closed())
        await asyncio.sleep(0.01)
        assert not next_one.done(), "two failed, two are at work"
        breaker.end(numbers[2], good)
        await next_one
        breaker.end(numbers[3], bad)
        await breaker.closed()
        breaker.end(breaker.begin(), bad)
        with pytest.raises(BreakerOpen):
            await breaker.closed()

    within(lambda: asyncio.run(main()))


# --- what the command says


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "few.yaml"
    path.write_text(to_yaml(config("few", n=3, kind="fake")))
    return str(path)


def said(*args):
    result = CliRunner().invoke(app, list(args))
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.slow
def test_exit_codes_tell(path, monkeypatch):
    "0 where something was answered, also beside failures; 1 where nothing was."
    run = ("run", path, "--no-notebook")
    monkeypatch.setitem(engines._entries, "fake", lambda c: FakeEngine(faults=[Fault()]))
    code, text = said(*run)
    assert (
        code == 1
        and "COMPLETED" in text
        and "all 3 questions of few-" in text
        and "(3 EngineError), one with: " in text
    )
    code, text = said(*run)
    assert code == 1 and "-o name=" in text, "and again, where it is only shown"
    faults = [Fault("hull of oak|birthplace", share=0.5)]
    monkeypatch.setitem(engines._entries, "fake", lambda c: FakeEngine("ok", faults=faults))
    assert said(*run, "-o", "name=other")[0] == 0


@pytest.mark.parametrize("where", ["method", "factory"])
def test_sys_exit_does_not_end_a_run_with_0(where, path, monkeypatch):
    def leaves(*args):
        raise SystemExit(0)

    async def method(question, context):
        leaves()

    if where == "method":
        monkeypatch.setitem(methods._entries, "naive", method)
    else:
        monkeypatch.setitem(engines._entries, "fake", leaves)
    code, text = said("run", path, "--no-notebook")
    assert code == 1 and ("SystemExit" if where == "method" else "called sys.exit(0)") in text


@pytest.mark.slow
def test_show_and_list_say_what_became_of_a_run_and_what_to_do(path):
    store = Store()
    id = store.create_experiment("few-1f0c", "few", config("few", n=3, kind="fake").model_dump(mode="json"))
    assert said("show", "few") == (0, "few-1f0c is PENDING (questions with a row: 0); run it to begin")
    lease = store.claim(id, owner="elsewhere:1:ab", ttl=60)
    assert "is RUNNING" in said("show", "few")[1] and "| RUNNING |" in said("list")[1]
    store.release(lease)
    assert "was stopped" in said("show", "few")[1] and "it goes on from there" in said("show", "few")[1]
    listed = said("list")[1]
    assert "| stopped |" in listed and "stopped: its process is gone; run it again" in listed
    store.fail(store.claim(id), "run inference loop: no server")
    assert "FAILED: run inference loop: no server" in said("show", "few")[1]
    assert "run it again: what was answered stays" in said("list")[1]


def test_unlock_says_whose_lease_it_breaks():
    store = Store()
    id = store.create_experiment("few-1f0c", "few", {"name": "few"})
    assert said("unlock", "few") == (
        1,
        "error: experiment 'few-1f0c' is PENDING: it has no lease to be broken",
    )
    old = store.claim(id, owner="elsewhere:1:ab", ttl=60)
    code, text = said("unlock", "few")
    assert code == 3 and "owned by elsewhere:1:ab" in text and "--force" in text
    code, text = said("unlock", "few", "--force")
    assert code == 0 and "the lease of elsewhere:1:ab is broken; should it be alive, it writes" in text
    with pytest.raises(LlmForgeError, match="taken over"):
        store.heartbeat(old)
    store.claim(id, owner="elsewhere:2:cd", ttl=0)
    code, text = said("unlock", "few")
    assert code == 0 and "the lease of elsewhere:2:cd is broken; run it again" in text
    assert said("unlock", "nope")[0] == 1
