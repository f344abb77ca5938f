"""A campaign of kills, as a command: python nbs/tests/kills.py [--rounds 10] [--only api,worker,…]

It starts the server, a worker, a real Redis and a real PostgreSQL, and asks for an experiment. It kills
one of them, half of the times at a random moment after the request, half of the times after a random
number of rows, and starts it again as a service manager would. The table says whether each question has
one row in the end, how many calls of the model there were beyond one a question, and how long it took
from the kill to the end. The suite holds a few kills of each kind."""

import argparse
import os
import random
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import psutil
from serving import Model, Postgres, Redis, Served, ended, redis_program, started_worker

from llmforge.core import StoreBusy
from llmforge.store import Store

QUESTIONS, AT_ONCE, LIMIT = 20, 2, 120.0  # LIMIT: seconds until a round counts as not ended
VICTIMS = ("api", "worker", "horse", "redis", "postgres")


class Team:
    "The processes of a team, on one machine."

    def __init__(self, stack, folder):
        self.model = Model(delay=0.1)
        stack.callback(self.model.close)
        self.redis, self.postgres = Redis(redis_program(), folder), Postgres()
        stack.callback(self.redis.kill)
        stack.callback(self.postgres.close)
        self.env = {
            "LLMFORGE_OUTPUTS": f"{folder}/outputs",
            "LLMFORGE_STORE": self.postgres.database(),
            "LLMFORGE_REDIS": self.redis.url,
            "LLMFORGE_SERVERS": self.model.url,
            "LLMFORGE_TOKEN": "a-token-of-the-campaign",
        }
        self.api, self.worker = Served(self.env), started_worker(self.env)
        self.port = self.api.port
        stack.callback(lambda: self.api.close())
        stack.callback(lambda: ended(self.worker))
        self.store = Store(self.env["LLMFORGE_STORE"])

    def kill(self, who):
        "SIGKILL, and the start that a service manager would do; the horse's is the worker's business."
        if who == "api":
            self.api.process.kill()
            self.api.process.wait()
            self.api = Served(self.env, self.port)
        elif who == "worker":
            self.worker.kill()
            self.worker.wait()
            self.worker = started_worker(self.env)
        elif who == "horse":
            for child in psutil.Process(self.worker.pid).children():
                os.kill(child.pid, signal.SIGKILL)
        else:
            server = getattr(self, who)
            server.kill()
            time.sleep(0.3)
            server.start()
        if self.worker.poll() is not None:  # it may give up without Redis
            self.worker = started_worker(self.env)

    def patiently(self, f, *args):
        "What a call returns once the server or the store answers."
        end = time.monotonic() + LIMIT
        while True:
            try:
                return f(*args)
            except (StoreBusy, httpx.TransportError):
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def request(self, name, n=QUESTIONS):
        body = self.model.config(name, n)
        return self.patiently(lambda: self.api.http.post("/experiments?run=true", json=body)).json()["id"]

    def wait(self, id):
        "Whether it ends in time."
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            if self.patiently(self.store.experiment, id).status == "COMPLETED":
                return True
            if self.worker.poll() is not None:
                self.worker = started_worker(self.env)
            time.sleep(0.05)
        return False

    def whole(self, id, n=QUESTIONS):
        "Whether each question has one row, and none failed."
        positions = [r["position"] for r in self.patiently(self.store.rows, id)]
        return positions == list(range(n)) and not self.patiently(self.store.result, id)["failed"]


def one_round(team, rng, who, i):
    "Kill once: whether it ended whole, calls beyond one a question, seconds from the kill to the end."
    before = sum(team.model.calls.values())
    id = team.request(f"{who}-{i}")
    rows = rng.choice([0, rng.randrange(QUESTIONS)])
    while len(team.patiently(team.store.done, id)) < rows:
        time.sleep(0.02)
    while who == "horse" and not psutil.Process(team.worker.pid).children():
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 3 if not rows else 0.1))
    team.kill(who)
    start = time.monotonic()
    done = team.wait(id)
    seconds = time.monotonic() - start
    calls = sum(team.model.calls.values()) - before
    return done and team.whole(id), calls - QUESTIONS, seconds


def flushed(team):
    "FLUSHALL with five queued: whether all run."
    team.worker.kill()
    team.worker.wait()
    ids = [team.request(f"flushed-{i}", 4) for i in range(5)]
    team.redis.client.flushall()
    team.worker = started_worker(team.env)
    return all([team.wait(id) and team.whole(id, 4) for id in ids])


def duplicates(team):
    "Twenty equal requests at once: experiments that they made, and calls beyond one a question."
    before = sum(team.model.calls.values())
    with ThreadPoolExecutor(20) as pool:
        ids = set(pool.map(lambda _: team.request("duplicate"), range(20)))
    [team.wait(id) for id in ids]
    return len(ids), sum(team.model.calls.values()) - before - QUESTIONS


@contextmanager
def a_team():
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        yield Team(stack, folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", default=",".join(VICTIMS))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    load = os.getloadavg()[0]
    print(f"{QUESTIONS} questions a run, {AT_ONCE} at once; load average at the start {load:.1f}\n")
    print("| killed | kills | ended whole | further calls, most / all | seconds to the end, median / most |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    with a_team() as team:
        for who in filter(None, asked.only.split(",")):
            rounds = [one_round(team, rng, who, i) for i in range(asked.rounds)]
            whole, extra, seconds = zip(*rounds)
            middle = sorted(seconds)[len(seconds) // 2]
            cells = [who, len(rounds), sum(whole), f"{max(extra)} / {sum(extra)}"]
            print("|", *(f"{cell} |" for cell in [*cells, f"{middle:.1f} / {max(seconds):.1f}"]), flush=True)
        print(f"\nFLUSHALL with 5 queued: all run: {flushed(team)}")
        made, extra = duplicates(team)
        print(f"20 equal requests at once: {made} experiment, {extra} further calls")


if __name__ == "__main__":
    main()
