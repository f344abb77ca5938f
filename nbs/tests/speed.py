"""How quick the server is at a team's size, as a command: python nbs/tests/speed.py

CPU time of the process, which another load of the machine changes less than the clock: the list of
1,000 experiments, the comparison of two runs of 1,000 rows, a blind vote; then 20 clients that follow a
run of 50 rows a second."""

import os
import statistics
import tempfile
import threading
import time

from serving import Served

from llmforge.batching import FakeEngine
from llmforge.beside import compare_page
from llmforge.blind import Session, prefer_page
from llmforge.board import list_page
from llmforge.config import load_config
from llmforge.runner import run_experiment
from llmforge.store import Store
from llmforge.views import Query

EXPERIMENTS, ROWS, CLIENTS, SECONDS, RATE = 1000, 1000, 20, 20, 50


def cpu_ms(f, times=7):
    "CPU milliseconds of a call, the median; the first one, which loads modules, is left out."
    f()
    spent = []
    for _ in range(times):
        start = time.process_time()
        f()
        spent.append(1000 * (time.process_time() - start))
    return statistics.median(spent)


def filled(store):
    "Two runs of 1,000 rows, which repeat a real one's, and copies without rows up to 1,000 experiments."
    config = {
        "name": "seed",
        "engine": "fake",
        "method": {"shots": 0},
        "dataset": {"name": "almanac", "limit": 100},
    }
    id = run_experiment(load_config({"experiment": config}), store, FakeEngine("Paris"), show=False)
    e, rows, result = store.experiment(id), store.rows(id), store.result(id)
    values = {**vars(e), "status": str(e.status.value)}
    del values["fence"]
    many = [{**rows[i % 100], "example_id": f"q{i}", "position": i} for i in range(ROWS)]
    for i in range(EXPERIMENTS):
        if i < 2:
            mine = [{**r, "answer": f"{r['answer']} {i}", "output_text": f"{r['answer']} {i}"} for r in many]
        else:
            mine = []
        store.put_experiment({**values, "id": f"run-{i:04d}", "name": f"run-{i % 50}"}, mine, result)
    return many


def watched(env, store, many):
    "20 clients of the stream while rows are written: events, errors, rows."
    served, over = Served(env), threading.Event()
    id = store.create_experiment("live-1", "live", store.experiment("run-0000").config_json)
    lease, events, errors, written = store.claim(id), [0] * CLIENTS, [], 0

    def watch(i):
        try:
            with served.http.stream("GET", "/events", params={"ids": id}, timeout=60) as stream:
                for line in stream.iter_lines():
                    events[i] += line.startswith("data: ")
                    if over.is_set():
                        return
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=watch, args=(i,)) for i in range(CLIENTS)]
    [t.start() for t in threads]
    start = time.monotonic()
    while (now := time.monotonic() - start) < SECONDS:
        if written < RATE * now:
            store.add_rows(
                lease, [{**many[written % ROWS], "example_id": f"w{written}", "position": written}]
            )
            written += 1
        else:
            time.sleep(0.005)
    over.set()
    store.add_rows(lease, [{**many[0], "example_id": "last", "position": written}])
    [t.join(30) for t in threads]
    served.close()
    return sum(events), len(errors), written


def main():
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/store.db"
        store = Store(url)
        many = filled(store)
        session = Session(a="run-0000", b="run-0001", voter="Ada")
        pages = {
            f"list page, {EXPERIMENTS:,} experiments": lambda: list_page(store, Query()),
            "the same, found by name": lambda: list_page(store, Query(text="run-7", sort="accuracy")),
            f"compare page, two runs of {ROWS:,} rows": lambda: compare_page(store, ["run-0000", "run-0001"]),
            f"a blind vote, {ROWS:,} questions": lambda: prefer_page(store, session),
        }
        print(f"load average at the start {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores\n")
        print("| page | CPU, ms |\n| --- | --- |")
        for name, make in pages.items():
            print(f"| {name} | {cpu_ms(make):.0f} |", flush=True)
        env = {"LLMFORGE_STORE": url, "LLMFORGE_OUTPUTS": folder}
        events, errors, written = watched(env, store, many)
        rate = f"{written / SECONDS:.0f} rows a second"
        print(f"\n{CLIENTS} clients, {rate} written: {events} events, {errors} errors")


if __name__ == "__main__":
    main()
