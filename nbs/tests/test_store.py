"""State machine, leases and fencing, exactly-once rows, migrations, export and import.

On SQLite, and on PostgreSQL where a server and psycopg are installed."""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from serving import Postgres

from llmforge.batching import FakeEngine
from llmforge.claims import Record
from llmforge.config import load_config
from llmforge.core import (
    AlreadyRunning,
    ConfigError,
    DataError,
    LeaseLost,
    MissingExtra,
    StoreBusy,
    StoreError,
)
from llmforge.exports import export_experiment, export_plan, import_experiment, import_plan
from llmforge.holding import end_experiment, kept_lease
from llmforge.leases import Lease, hold_lease, new_owner, owner_gone
from llmforge.marks import delete_experiment, deletion_question
from llmforge.processes import machine
from llmforge.runner import run_experiment
from llmforge.store import Store
from llmforge.tables import (
    APPLIED,
    EXPERIMENTS,
    META,
    MIGRATIONS,
    READABLE,
    RUNS,
    STUDIES,
    Migration,
    Status,
    migrate,
    open_engine,
    sources,
)
from llmforge.votes import Vote, put_votes, read_votes, votes_of

TESTS = Path(__file__).parent
NEW_IN_2 = ("faithfulness", "hallucination_rate")
NEW_IN_3 = ("ttft_ms", "tokens_cached", "cost", "cpu_s", "finish_reason")

# --- a PostgreSQL of our own, on a free loopback port, ended with the tests


@pytest.fixture(scope="module")
def postgres():
    pytest.importorskip("psycopg", reason="psycopg is not installed: the PostgreSQL half is skipped")
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    return request.getfixturevalue("postgres").database()


@pytest.fixture
def store(url):
    s = Store(url)
    yield s
    s.close()


CONFIG = {
    "name": "naive",
    "seed": 0,
    "prompt": {"template": "Question: {question}\nAnswer:", "stop": ["\n"]},
    "t": 1e-05,
}


def make(store, id="naive-1", **more):
    return store.create_experiment(id, "naive", CONFIG, dataset_fingerprint="d1", **more)


def a_row(i, text="Paris", **more):
    return dict(
        example_id=f"q{i}",
        position=i,
        input_text=f"Question {i}?",
        output_text=text,
        answer=text,
        tokens_in=9,
        tokens_out=2,
        latency_ms=12.5,
        queue_ms=0.1,
        cached=False,
        correct=1.0,
        abstained=False,
        scores={"f1": 0.5, "exact_match": 1.0},
        trace={"kind": "chain", "name": "naive", "start_ms": 0.0, "duration_ms": 0.0},
        **more,
    )


def a_result(n, **more):
    accuracy = (
        {"value": 1.0, "low": 0.5, "high": 1.0, "n": n}
        if n
        else dict.fromkeys(("value", "low", "high")) | {"n": 0}
    )
    return (
        dict(
            n=n,
            answered=n,
            failed=0,
            abstained=0,
            accuracy=1.0,
            latency_p50=12.5,
            tokens_used=11 * n,
            summary={"accuracy": accuracy},
        )
        | more
    )


def finished(store, id="naive-1", n=3, **more):
    make(store, id, **more)
    lease = store.claim(id)
    store.add_rows(lease, [a_row(i) for i in range(n)])
    store.complete(lease, a_result(n))
    return id


# --- the state machine


def test_the_life_of_an_experiment(store):
    id = make(store, label="exp_001")
    e = store.experiment(id)
    assert (e.status, e.attempt, e.fence, e.lease_owner, e.label, e.provenance_json, e.config_json) == (
        "PENDING",
        1,
        0,
        None,
        "exp_001",
        None,
        CONFIG,
    )
    lease = store.claim(id, owner="h:1:x", ttl=30)
    e = store.experiment(id)
    assert (
        (e.status, e.fence, e.lease_owner) == (Status.RUNNING, 1, "h:1:x")
        and 20 < e.lease_expires - time.time() < 40
        and e.started_at >= e.created_at
    )
    assert store.result(id) is None
    store.add_rows(lease, [a_row(0)])
    store.complete(lease, a_result(1, peak_memory_mb=512.5))
    e = store.experiment(id)
    assert (e.status, e.lease_expires, e.error) == (
        "COMPLETED",
        None,
        None,
    ) and e.completed_at >= e.started_at
    assert (
        store.result(id)["accuracy"] == 1.0
        and store.result(id)["peak_memory_mb"] == 512.5
        and store.result(id)["summary"]["accuracy"]["n"] == 1
    )


def test_the_transition_table():
    assert {to: sources(to) for to in Status} == {
        "PENDING": [],
        "RUNNING": ["PENDING", "RUNNING", "FAILED"],
        "COMPLETED": ["RUNNING"],
        "FAILED": ["RUNNING"],
    }


@pytest.mark.parametrize("ending", ["complete", "fail"])
def test_no_way_out_of_an_end(store, ending):
    id = make(store)
    lease = store.claim(id)
    if ending == "complete":
        store.complete(lease, a_result(0))
    else:
        store.fail(lease, "boom")
    before = store.experiment(id)
    if ending == "complete":
        with pytest.raises(StoreError, match="is COMPLETED, and that is final"):
            store.claim(id)
    for action in (
        lambda: store.unlock(id, force=True),
        lambda: store.heartbeat(lease),
        lambda: store.add_rows(lease, [a_row(0)]),
        lambda: store.release(lease),
        lambda: store.complete(lease, a_result(0)),
        lambda: store.fail(lease, "again"),
    ):
        with pytest.raises(StoreError, match="is (COMPLETED|FAILED)"):
            action()
    assert store.experiment(id) == before and store.rows(id) == []


@pytest.mark.parametrize("fence", [0, 1])
def test_no_end_without_a_start(store, fence):
    id = make(store)
    forged = Lease(id, "me", fence, 60)
    for action in (lambda: store.complete(forged, a_result(0)), lambda: store.fail(forged, "x")):
        with pytest.raises(StoreError):
            action()
    assert store.experiment(id).status == "PENDING" and store.result(id) is None


def test_the_database_itself_knows_the_states(store):
    id = make(store)
    with pytest.raises(StoreError):
        with store.transaction() as c:
            c.execute(EXPERIMENTS.update().values(status="DONE"))
    assert store.experiment(id).status == "PENDING"


def test_creating_is_idempotent_and_a_failure_is_gone_on_with(store):
    "The id stays; what was answered stays; what failed is asked again."
    assert make(store) == make(store) == "naive-1"
    lease = store.claim("naive-1")
    assert make(store) == "naive-1"
    store.add_rows(lease, [a_row(0), a_row(1, error_type="EngineError", error="gone")])
    store.fail(lease, "loading the model: 401 for hf_abcdefghijklmnop")
    assert "hf_abc" not in store.experiment("naive-1").error
    assert store.done("naive-1") == {"q0", "q1"} and store.done("naive-1", failed=True) == {"q1"}
    assert make(store) == "naive-1"
    again = store.claim("naive-1")
    e = store.experiment("naive-1")
    assert (again.fence, str(e.status), e.error, e.completed_at) == (2, "RUNNING", None, None)
    assert store.done("naive-1") == {"q0"}
    with pytest.raises(LeaseLost):
        store.add_rows(lease, [a_row(1)])
    store.release(again)
    third = store.claim("naive-1")  # of one that was interrupted all rows stay
    store.add_rows(third, [a_row(1, error_type="EngineError", error="gone")])
    store.release(third)
    assert store.claim("naive-1") and store.done("naive-1") == {"q0", "q1"}


def test_attempts_of_an_older_llmforge_are_known(store):
    "There a failure was final, and running again made another id; the last of them counts."
    for id in ("naive-1", "naive-1.2", "naive-1.3"):
        make(store, id)
        store.fail(store.claim(id), "boom")
    assert make(store) == "naive-1.3"
    store.complete(store.claim("naive-1.3"), a_result(0))
    assert make(store) == "naive-1.3", "completed work is found, not repeated"
    finished(store, "naive-4")
    make(store, "naive-4.2")
    assert make(store, "naive-4") == "naive-4"


def test_a_lease_is_broken_by_hand(store):
    old = store.claim(make(store), owner="elsewhere:1:ab", ttl=60)
    with pytest.raises(AlreadyRunning, match="owned by elsewhere:1:ab"):
        store.unlock("naive-1")
    assert store.lease_left(store.experiment("naive-1")) > 50
    assert store.unlock("naive-1", force=True) == "elsewhere:1:ab"
    assert store.lease_left(store.experiment("naive-1")) == 0
    with pytest.raises(LeaseLost):
        store.add_rows(old, [a_row(0)])
    store.claim("naive-1", owner="elsewhere:2:cd", ttl=0)
    assert store.unlock("naive-1") == "elsewhere:2:cd"
    make(store, "naive-2")
    with pytest.raises(StoreError, match="is PENDING: it has no lease"):
        store.unlock("naive-2")


def test_unknown_ids_are_told(store):
    make(store)
    for action in (
        lambda: store.experiment("naive-2"),
        lambda: store.claim("naive-2"),
        lambda: store.dataframe("naive-2"),
    ):
        with pytest.raises(StoreError, match="no experiment 'naive-2'.*did you mean 'naive-1'"):
            action()


# --- leases


def test_a_live_lease_is_respected(store):
    store.claim(make(store), owner="elsewhere:1:ab", ttl=40)
    with pytest.raises(
        AlreadyRunning, match=r"already running, owned by elsewhere:1:ab; its lease expires in (39|40) s"
    ):
        store.claim("naive-1")
    assert store.experiment("naive-1").fence == 1


@pytest.mark.slow
def test_an_expired_lease_is_taken_over_and_the_old_owner_fenced_off(store):
    old = store.claim(make(store), owner="elsewhere:1:ab", ttl=0.05)
    store.add_rows(old, [a_row(0)])
    time.sleep(0.1)
    new = store.claim("naive-1", owner="here:2:cd")
    assert (new.fence, store.experiment("naive-1").status) == (2, "RUNNING")
    for action in (
        lambda: store.add_rows(old, [a_row(1)]),
        lambda: store.heartbeat(old),
        lambda: store.release(old),
        lambda: store.complete(old, a_result(1)),
        lambda: store.fail(old, "x"),
    ):
        with pytest.raises(LeaseLost, match="taken over by here:2:cd .fence 2, ours is 1."):
            action()
    assert store.done("naive-1") == {"q0"}
    store.add_rows(new, [a_row(1)])
    store.complete(new, a_result(2))


def test_an_expired_lease_that_nobody_took_still_holds(store):
    lease = store.claim(make(store), ttl=0.05)
    time.sleep(0.1)
    store.add_rows(lease, [a_row(0)])
    assert store.done("naive-1") == {"q0"}


@pytest.mark.slow
def test_every_write_and_heartbeat_renews(store):
    lease = store.claim(make(store), owner="elsewhere:1:ab", ttl=0.6)
    for _ in range(4):
        time.sleep(0.3)
        store.heartbeat(lease) if _ % 2 else store.add_rows(lease, [a_row(_)])
    with pytest.raises(AlreadyRunning):
        store.claim("naive-1")


def test_a_released_lease_is_free_at_once(store):
    store.release(store.claim(make(store), owner="elsewhere:1:ab", ttl=999))
    assert store.experiment("naive-1").status == "RUNNING" and store.claim("naive-1").fence == 2


def test_a_renewal_between_look_and_claim_wins(store, monkeypatch):
    "The taker saw an expired lease; the owner was alive after all and renewed before the taker wrote."
    owner = store.claim(make(store), owner="elsewhere:1:ab", ttl=0.01)
    time.sleep(0.05)
    look, looks = Store.experiment, []

    def slow_look(self, id):
        e = look(self, id)
        if not looks:
            store.add_rows(owner.__class__(owner.experiment_id, owner.owner, owner.fence, 60), [a_row(0)])
        looks.append(e)
        return e

    monkeypatch.setattr(Store, "experiment", slow_look)
    with pytest.raises(AlreadyRunning):
        store.claim("naive-1")
    assert len(looks) == 2


@pytest.mark.slow
def test_dead_owners_on_this_machine_are_known():
    child = subprocess.Popen(
        [sys.executable, "-c", "from llmforge.leases import new_owner; print(new_owner()); input()"],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    owner = child.stdout.readline().strip()
    assert f":{child.pid}:" in owner and not owner_gone(owner) and not owner_gone(new_owner())
    child.kill()
    for _ in range(100):
        if owner_gone(owner):
            break
        time.sleep(0.02)
    assert owner_gone(owner), "a zombie is dead"
    child.communicate()
    assert owner_gone(owner)
    earlier = re.sub(r"-(\d+)-(\d+)-", lambda m: f"-{m[1]}-{int(m[2]) - 1}-", new_owner())
    assert owner_gone(earlier), "a number given again"
    where = machine()
    elsewhere = owner.replace(where, "0123abcd")
    renamed = owner.replace(socket.gethostname(), "renamed", 1)
    assert not owner_gone(elsewhere) and owner_gone(renamed), "a host's name says nothing"
    for odd in (None, "", "x", "h:1:ab", f"{socket.gethostname()}:{child.pid}:ab12", f"h:1:{where}-pid-1-ab"):
        assert not owner_gone(odd)


IN_A_CONTAINER = """
import os, sys
from llmforge.core import AlreadyRunning
from llmforge.store import Store
store = Store(sys.argv[1])
try:
    lease = store.claim("naive-1")
    print(os.getpid(), "claimed", flush=True)
    input()
    store.heartbeat(lease)
    print("still ours")
except AlreadyRunning:
    print(os.getpid(), "refused", flush=True)
"""


@pytest.mark.slow
def test_two_containers_of_one_name_do_not_take_each_other_over(tmp_path):
    "Two PID namespaces, each with a process 1, on a host of one name: the second sees that the first lives."
    inside = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("no PID namespace can be made here (unshare needs root)")
    store = Store(f"sqlite:///{tmp_path}/store.db")
    make(store)
    command = [*inside, sys.executable, "-c", IN_A_CONTAINER, str(store.engine.url)]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "1 claimed\n"
        assert subprocess.run(command, capture_output=True, text=True).stdout == "1 refused\n"
        assert store.lease_left(store.experiment("naive-1")) > 0
        assert first.communicate("\n")[0] == "still ours\n"
    finally:
        first.kill()
    store.close()


WORKER = """
    import sys, time
    from llmforge.store import Store
    from llmforge.core import AlreadyRunning, LeaseLost
    sys.path.insert(0, {tests!r})
    from test_store import a_row
    print("ready", flush=True); sys.stdin.readline()
"""


def workers(n, body, url):
    "n real processes that import everything, then run the body at the same moment; their last words."
    code = (
        textwrap.dedent(WORKER.format(tests=os.path.dirname(__file__)))
        + "url = sys.argv[1]\n"
        + textwrap.dedent(body)
    )
    procs = [
        subprocess.Popen(
            [sys.executable, "-c", code, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(n)
    ]
    for p in procs:
        assert p.stdout.readline() == "ready\n"
    for p in procs:
        p.stdin.write("go\n")
        p.stdin.flush()
    return procs


def last_words(procs):
    out = [p.communicate(timeout=60)[0].split() for p in procs]
    assert all(p.returncode == 0 for p in procs), out
    return out


@pytest.mark.slow
def test_of_processes_that_open_create_and_claim_at_once_one_wins(url):
    procs = workers(
        4,
        """
        s = Store(url)  # makes the tables, too
        for i in range(6):
            id = s.create_experiment(f"e{i}", "e", {"i": i})
            try: s.claim(id, owner=f"elsewhere:{i}:x"); print(id)
            except AlreadyRunning: pass
    """,
        url,
    )
    won = sorted(w for words in last_words(procs) for w in words)
    assert won == [f"e{i}" for i in range(6)]
    s = Store(url)
    assert all(s.experiment(f"e{i}").fence == 1 for i in range(6))
    s.close()


@pytest.mark.slow
def test_of_two_processes_that_take_over_at_once_one_wins(store, url):
    for i in range(8):
        store.claim(make(store, f"e{i}"), owner="elsewhere:1:ab", ttl=0)
    procs = workers(
        2,
        """
        s = Store(url)
        for i in range(8):
            try: print(s.claim(f"e{i}", owner="elsewhere:2:x").experiment_id)
            except AlreadyRunning: pass
    """,
        url,
    )
    assert sorted(w for words in last_words(procs) for w in words) == [f"e{i}" for i in range(8)]
    assert {store.experiment(f"e{i}").fence for i in range(8)} == {2}


@pytest.mark.slow
def test_kill_minus_nine_while_writing_then_continue_at_once(store, url):
    "Every row whose write had returned is there, once; the successor need not wait for the lease."
    make(store)
    for _ in range(3):
        [p] = workers(
            1,
            """
            s = Store(url); lease = s.claim("naive-1", ttl=600); done = s.done("naive-1")
            for i in range(1000):
                if f"q{i}" not in done: s.add_rows(lease, [a_row(i)]); print(f"q{i}", flush=True)
        """,
            url,
        )
        told = {p.stdout.readline().strip() for _ in range(15)}
        p.kill()
        told |= {w for w in p.communicate()[0].split("\n")[:-1] if w}
        assert told <= store.done("naive-1")
    lease = store.claim("naive-1")
    assert lease.fence == 4
    store.add_rows(lease, [a_row(i) for i in range(1000)])
    assert [r["example_id"] for r in store.rows("naive-1")] == [f"q{i}" for i in range(1000)]
    store.complete(lease, a_result(1000))


@pytest.mark.slow
def test_a_sleeper_wakes_up_to_a_lost_lease(store, url):
    [p] = workers(
        1,
        """
        s = Store(url); s.create_experiment("naive-1", "naive", {}); lease = s.claim("naive-1", ttl=.05)
        print("claimed", flush=True); sys.stdin.readline()
        try: s.add_rows(lease, [a_row(i) for i in range(5)])
        except LeaseLost: print("lost")
    """,
        url,
    )
    assert p.stdout.readline() == "claimed\n"
    time.sleep(0.1)
    lease = store.claim("naive-1")
    store.add_rows(lease, [a_row(0, "ours")])
    p.stdin.write("wake\n")
    p.stdin.flush()
    assert last_words([p]) == [["lost"]] and [r["answer"] for r in store.rows("naive-1")] == ["ours"]


# --- rows


def test_rows_are_stored_once_and_the_first_stays(store):
    lease = store.claim(make(store))
    store.add_rows(lease, [a_row(1), a_row(0)])
    store.add_rows(lease, [a_row(1, "other"), a_row(2)])
    store.add_rows(lease, [])
    rows = store.rows("naive-1")
    assert [(r["example_id"], r["answer"]) for r in rows] == [
        ("q0", "Paris"),
        ("q1", "Paris"),
        ("q2", "Paris"),
    ]
    assert (
        rows[0] == dict(a_row(0), error_type=None, error=None, attempt=None, **dict.fromkeys(NEW_IN_3))
        and rows[0]["cached"] is False
    )
    table = store.dataframe("naive-1")
    assert (
        list(table.example_id) == ["q0", "q1", "q2"]
        and table.scores[0]["f1"] == 0.5
        and table.correct.mean() == 1
    )


def test_rows_without_texts_have_the_same_numbers(store):
    "Of a trace only the attributes are read, by the database."
    lease = store.claim(make(store))
    trace = {"kind": "chain", "input": "x" * 50, "attributes": {"gold": ["p1"], "kind": 'é "', "big": 2**70}}
    failed = dict(example_id="q2", position=2, error_type="EngineError", error="no answer")
    store.add_rows(lease, [dict(a_row(0), trace=trace), dict(a_row(1), trace={"kind": "chain"}), failed])
    rows, numbers = store.rows("naive-1"), store.rows("naive-1", texts=False)
    texts = {"input_text", "output_text", "answer", "error"}
    assert [set(row) - set(n) for row, n in zip(rows, numbers, strict=True)] == [texts] * 3
    for row, n in zip(rows, numbers):
        assert n.pop("trace") == {"attributes": (row["trace"] or {}).get("attributes", {})}
        assert n == {name: value for name, value in row.items() if name in n}


def test_a_deep_trace_is_read_again(store):
    "Deeper than pydantic's parser goes."
    lease, trace = store.claim(make(store)), {"kind": "chain", "name": "x"}
    for _ in range(150):
        trace = {"kind": "chain", "name": "x", "children": [trace]}
    store.add_rows(lease, [dict(a_row(0), trace=trace)])
    assert store.rows("naive-1")[0]["trace"] == trace


def test_the_same_example_may_be_in_two_experiments(store):
    for id in ("a", "b"):
        store.add_rows(store.claim(make(store, id)), [a_row(0)])
    assert store.done("a") == store.done("b") == {"q0"} and store.dataframe(make(store, "c")).empty


def test_a_batch_is_stored_whole_or_not_at_all(store):
    lease = store.claim(make(store))
    bad = [
        ({"example_id": "q9"}, "(?i)position"),
        ({"position": 9}, "(?i)example_id"),
        (dict(a_row(9), latncy_ms=1), "did you mean 'latency_ms'"),
        (dict(a_row(9), latency_ms=float("nan")), "latency_ms is nan"),
        (dict(a_row(9), correct=float("inf")), "correct is inf"),
        (dict(a_row(9), scores={"f1": float("nan")}), "JSON"),
        (dict(a_row(9), cached="perhaps"), "(?i)boolean"),
    ]
    for row, message in bad:
        with pytest.raises(StoreError, match=message):
            store.add_rows(lease, [a_row(1), row])
    assert store.rows("naive-1") == []


def test_a_failed_row_and_awkward_text(store):
    lease = store.claim(make(store))
    odd = "NUL \0, half \ud83d, whole 😀, line \u2028 and \r\n, accents é"
    store.add_rows(
        lease,
        [
            dict(example_id="q0", position=0, error_type="EngineError", error=odd),
            a_row(1, odd),
            dict(a_row(2), trace={"output": odd}),
        ],
    )
    failed, text, traced = store.rows("naive-1")
    assert (
        failed["error_type"] == "EngineError"
        and failed["latency_ms"] is failed["scores"] is failed["correct"] is None
    )
    assert text["output_text"] == odd.replace("\0", "\ufffd").replace("\ud83d", "?")
    assert traced["trace"]["output"].replace("\0", "\ufffd") == text["output_text"]


@pytest.mark.slow
def test_an_experiment_runs_into_every_store(store, tmp_path):
    "The runner's own rows, not rows that a test wrote by hand: right, wrong, abstained and failed."
    from llmforge.batching import FakeEngine, Fault
    from llmforge.config import load_config
    from llmforge.runner import run_experiment

    config = load_config(
        {
            "experiment": {
                "name": "spine",
                "engine": "fake",
                "dataset": {"name": "almanac", "limit": 40},
                "method": {"shots": 1},
            }
        }
    )
    answers = lambda text, sampling: " unknown" if len(text) % 3 else " Paris"
    id = run_experiment(config, store, FakeEngine(answers, faults=[Fault(share=0.1)]), show=False)
    rows, result = store.rows(id), store.result(id)
    assert (
        store.experiment(id).status == "COMPLETED"
        and len(rows) == result["n"] == 40
        and result["failed"]
        and result["abstained"]
    )
    assert {type(r["correct"]) for r in rows} == {float} and {type(r["abstained"]) for r in rows} == {bool}
    other = Store("sqlite://")
    assert (
        import_experiment(other, export_experiment(store, id, tmp_path / "x")) == id
        and other.rows(id) == rows
        and other.result(id) == result
    )


def test_numpy_scalars_are_numbers(store):
    lease = store.claim(make(store))
    store.add_rows(
        lease,
        [
            dict(
                a_row(0),
                tokens_in=np.int64(7),
                latency_ms=np.float32(0.5),
                correct=np.float64(1),
                cached=np.bool_(True),
            )
        ],
    )
    row = store.rows("naive-1")[0]
    assert (row["tokens_in"], row["latency_ms"], row["cached"]) == (7, 0.5, True)


def test_a_result_must_be_over_the_rows_that_are_there(store):
    lease = store.claim(make(store))
    store.add_rows(lease, [a_row(0), a_row(1)])
    for wrong in (a_result(3), a_result(1), {"accuracy": 1.0}):
        with pytest.raises(StoreError, match="but 2 rows are stored"):
            store.complete(lease, wrong)
    with pytest.raises(StoreError, match="no column 'acuracy'.*did you mean 'accuracy'"):
        store.complete(lease, {"n": 2, "acuracy": 1.0})
    assert store.experiment("naive-1").status == "RUNNING" and store.result("naive-1") is None
    store.complete(lease, a_result(2))


def test_the_list_of_experiments(store):
    assert store.experiments().empty
    finished(store, "a")
    make(store, "b")
    store.fail(store.claim(make(store, "c")), "boom")
    t = store.experiments().set_index("id")
    assert (
        list(t.index) == ["a", "b", "c"]
        and list(t.status) == ["COMPLETED", "PENDING", "FAILED"]
        and t.accuracy["a"] == 1
        and t.error["c"] == "boom"
        and t.n["a"] == 3
    )


# --- opening


def test_reopening_keeps_everything(url):
    s = Store(url)
    finished(s)
    s.close()
    s = Store(url)
    assert s.experiment("naive-1").status == "COMPLETED"
    s.close()


@pytest.mark.parametrize(
    "change, message",
    [
        ("UPDATE meta SET schema_version = 7", "schema version 7, which this one does not know"),
        (
            "INSERT INTO migrations VALUES ('0999_later', 'x')",
            "migration '0999_later', which this one does not know",
        ),
    ],
)
def test_a_newer_store_is_refused_and_left_alone(url, tmp_path, change, message):
    s = Store(url)
    finished(s)
    with s.transaction() as c:
        c.exec_driver_sql(change)
    before = shape(s.engine)
    s.close()
    with pytest.raises(
        StoreError, match=f"newer LlmForge .{message}.: update LlmForge, or set LLMFORGE_STORE"
    ):
        Store(url)
    engine = open_engine(url)
    assert shape(engine) == before and not copies(tmp_path)
    engine.dispose()


COSTS = tuple(f"ALTER TABLE runs DROP COLUMN {n}" for n in (*NEW_IN_3, "attempt"))
TAKEN_AWAY = {  # the number in `meta` -> what takes a store back to it
    3: (
        *COSTS,
        "DROP TABLE requests",
        "DELETE FROM migrations WHERE name > '0004'",
    ),
    2: (*COSTS, "DROP TABLE requests", "DROP TABLE migrations", "UPDATE meta SET schema_version = 2"),
    1: (
        *COSTS,
        *(f"ALTER TABLE results DROP COLUMN {n}" for n in NEW_IN_2),
        "DROP TABLE requests",
        "DROP TABLE studies",
        "DROP TABLE migrations",
        "UPDATE meta SET schema_version = 1",
    ),
}


def made_old(url, schema=1):
    "Take away what came after a schema."
    s = Store(url)
    with s.transaction() as c:
        for change in TAKEN_AWAY[schema]:
            c.exec_driver_sql(change)
    s.close()


def shape(engine):
    "What the database says of itself: number, names of migrations, tables and their columns."
    with engine.connect() as c:
        look = sa.inspect(c)
        tables = {
            t: {(x["name"], str(x["type"]), x["nullable"]) for x in look.get_columns(t)}
            for t in look.get_table_names()
        }
        names = sorted(c.scalars(sa.select(APPLIED.c.name))) if "migrations" in tables else None
        return c.scalar(sa.select(META.c.schema_version)), names, tables


def copies(folder):
    return sorted(p for p in folder.iterdir() if ".before-" in p.name)


TODAY = (3, [m.name for m in MIGRATIONS])


@pytest.mark.parametrize("schema", TAKEN_AWAY)
def test_an_old_store_is_brought_up_to_date_in_place(store, url, tmp_path, schema):
    finished(store, "a")
    before = (store.rows("a"), store.result("a"), store.experiment("a"), shape(store.engine))
    exported = files(export_experiment(store, "a", tmp_path / "1"))
    store.claim(make(store, "b"), owner="elsewhere:1:ab")
    made_old(url, schema)
    assert shape(store.engine)[:2] == (schema, [m.name for m in MIGRATIONS[:3]] if schema == 3 else None)
    s = Store(url)
    assert (s.rows("a"), s.result("a"), s.experiment("a"), shape(s.engine)) == before
    assert before[-1][:2] == TODAY
    assert (
        s.experiment("b").lease_owner == "elsewhere:1:ab"
        and files(export_experiment(s, "a", tmp_path / "2")) == exported
    )
    assert s.freeze_plan("x", {"a": 1}).intact
    s.close()
    Store(url).close()


FIRST = {
    "schema-1": "0002_studies",
    "schema-2": "0003_names_of_migrations",
    "schema-2-named": "0004_costs_of_rows",
    "schema-3": "0005_requests",
    "schema-3-requests": "0006_attempts_of_rows",
    "schema-4": "0007_prompts_once",
}


def written(name, file):
    "A store that an LlmForge wrote once: its schema of exports and its file."
    with sqlite3.connect(file) as c:
        c.executescript((TESTS / "stores" / f"{name}.sql").read_text())
    c.close()
    return int(name.split("-")[1]), file


@pytest.fixture(params=FIRST)
def old(request, tmp_path):
    "A store of every older kind."
    return written(request.param, tmp_path / "llmforge.db")


def dump(file):
    "All that is in a SQLite file, as SQL."
    c = sqlite3.connect(file)
    try:
        return list(c.iterdump())
    finally:
        c.close()


def test_a_store_that_an_old_llmforge_wrote(old, request, tmp_path, caplog):
    "It is copied once, brought up to date once, holds what it held, and then is a store like any other."
    schema, file = old
    before = dump(file)
    s = Store(f"sqlite:///{file}")
    first = FIRST[request.node.callspec.params["old"]]
    [copy] = copies(tmp_path)
    assert copy.name == f"llmforge.db.before-{first}" and dump(copy) == before
    [message] = [r.getMessage() for r in caplog.records if r.name == "llmforge.tables"]
    assert "older LlmForge" in message and first in message and str(copy) in message
    assert shape(s.engine)[:2] == TODAY and set(s.experiments().status) == {"COMPLETED", "RUNNING"}
    assert [r["example_id"] for r in s.rows(f"old-{schema}")] == ["q0", "q1"]
    assert s.plan_names() == (["study"] if schema >= 2 else [])
    exported = TESTS / "exports" / f"schema-{schema}"
    assert files(export_experiment(s, f"old-{schema}", tmp_path / "x")).items() <= files(exported).items()
    with s.transaction() as c:
        c.execute(EXPERIMENTS.update().where(EXPERIMENTS.c.id == "unfinished").values(lease_expires=0.0))
    s.complete(s.claim("unfinished"), a_result(0))
    s.close()
    after, caplog_before = dump(file), len(caplog.records)
    Store(f"sqlite:///{file}").close()
    assert dump(file) == after and copies(tmp_path) == [copy] and len(caplog.records) == caplog_before
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")], "nothing is left beside"


def test_a_store_of_today_is_opened_as_it_is(tmp_path, caplog):
    "The newest of the stores kept here needs no migration, and gives the newest export."
    schema, file = written("schema-4-prompts", tmp_path / "llmforge.db")
    before = dump(file)
    s = Store(f"sqlite:///{file}")
    exported = TESTS / "exports" / f"schema-{schema}"
    assert files(export_experiment(s, "old-4", tmp_path / "x")).items() <= files(exported).items()
    known, unknown = s.rows("old-4")
    assert (known["attempt"], unknown["attempt"]) == (1, 3)
    assert [known[n] for n in NEW_IN_3] == [3.5, 4, 0.1 + 0.2, 0.25, "length"]
    assert {unknown[n] for n in NEW_IN_3} == {None} and shape(s.engine)[:2] == TODAY
    s.close()
    assert dump(file) == before and not copies(tmp_path) and schema == max(READABLE)


def test_the_copy_is_a_way_back(old, tmp_path):
    "A store in whose place the copy was put is migrated again; a copy that is there is not overwritten."
    schema, file = old
    Store(f"sqlite:///{file}").close()
    [copy] = copies(tmp_path)
    kept = copy.read_bytes()
    shutil.copyfile(copy, file)
    s = Store(f"sqlite:///{file}")
    assert shape(s.engine)[:2] == TODAY and len(s.rows(f"old-{schema}")) == 2
    s.close()
    assert copies(tmp_path) == [copy, copy.with_name(f"{copy.name}.2")] and copy.read_bytes() == kept


def test_without_room_for_the_copy_nothing_is_changed(old, tmp_path, monkeypatch):
    _, file = old
    before = dump(file)

    def full(*a):
        raise OSError("No space left on device")

    with monkeypatch.context() as m:
        m.setattr("llmforge.files.os.replace", full)
        with pytest.raises(StoreError, match="cannot be copied to .*before-.*: No space left"):
            Store(f"sqlite:///{file}")
    assert dump(file) == before and not copies(tmp_path)
    Store(f"sqlite:///{file}").close()


def test_a_new_store_and_one_in_memory_are_not_copied(url, tmp_path, caplog):
    Store(url).close()
    Store("sqlite://").close()
    assert not copies(tmp_path) and not [r for r in caplog.records if r.name == "llmforge.tables"]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_store_in_memory_is_one_for_all_threads(url):
    "A notebook may show in one thread what another one stores: none ends another's transaction."
    s, ids = Store(url), {f"one-{i}" for i in range(40)}

    def store_and_show(id):
        s.create_experiment(id, "one", {})
        return id in {e["id"] for e in s.listing()}

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(store_and_show, sorted(ids)))
    assert {e["id"] for e in s.listing()} == ids


def test_a_new_store_and_an_old_one_end_the_same(old, tmp_path):
    a, b = Store(f"sqlite:///{old[1]}"), Store(f"sqlite:///{tmp_path}/new.db")
    assert shape(a.engine) == shape(b.engine)
    a.close()
    b.close()


def test_code_of_schema_1_goes_on_in_a_store_that_was_brought_up_to_date(store):
    "A process that opened the store before knows none of the new columns."
    lease = store.claim(make(store))
    with store.transaction() as c:
        c.exec_driver_sql(
            "INSERT INTO results (experiment_id, n, accuracy, summary) VALUES ('naive-1', 0, 0.5, '{}')"
        )
    assert (
        store.result("naive-1")
        == {**dict.fromkeys(store.result("naive-1")), "n": 0, "accuracy": 0.5, "summary": {}}
        and lease.fence == 1
    )


def energy(run=None):
    "A migration that a later LlmForge may bring."
    return Migration("0999_energy", schema=9, columns={"results": [sa.Column("joules", sa.Float)]}, run=run)


def test_a_migration_that_fails_leaves_the_old_store(url):
    made_old(url)

    def boom(c):
        raise sa.exc.OperationalError("ALTER TABLE", {}, Exception("disk full"))

    engine = open_engine(url)
    with pytest.raises(StoreError, match="disk full"):
        migrate(engine, [*MIGRATIONS, energy(boom)])
    number, names, tables = shape(engine)
    assert (number, names) == (1, None) and "studies" not in tables
    assert not {n for n, *_ in tables["results"]} & {*NEW_IN_2, "joules"}
    assert migrate(engine) == [m.name for m in MIGRATIONS[1:]] and shape(engine)[:2] == TODAY
    assert migrate(engine, [*MIGRATIONS, energy()]) == ["0999_energy"]
    assert "joules" in {n for n, *_ in shape(engine)[2]["results"]}
    engine.dispose()


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_migration_leaves_the_old_store(url):
    made_old(url)
    [p] = workers(
        1,
        """
        import os, signal, sqlalchemy as sa
        from llmforge.tables import MIGRATIONS, Migration, migrate, open_engine
        def die(c): print("changed", flush=True); os.kill(os.getpid(), signal.SIGKILL)
        migrate(open_engine(url), [*MIGRATIONS, Migration("0999_energy", 9, run=die)])
    """,
        url,
    )
    assert p.communicate(timeout=60)[0] == "changed\n" and p.returncode == -signal.SIGKILL
    engine = open_engine(url)
    assert shape(engine)[:2] == (1, None) and "studies" not in shape(engine)[2]
    engine.dispose()
    s = Store(url)
    assert shape(s.engine)[:2] == TODAY and finished(s)
    s.close()


@pytest.mark.slow
def test_of_processes_that_open_an_old_store_at_once_one_migrates(url, tmp_path):
    made_old(url)
    opened = last_words(
        workers(
            4,
            """
        from llmforge.tables import migrate, open_engine
        print(len(migrate(open_engine(url))))
        s = Store(url)
        s.freeze_plan("study", {"by": sys.argv[1][-3:]})
        s.create_experiment("e", "e", {}); s.close()
    """,
            url,
        )
    )
    assert sorted(opened) == [["0"], ["0"], ["0"], [str(len(MIGRATIONS) - 1)]]
    s = Store(url)
    assert shape(s.engine)[:2] == TODAY and list(s.experiments().id) == ["e"]
    s.close()
    assert len(copies(tmp_path)) == url.startswith("sqlite")


def test_a_record_has_the_columns_of_its_table():
    assert [f.name for f in fields(Record)] == EXPERIMENTS.columns.keys()


def test_migrations_only_add():
    "Old code goes on writing: new columns may be empty. Names are unique and in order, schemas never fall."
    names, schemas = [m.name for m in MIGRATIONS], [m.schema for m in MIGRATIONS]
    assert names == sorted(set(names)) and schemas == sorted(schemas) and set(schemas) == READABLE
    assert all(c.nullable for m in MIGRATIONS for columns in m.columns.values() for c in columns)


def test_a_foreign_database_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "x.db") as c:
        c.execute("CREATE TABLE runs (x)")
    with pytest.raises(StoreError, match="is not a store: it has the table 'runs', but not 'meta'"):
        Store(f"sqlite:///{tmp_path}/x.db")
    with sqlite3.connect(tmp_path / "x.db") as c:
        assert [n for (n,) in c.execute("SELECT name FROM sqlite_master")] == ["runs"]
    (tmp_path / "text.db").write_text("not a database, but long enough to look at " * 100)
    with pytest.raises(StoreError, match="not a database"):
        Store(f"sqlite:///{tmp_path}/text.db")


def test_the_default_is_the_project_s_store(tmp_path, monkeypatch):
    monkeypatch.delenv("LLMFORGE_STORE", raising=False)
    monkeypatch.setenv("LLMFORGE_OUTPUTS", str(tmp_path / "out put?#%20"))
    s = Store()
    make(s)
    s.close()
    assert (tmp_path / "out put?#%20" / "llmforge.db").is_file()
    monkeypatch.setenv("LLMFORGE_STORE", f"sqlite:///{tmp_path}/other.db")
    s = Store()
    assert s.experiments().empty
    s.close()


def test_bad_urls_and_secrets(tmp_path):
    for bad, message in (
        ("nonsense", "not a store URL"),
        ("mysql://h/x", "unknown kind of store 'mysql'"),
        (f"sqlite:///{tmp_path}/no/such/dir/x.db", "unable to open"),
    ):
        with pytest.raises(StoreError, match=message):
            Store(bad)
    for bad in (
        "postgresql://me:hunter2@127.0.0.1:1/x",
        "postgresql://me:a@hunter2@127.0.0.1:1/x",
        "postgresql:/me:hunter2@127.0.0.1/x",
        "postgresql://127.0.0.1:1/x?user=me&password=hunter2",
        "postgresql://me:hunter2@127.0.0.1:port/x",
        "me:hunter2@127.0.0.1",
    ):
        with pytest.raises((StoreError, MissingExtra)) as e:
            Store(bad)
        said = str(e.value) + "".join(traceback.format_exception(e.value))
        assert "hunter2" not in said.replace(bad, "") and "\n" not in str(e.value), bad


def test_sqlite_is_in_wal_mode_and_readers_see_while_a_writer_writes(tmp_path):
    url = f"sqlite:///{tmp_path}/s.db"
    a, b = Store(url), Store(url)
    lease = a.claim(make(a))
    with a.transaction() as c:
        hold_lease(c, lease)
        assert b.experiment("naive-1").status == "RUNNING" and b.rows("naive-1") == []
    with a.transaction() as c:
        assert (
            c.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            and c.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        )
    a.close()
    b.close()


# --- export and import

NAMES = {"config.yaml", "runs.jsonl", "result.json"}


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_export_import_export_is_byte_stable(store, tmp_path):
    id = make(store, label="exp_001", corpus_fingerprint="c1")
    lease = store.claim(id)
    store.add_rows(
        lease,
        [
            a_row(2, "line\nbreak \u2028 – é"),
            dict(example_id="q1", position=1, error_type="EngineError", error="x"),
            a_row(0),
        ],
    )
    rates = {"accuracy": 2 / 3, "answered": 2, "failed": 1, "tokens_used": None, "throughput": 1 / 3}
    summary = {"accuracy": {"value": 2 / 3, "low": 0.2, "high": 0.9, "n": 3}}
    store.complete(lease, a_result(3, **rates, summary=summary), {"z": 1, "a": {"commit": "abc"}})
    one, two = (
        files(export_experiment(store, id, tmp_path / "1")),
        files(export_experiment(store, id, tmp_path / "2")),
    )
    assert (
        one == two and set(one) == NAMES and all(b"\r" not in t and t.endswith(b"\n") for t in one.values())
    )
    assert (
        one["runs.jsonl"].count(b"\n") == 3
        and list(d := json.loads(one["runs.jsonl"].split(b"\n")[0])) == sorted(d)
        and d["example_id"] == "q0"
    )
    assert not {b"lease", b"fence"} & {w for w in (b"lease", b"fence") if w in one["result.json"]}
    other = Store(f"sqlite:///{tmp_path}/other.db")
    for _ in range(2):
        assert import_experiment(other, tmp_path / "1") == id
    assert files(export_experiment(other, id, tmp_path / "3")) == one
    delete_experiment(store, id)
    assert import_experiment(store, tmp_path / "3") == id, "and back, from SQLite to the other"
    assert other.rows(id) == store.rows(id) and other.result(id) == store.result(id)
    mine, theirs = asdict(store.experiment(id)), asdict(other.experiment(id))
    assert {k: v for k, v in mine.items() if k not in ("fence", "lease_owner")} == {
        k: v for k, v in theirs.items() if k not in ("fence", "lease_owner")
    }
    other.close()


def test_a_study_rests_on_the_only_experiment_of_an_arm():
    "Under whatever name, a pilot's or another study's; a second one of the same work serves as well."
    store = Store("sqlite://")
    store.freeze_plan("s", {"experiments": {"a/d/0": "s-a-6c1f5a70", "b/d/0": "s-b-0b9e33d4"}})
    for id in ("pilot-6c1f5a70", "other-11111111", "again-6c1f5a70.2"):
        store.complete(store.claim(store.create_experiment(id, "x", {"id": id})), a_result(0))
        asked = deletion_question(store, id)
        assert ("rest on it: s;" in asked) == (id == "pilot-6c1f5a70") and "its 0 rows" in asked
    assert "rest on it" not in deletion_question(store, "pilot-6c1f5a70")


def test_of_two_votes_at_once_the_last_counts(tmp_path):
    store = Store("sqlite://")
    for replace, said in ((True, ["right"]), (False, ["right"])):
        put_votes(store, [Vote("a-1", "b-1", "q1", "Ada", x) for x in ("left", "right")], replace=replace)
        assert [v.said for v in votes_of(store, "a-1")] == said
    with pytest.raises(DataError, match="two experiments; received 'a-1' twice"):
        put_votes(store, [Vote("a-1", "a-1 ", "q1", "Ada", "left")])
    (tmp_path / "votes.jsonl").write_text('\n\n{"left": 1}\n')
    with pytest.raises(StoreError, match="line 3 is no vote"):
        read_votes(tmp_path, "a-1")


def test_votes_go_with_an_export_and_join_those_that_are_there(store, tmp_path):
    id, text = make(store), "<b>|*\u2028é\n"
    store.complete(store.claim(id), a_result(0))
    put_votes(store, [Vote(id, "b-1", "q1", text, "left"), Vote("b-1", id, "q2", text, "tie")])
    put_votes(store, [Vote("b-1", "c-1", "q1", "Ada", "left")])
    ours = votes_of(store, id)
    export_experiment(store, id, tmp_path / "1")
    other = Store(f"sqlite:///{tmp_path}/other.db")
    put_votes(other, [Vote("b-1", id, "q1", text.strip(), "skip", "2026-01-01")])
    for _ in range(2):
        import_experiment(other, tmp_path / "1")
    there = votes_of(other, id)
    assert [v.said for v in there] == ["skip", "tie"] and there[1] == ours[1] and ours[1].winner is None
    assert {v.winner for v in ours} == {id, None} and not votes_of(other, "c-1")
    assert "2 votes" in deletion_question(other, id)
    assert delete_experiment(other, id) == 0 and not votes_of(other, "b-1")
    for wrong in ('{"left": 1}', "[]", "x", (tmp_path / "1/votes.jsonl").read_text().replace(id, "other")):
        (tmp_path / "1" / "votes.jsonl").write_text(wrong)
        with pytest.raises(StoreError, match="line 1 is no vote"):
            import_experiment(other, tmp_path / "1")
        assert not other.listing(), "nothing was imported"
    other.close()


def test_an_exported_config_can_be_run_again(tmp_path):
    from llmforge.config import load_config

    config = load_config({"experiment": {"name": "again"}})
    s = Store("sqlite://")
    id = s.create_experiment("again-1", "again", config)
    s.complete(s.claim(id), a_result(0))
    assert load_config(export_experiment(s, id, tmp_path / "x") / "config.yaml") == config
    import_experiment(Store("sqlite://"), tmp_path / "x")


def test_only_completed_experiments_are_exported(store, tmp_path):
    make(store)
    with pytest.raises(StoreError, match="is PENDING; only a COMPLETED"):
        export_experiment(store, "naive-1", tmp_path / "x")
    store.claim("naive-1")
    with pytest.raises(StoreError, match="is RUNNING; only a COMPLETED"):
        export_experiment(store, "naive-1", tmp_path / "x")


def edit(name, old, new):
    return lambda d: (d / name).write_text((d / name).read_text().replace(old, new))


def twice(d):
    lines = (d / "runs.jsonl").read_text().split("\n")
    (d / "runs.jsonl").write_text("\n".join([lines[0], lines[0], *lines[2:]]))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda d: (d / "result.json").unlink(), "not an exported experiment.*result.json"),
        (edit("runs.jsonl", "Paris", "London"), "not what result.json was computed from"),
        (
            lambda d: (d / "runs.jsonl").write_text(
                "".join((d / "runs.jsonl").read_text().splitlines(True)[:2])
            ),
            "runs.jsonl",
        ),
        (twice, "runs.jsonl"),
        (edit("config.yaml", "seed: 0", "seed: 1"), "config.yaml is not the config that ran"),
        (edit("result.json", '"schema": 1', '"schema": 99'), "schema is 99"),
        (edit("result.json", '"n": 3', '"n": 4'), "over 4 examples"),
        (edit("result.json", "COMPLETED", "RUNNING"), "status is not COMPLETED"),
        (lambda d: (d / "result.json").write_text("{}"), "not an exported experiment.*KeyError"),
        (lambda d: (d / "result.json").write_text("[]"), "not an exported experiment"),
        (lambda d: (d / "runs.jsonl").write_text("{broken\n"), "not an exported experiment.*JSONDecodeError"),
        (lambda d: (d / "config.yaml").write_text("- 1\n"), "not an exported experiment"),
        (lambda d: (d / "config.yaml").write_text("a: &x [1]\nb: *x\n"), "aliases"),
        (lambda d: (d / "config.yaml").write_bytes(b"\xff\xfe"), "not an exported experiment"),
        (
            edit("result.json", '"accuracy": 1.0,\n  "answered"', '"acc": 1.0,\n  "answered"'),
            "no column 'acc'",
        ),
        (edit("result.json", '"label"', '"lebel"'), "must say of the experiment: id, name, label"),
    ],
)
def test_damaged_exports_are_refused_and_leave_no_trace(tmp_path, damage, message):
    s, other = Store("sqlite://"), Store("sqlite://")
    folder = export_experiment(s, finished(s), tmp_path / "x")
    damage(folder)
    with pytest.raises((StoreError, ConfigError), match=message):
        import_experiment(other, folder)
    assert other.experiments().empty
    with other.transaction() as c:
        assert c.scalar(sa.select(sa.func.count()).select_from(RUNS)) == 0


def test_an_import_never_overwrites(store, tmp_path):
    s = Store("sqlite://")
    folder = export_experiment(s, finished(s, n=2), tmp_path / "x")
    finished(store, n=3)
    with pytest.raises(StoreError, match="other content; neither was changed"):
        import_experiment(store, folder)
    assert len(store.rows("naive-1")) == 3
    make(store, "naive-1b")
    make(s2 := Store("sqlite://"))
    with pytest.raises(StoreError, match="is PENDING"):
        import_experiment(s2, folder)


def test_an_export_says_the_oldest_schema_that_holds_it(store, tmp_path):
    for id, more in (
        ("plain", {}),
        ("scored", {"faithfulness": 0.75, "hallucination_rate": 0.25}),
        ("half", {"hallucination_rate": 0.0}),
    ):
        make(store, id)
        store.complete(store.claim(id), a_result(0, **more))
        text = files(export_experiment(store, id, tmp_path / id))["result.json"]
        assert json.loads(text)["schema"] == (2 if more else 1) and (b"faithfulness" in text) == bool(more)
        other = Store("sqlite://")
        for _ in range(2):
            assert import_experiment(other, tmp_path / id) == id
        assert other.result(id) == store.result(id) == {**store.result(id), **dict.fromkeys(NEW_IN_2), **more}
        assert files(export_experiment(other, id, tmp_path / f"{id}2"))["result.json"] == text
    row = store.experiments().set_index("id").loc["scored"]
    assert (row.faithfulness, row.hallucination_rate) == (0.75, 0.25)


def test_a_result_of_schema_2_with_nothing_new_in_it_is_the_same_result(tmp_path):
    s = Store("sqlite://")
    folder = export_experiment(s, finished(s), tmp_path / "x")
    about = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(
        json.dumps({**about, "schema": 2, "result": {**about["result"], **dict.fromkeys(NEW_IN_2)}})
    )
    assert import_experiment(s, folder) == "naive-1"


@pytest.mark.parametrize("schema", sorted(READABLE))
def test_every_schema_ever_exported_can_be_imported(store, tmp_path, schema):
    "There is an export of each, as it was written then; imported and exported again it is the same."
    folder = TESTS / "exports" / f"schema-{schema}"
    assert json.loads((folder / "result.json").read_text())["schema"] == schema
    id = import_experiment(store, folder)
    assert import_experiment(store, folder) == id
    again = files(export_experiment(store, id, tmp_path / "again"))
    if (folder / "plan.json").exists():
        plan = import_plan(store, folder)
        again |= files(export_plan(store, plan.name, tmp_path / "plan"))
    assert again == files(folder)


@pytest.mark.slow
def test_a_column_that_comes_later_is_one_entry(tmp_path):
    "With one more entry in the list, old exports stay as they are, and new ones say the new schema."
    code = f"""
    import json, sqlalchemy as sa, llmforge.tables as t
    columns = {{"results": [sa.Column("joules", sa.Float)], "runs": [sa.Column("watts", sa.Float)]}}
    more = t.Migration("0999_energy", schema=9, columns=columns)
    t.MIGRATIONS.append(more); t.READABLE.add(9); more.declare()
    from pathlib import Path
    from llmforge.store import Store
    from llmforge.exports import export_experiment, import_experiment
    s, other, out = Store("sqlite:///{tmp_path}/s.db"), Store("sqlite://"), Path("{tmp_path}")
    for n in (1, 2, 3, 4):
        id = import_experiment(s, f"{TESTS}/exports/schema-{{n}}")
        again = export_experiment(s, id, out / id)
        old = Path(f"{TESTS}/exports/schema-{{n}}")
        for p in again.iterdir(): assert p.read_bytes() == (old / p.name).read_bytes()
    for i, (row, result) in enumerate([({{"watts": 3.5}}, {{}}), ({{}}, {{"joules": 7.0}})]):
        id = f"new{{i}}"
        lease = s.claim(s.create_experiment(id, "new", {{}}))
        s.add_rows(lease, [dict(example_id="q0", position=0, **row)])
        s.complete(lease, dict(n=1, summary={{}}, **result))
        folder = export_experiment(s, id, out / id)
        about = json.loads((folder / "result.json").read_text())
        assert about["schema"] == 9 and about["result"]["joules"] == result.get("joules")
        assert json.loads((folder / "runs.jsonl").read_text())["watts"] == row.get("watts")
        import_experiment(other, folder)
        assert other.rows(id) == s.rows(id) and other.result(id) == s.result(id)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
    with pytest.raises(StoreError, match="migration '0999_energy', which this one does not know"):
        Store(f"sqlite:///{tmp_path}/s.db")
    with pytest.raises(StoreError, match="schema is 9, this LlmForge reads 1, 2, 3, 4"):
        import_experiment(Store("sqlite://"), tmp_path / "new0")


@pytest.mark.parametrize("moment", range(4))
def test_an_export_that_breaks_off_leaves_no_mixture(tmp_path, monkeypatch, moment):
    "The old export, the new one, or none: never the rows of one beside the result of the other."
    s, other = Store("sqlite://"), Store("sqlite://")
    folder = export_experiment(s, finished(s, n=2), tmp_path / "x")
    (folder / "experiment.ipynb").write_text("{}")
    old = files(folder)
    new = files(export_experiment(other, finished(other, n=3), tmp_path / "y"))
    places = iter([True] * moment + [False] * 9)
    replace = os.replace

    def maybe(*a):
        if not next(places):
            raise OSError("killed")
        replace(*a)

    monkeypatch.setattr("llmforge.files.os.replace", maybe)
    if moment < 3:
        with pytest.raises(OSError, match="killed"):
            export_experiment(other, "naive-1", folder)
        assert "result.json" not in files(folder) or files(folder) == old
    else:
        export_experiment(other, "naive-1", folder)
        assert files(folder) == {**new, "experiment.ipynb": b"{}"}
    assert set(files(folder)) <= {*NAMES, "experiment.ipynb"}, "nothing is left beside"
    assert all(text in (old[name], new.get(name)) for name, text in files(folder).items()), (
        "each file is whole"
    )


@pytest.mark.slow
def test_a_kill_in_the_middle_of_an_export_leaves_no_mixture(tmp_path):
    "Killed before one of the three files takes its place; the next export repairs what is missing."
    s, other = Store("sqlite://"), Store(f"sqlite:///{tmp_path}/other.db")
    export_experiment(s, finished(s, n=2), tmp_path / "x")
    new = files(export_experiment(other, finished(other, n=3), tmp_path / "y"))
    for moment in range(3):
        shutil.copytree(tmp_path / "x", folder := tmp_path / f"x{moment}")
        [p] = workers(
            1,
            f"""
            import os, signal
            from llmforge.exports import export_experiment
            replace, places = os.replace, []
            def dying(*a):
                if len(places) == {moment}: os.kill(os.getpid(), signal.SIGKILL)
                places.append(a); replace(*a)
            os.replace = dying
            export_experiment(Store(url), "naive-1", {str(folder)!r})
            """,
            f"sqlite:///{tmp_path}/other.db",
        )
        p.communicate(timeout=60)
        assert p.returncode == -signal.SIGKILL and not (folder / "result.json").exists()
        with pytest.raises(StoreError, match="not an exported experiment.*result.json"):
            import_experiment(s, folder)
        export_experiment(other, "naive-1", folder)
        assert new.items() <= files(folder).items()
    other.close()


def test_an_export_that_is_there_is_left_alone(tmp_path):
    s = Store("sqlite://")
    folder = export_experiment(s, finished(s), tmp_path / "x")
    before = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.iterdir()}
    export_experiment(s, "naive-1", folder)
    assert {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.iterdir()} == before


def test_an_export_into_the_folder_one_is_in(tmp_path, monkeypatch):
    "Twice, the second time with other rows; what else is there stays, and nothing is written beside it."
    s, other = Store("sqlite://"), Store("sqlite://")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "notes.txt").write_text("mine")
    monkeypatch.chdir(tmp_path / "here")
    export_experiment(s, finished(s, n=2), ".")
    export_experiment(other, finished(other, n=3), ".")
    assert sorted(p.name for p in Path().iterdir()) == [
        "config.yaml",
        "notes.txt",
        "result.json",
        "runs.jsonl",
    ]
    assert len(Path("runs.jsonl").read_text().splitlines()) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize("name", ["config.yaml", "runs.jsonl", "result.json"])
def test_an_export_that_cannot_be_written_leaves_the_old_one(name, tmp_path, monkeypatch):
    s, other = Store("sqlite://"), Store("sqlite://")
    folder = export_experiment(s, finished(s, n=2), tmp_path / "x")
    old = files(folder)
    finished(other, n=3)
    open_file = Path.open

    def full(self, mode="r", *args, **more):
        if self.name == name and "w" in mode:
            raise OSError("No space left on device")
        return open_file(self, mode, *args, **more)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space"):
        export_experiment(other, "naive-1", folder)
    assert files(folder) == old
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


# --- plans of studies

PLAN = {
    "hypotheses": [{"id": "h1", "claim": "Ünïcode “claims” too", "min_effect": 0.1 + 0.2, "margin": None}],
    "alpha": 0.05,
    "seeds": (0, 1),
}


def test_the_first_plan_stays(store, url):
    assert store.frozen_plan("s") is None
    first = store.freeze_plan("s", PLAN)
    assert (
        first.intact
        and first.plan_json == json.loads(json.dumps(PLAN))
        and first.name == "s"
        and first.frozen_at.endswith("+00:00")
    )
    time.sleep(0.005)
    for plan in (PLAN, {"alpha": 0.2}, {}):
        assert store.freeze_plan("s", plan) == store.frozen_plan("s") == first
    assert (
        store.freeze_plan("t", {**PLAN, "alpha": 0.2}).plan_hash
        != first.plan_hash
        == store.freeze_plan("u", dict(reversed(PLAN.items()))).plan_hash
    )
    again = Store(url)
    assert again.frozen_plan("s") == first
    again.close()


def test_a_plan_is_there_before_what_starts_afterwards(store):
    frozen = store.freeze_plan("s", PLAN)
    store.claim(id := make(store))
    assert store.experiment(id).started_at >= frozen.frozen_at


@pytest.mark.slow
def test_of_processes_that_freeze_at_once_one_wins_and_all_see_it(store, url):
    said = [
        w
        for words in last_words(
            workers(
                4,
                """
        import os
        s = Store(url)
        for i in range(10): print(s.freeze_plan(f"s{i}", {"by": os.getpid()}).plan_hash)
    """,
                url,
            )
        )
        for w in [words]
    ]
    assert len({tuple(w) for w in said}) == 1 and said[0] == [
        store.frozen_plan(f"s{i}").plan_hash for i in range(10)
    ]


def test_a_plan_rewritten_in_the_database_is_known(store, tmp_path):
    frozen = store.freeze_plan("s", PLAN)
    with store.transaction() as c:
        c.execute(STUDIES.update().values(plan_json={**frozen.plan_json, "alpha": 0.2}))
    assert not store.frozen_plan("s").intact and not store.freeze_plan("s", PLAN).intact
    assert "changed since" in store.frozen_plan("s")._repr_markdown_()
    with pytest.raises(StoreError, match="not the one that was frozen.*cannot be exported"):
        export_plan(store, "s", tmp_path)
    assert not (tmp_path / "plan.json").exists()


def test_a_plan_must_be_json(store):
    for bad in ({"alpha": float("nan")}, {"x": object()}):
        with pytest.raises(StoreError, match="not a JSON value"):
            store.freeze_plan("s", bad)
    assert store.frozen_plan("s") is None


def test_plans_travel_as_text(store, tmp_path):
    frozen = store.freeze_plan("s", PLAN)
    one = (export_plan(store, "s", tmp_path / "1") / "plan.json").read_bytes()
    other = Store("sqlite://")
    for _ in range(2):
        assert import_plan(other, tmp_path / "1") == frozen == other.frozen_plan("s")
    assert (
        (export_plan(other, "s", tmp_path / "2") / "plan.json").read_bytes() == one
        and b"\r" not in one
        and one.endswith(b"}\n")
    )
    with pytest.raises(StoreError, match="no plan of a study 'sz'"):
        export_plan(store, "sz", tmp_path / "3")
    theirs = Store("sqlite://")
    time.sleep(0.005)
    mine = theirs.freeze_plan("s", PLAN)
    with pytest.raises(StoreError, match="has another plan of 's'.*neither was changed"):
        import_plan(theirs, tmp_path / "1")
    assert theirs.frozen_plan("s") == mine != frozen and mine.plan_hash == frozen.plan_hash


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('"alpha": 0.05', '"alpha": 0.5', "not the one that was hashed"),
        ('"schema": 2', '"schema": 3', "schema is 3, this LlmForge needs 2"),
        ('"schema": 2', '"schema": 2, "more": 1', "not an exported plan: TypeError"),
        ('"name": "s"', '"name": ""', "must be text"),
        ('"plan_json": {', '"plan_json": [', "not an exported plan"),
        ('"frozen_at": "', '"frozen_at": "x', "not an exported plan: ValueError"),
        ("+00:00", "+02:00", "no time in UTC"),
        ("+00:00", "", "no time in UTC"),
        ("{", "", "not an exported plan"),
    ],
)
def test_damaged_plans_are_refused(tmp_path, old, new, message):
    s, other = Store("sqlite://"), Store("sqlite://")
    s.freeze_plan("s", PLAN)
    folder = export_plan(s, "s", tmp_path)
    edit("plan.json", old, new)(folder)
    with pytest.raises(StoreError, match=message):
        import_plan(other, folder)
    with pytest.raises(StoreError, match="not an exported plan"):
        import_plan(other, tmp_path / "nowhere")
    assert other.frozen_plan("s") is None


@pytest.mark.slow
def test_importing_needs_no_pandas():
    heavy = {"torch", "pandas", "scipy", "psutil"}
    code = f"import sys, llmforge.exports; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- a store that does not answer for a while

EXPERIMENT = {
    "experiment": {
        "name": "patient",
        "engine": {"name": "fake", "cache": False, "batch_size": 4, "concurrency": 4},
        "dataset": {"name": "almanac", "limit": 120},
        "method": {"shots": 0},
        "metrics": {"resamples": 100},
    }
}


@pytest.mark.slow
def test_a_lock_that_is_held_for_longer_than_the_busy_timeout_is_waited_for(tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    store = Store(url)
    sa.event.listen(store.engine, "connect", lambda c, _: c.execute("PRAGMA busy_timeout=10"))
    store.engine.dispose()
    with sqlite3.connect(tmp_path / "store.db", isolation_level=None, check_same_thread=False) as other:

        def hold(text, sampling):
            if not held:
                held.append(text)
                other.execute("BEGIN IMMEDIATE")
                threading.Timer(0.8, other.execute, ["COMMIT"]).start()
            return "x"

        held = []
        id = run_experiment(load_config(EXPERIMENT), store, FakeEngine(hold, batch_size=4), show=False)
    assert store.experiment(id).status == "COMPLETED" and store.result(id)["failed"] == 0
    assert store.experiment(id).fence == 1


@pytest.mark.slow
def test_a_run_lives_through_dropped_connections(postgres):
    "Every 50 ms the server drops all connections but its own; all rows are there in the end, once."
    import psycopg

    url, over = postgres.database(), threading.Event()
    name = url.rpartition("/")[2]
    with psycopg.connect(f"{postgres.url}/postgres", autocommit=True) as c:
        store = Store(url)

        def drop():
            while not over.wait(0.05):
                c.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])

        thread = threading.Thread(target=drop)
        thread.start()
        try:
            engine = FakeEngine("x", batch_size=4, delay=0.03)
            id = run_experiment(load_config(EXPERIMENT), store, engine, show=False)
        finally:
            over.set()
            thread.join()
        assert store.experiment(id).status == "COMPLETED" and store.result(id)["failed"] == 0
        ids = [r["example_id"] for r in store.rows(id)]
        assert len(ids) == len(set(ids)) == store.result(id)["n"] == 120
        store.close()


def test_an_end_whose_answer_was_lost_is_an_end(store, monkeypatch):
    "The commit came through, the connection broke after it."
    id, lose = make(store), []
    real = Store.complete

    def complete(self, *args):
        real(self, *args)
        if not lose:
            lose.append(1)
            raise StoreBusy("the connection broke")

    monkeypatch.setattr(Store, "complete", complete)
    lease = store.claim(id)
    end_experiment(store, lease, Status.COMPLETED, store.complete, a_result(0))
    assert store.experiment(id).status == "COMPLETED"
    with pytest.raises(StoreError, match="is COMPLETED"):
        end_experiment(store, lease, Status.FAILED, store.fail, "why")


def test_a_claim_whose_answer_was_lost_is_a_claim(store, monkeypatch):
    id, lose = make(store), []
    real = Store.claim

    def claim(self, *args):
        lease = real(self, *args)
        if not lose:
            lose.append(1)
            raise StoreBusy("the connection broke")
        return lease

    monkeypatch.setattr(Store, "claim", claim)
    with kept_lease(store, id, threading.Event()) as lease:
        assert (lease.fence, lease.owner) == (1, store.experiment(id).lease_owner)
        with pytest.raises(AlreadyRunning):
            with kept_lease(store, id, threading.Event()):
                pass
