"What tests of the server share: a slow model behind HTTP that counts, a real `llmforge serve`, a real Redis."

import glob
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from executing import start_command

CLI = [sys.executable, "-c", "from llmforge.cli import main; main()"]


class Model:
    "An OpenAI-compatible server on loopback that answers each prompt after a while and counts them."

    def __init__(self, delay=0.05, reply=lambda prompt: " Paris"):
        self.delay, self.reply, self.calls, self.lock = delay, reply, Counter(), threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with outer.lock:
                    outer.calls[str(body["prompt"])] += 1  # a trial sends several
                time.sleep(outer.delay)
                choice = {"text": outer.reply(str(body["prompt"])), "index": 0, "finish_reason": "stop"}
                usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
                text = json.dumps({"model": "m", "choices": [choice], "usage": usage}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                try:
                    self.wfile.write(text)
                except OSError:
                    pass

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def config(self, name, n=8, **more):
        "A config that asks this model n questions, two at once, and keeps no generations."
        engine = {"name": "openai", "base_url": self.url, "stream": False, "cache": False, "concurrency": 2}
        method = {"name": "naive", "shots": 0, "prompt": {"format": "completion"}}
        dataset = {"name": "almanac", "limit": n}
        return {"experiment": {"name": name, "engine": engine, "method": method, "dataset": dataset, **more}}

    def close(self):
        self.http.shutdown()
        self.http.server_close()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ended(process, by=signal.SIGTERM):
    "End a process that the tests started."
    if process.poll() is None:
        process.send_signal(by)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Served:
    "A running `llmforge serve`: its address, its token, and requests to it."

    def __init__(self, env, port=0):
        import httpx

        self.process = start_command("llmforge", "serve", "--port", str(port), **env)
        link = re.compile(r"(http://\S+?/)(?:\?token=(\S+))?(?: |\n)")
        while not (found := link.search(self.process.printed()[0])):
            assert self.process.poll() is None, self.process.printed()
            time.sleep(0.02)
        self.url, self.token = found[1], found[2] or {**os.environ, **env}.get("LLMFORGE_TOKEN")
        self.port = int(self.url.rsplit(":", 1)[1].strip("/"))
        headers = {"authorization": f"Bearer {self.token}"}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=30)
        for _ in range(100):
            try:
                self.http.get("/healthz")
                return
            except httpx.TransportError:
                time.sleep(0.1)

    def logged(self):
        return self.process.printed()[1]

    def wait(self, id, states=("COMPLETED",), seconds=60):
        "The line of an experiment once it is in a state."
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            e = self.http.get(f"/experiments/{id}").json()
            if e["state"] in states:
                return e
            time.sleep(0.1)
        raise AssertionError(f"{e['state']}, {e['done']} rows, {e['stopped_by']}; {self.logged()[-2000:]}")

    def close(self):
        self.http.close()
        ended(self.process)


def redis_program():
    "Where redis-server is; skips where it is not installed."
    if not (program := shutil.which("redis-server")):
        pytest.skip("NO REDIS HERE: the queue is not tested; apt-get install redis-server")
    return program


@contextmanager
def redis_server(folder):
    "A Redis of our own on a free port: its URL, and how it is started and ended."
    redis = Redis(redis_program(), folder)
    try:
        yield redis
    finally:
        redis.kill()


class Redis:
    def __init__(self, program, folder):
        self.program, self.folder, self.port = program, folder, free_port()
        self.password = "a-password"
        self.url = f"redis://:{self.password}@127.0.0.1:{self.port}/0"
        self.start()

    def start(self):
        import redis

        options = ["--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        options += ["--requirepass", self.password, "--maxmemory-policy", "noeviction"]
        self.process = subprocess.Popen(
            [self.program, "--port", str(self.port), "--bind", "127.0.0.1", *options],
            stdout=subprocess.DEVNULL,
        )
        self.client = redis.Redis(port=self.port, password=self.password)
        for _ in range(100):
            try:
                self.client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.05)

    def kill(self):
        self.process.kill()
        self.process.wait()


def started_worker(env, *options):
    "A `llmforge worker` in a process group of its own."
    env = {**os.environ, **env}
    return subprocess.Popen(
        [*CLI, "worker", *options],
        env=env,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


class Postgres:
    "A PostgreSQL of our own on a free port, in a folder of its own: how it is started, killed and ended."

    def __init__(self):
        found = [shutil.which("initdb"), *sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))[::-1]]
        initdb = next((os.path.realpath(p) for p in found if p), None)
        if not initdb:
            pytest.skip("NO POSTGRESQL HERE (initdb not found): its half of the tests is skipped")
        self.folder, self.port = tempfile.mkdtemp(prefix="llmforge-pg-"), free_port()
        self.url = f"postgresql://llmforge@127.0.0.1:{self.port}"
        self.program, user = os.path.join(os.path.dirname(initdb), "postgres"), {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            name = next((n for n in ("postgres", "nobody") if n in {e.pw_name for e in pwd.getpwall()}), None)
            if not name:
                pytest.skip("running as root, and there is no other user for PostgreSQL")
            os.chown(self.folder, pwd.getpwnam(name).pw_uid, pwd.getpwnam(name).pw_gid)
            user = {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}
        self.quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": self.folder, **user}
        made = [initdb, "-D", f"{self.folder}/data", "-U", "llmforge", "-A", "trust", "--no-sync"]
        subprocess.run([*made, "-E", "UTF8", "--locale=C"], check=True, **self.quiet)
        self.start()

    def start(self):
        import psycopg

        settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.folder}"]
        command = [self.program, "-D", f"{self.folder}/data", "-p", str(self.port), "-F", *settings]
        for _ in range(10):  # after a kill, its children may hold the memory for a moment
            self.process = subprocess.Popen(command, start_new_session=True, **self.quiet)
            while self.process.poll() is None:
                try:
                    return psycopg.connect(f"{self.url}/postgres").close()
                except psycopg.OperationalError:
                    time.sleep(0.1)

    def database(self):
        "The URL of a new, empty database."
        import psycopg

        name = f"t{uuid.uuid4().hex[:10]}"
        with psycopg.connect(f"{self.url}/postgres", autocommit=True) as c:
            c.execute(f"CREATE DATABASE {name}")
        return f"{self.url}/{name}"

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        ended(self.process, signal.SIGINT)  # fast shutdown
        shutil.rmtree(self.folder, ignore_errors=True)
