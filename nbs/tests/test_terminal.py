"What data holds is shown in a terminal and not sent to it: the real command, in a pseudo-terminal."

import json
import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from llmforge.files import project_root
from llmforge.text import visible

pytestmark = pytest.mark.slow
ROOT = project_root()
HOSTILE = (
    "\x1b[2J\x1b[31mred\x1b]0;title\x07\x1bP1;1|x\x9b31m\rover\x08\x7f\u202egpj.exe\u2066x\u200f"
    "&#27;[31m\\033[31m"
)
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")


def in_terminal(*args, code=0, env=None):
    "What the command sends to a terminal, its own line ends taken out."
    main, ours = pty.openpty()
    command = [sys.executable, "-c", "from llmforge.cli import main; main()", *map(str, args)]
    process = subprocess.Popen(command, stdin=ours, stdout=ours, stderr=ours, env=os.environ | (env or {}))
    os.close(ours)
    sent = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        sent += part
    os.close(main)
    assert process.wait() == code, sent.decode()
    return sent.decode().replace("\r\n", "\n")


def seen(text, *parts):
    "Nothing in it acts, and these parts are in it."
    assert not (found := FORBIDDEN.findall(text)), (found, text)
    for part in parts:
        assert part in text, text


def experiment(outputs, name, suffix):
    "An experiment on hostile questions, run and exported; its id."
    from llmforge.batching import FakeEngine
    from llmforge.config import load_config
    from llmforge.exports import export_experiment
    from llmforge.runner import run_experiment
    from llmforge.store import Store

    questions = [
        {"id": f"{i} {HOSTILE}", "question": HOSTILE, "answers": [HOSTILE], "kind": HOSTILE} for i in range(3)
    ]
    data = outputs.parent / f"{HOSTILE}.jsonl"
    data.write_text("".join(json.dumps(q) + "\n" for q in questions))
    config = {
        "name": name,
        "model": {"name": HOSTILE},
        "engine": {"name": "fake", "cache": False},
        "method": {"shots": 0, "prompt": {"system": HOSTILE}},
        "dataset": {"name": data.name},
    }
    replies = iter([f"{HOSTILE} {suffix}"] * 9)

    def reply(text, sampling):
        return next(replies)

    id = run_experiment(load_config({"experiment": config}), Store(), FakeEngine(reply), show=False)
    export_experiment(Store(), id, outputs / id)
    return id


@pytest.fixture
def data(outputs, monkeypatch):
    outputs.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("LLMFORGE_DATA", str(outputs.parent))
    return outputs


def test_an_experiment(data):
    a, b = experiment(data, "a", "a"), experiment(data, "b", "b")
    seen(in_terminal("list"), a, b)
    seen(in_terminal("show", a), "red")
    seen(in_terminal("compare", a, b), "question by question")
    seen(in_terminal("trace", a, "0"), visible("\x1b[2J"), "\\033[31m", "&#27;[31m")
    seen(in_terminal("trace", a, "nothing", code=1), "there are")
    seen(in_terminal("export", a, data / f"to {HOSTILE}"), visible("\x1b[2J"))


def test_errors(data):
    "Of configs, imports and plans, whose names, keys and values are hostile."
    config = data.parent / f"{HOSTILE}.yaml"
    fields = {
        "name": HOSTILE,
        HOSTILE: HOSTILE,
        "seed": HOSTILE,
        "method": HOSTILE,
        "retrieval": {"url": HOSTILE},
    }
    config.write_text(json.dumps({"experiment": fields}))
    seen(in_terminal("validate", config, code=2), "problem", visible("\x1b[2J"))
    seen(in_terminal("run", config, code=2), "problem")
    seen(in_terminal("validate", "rag_hybrid.yaml", "-o", f"{HOSTILE}=1", code=2), "error:")
    seen(in_terminal("show", HOSTILE, code=1), "error:")
    folder = data.parent / f"folder {HOSTILE}"
    folder.mkdir()
    (folder / "plan.json").write_text(json.dumps({"schema": HOSTILE, "name": HOSTILE}))
    seen(in_terminal("import", folder, code=1), "error:", visible("\x1b[2J"))
    (folder / "result.json").write_text(HOSTILE)
    seen(in_terminal("import", folder, code=1), "error:")


def test_a_study(data):
    "Its question and claims, at the plan and at the verdict."
    (data.parent / "q.jsonl").write_text(
        "".join(
            json.dumps({"id": f"{i}", "question": f"{i}{HOSTILE}", "answers": ["1"]}) + "\n" for i in range(3)
        )
    )
    study = {
        "name": "s",
        "question": HOSTILE,
        "base": {
            "engine": {"name": "fake", "cache": False},
            "method": {"shots": 0},
            "dataset": {"name": "q.jsonl"},
        },
        "datasets": {"d": {}},
        "arms": {"a": {}, "b": {"sampling": {"max_tokens": 9}}},
        "hypotheses": [{"id": "H1", "claim": HOSTILE, "treatment": "b", "control": "a", "min_effect": 0.1}],
    }
    path = data.parent / "study.yaml"
    path.write_text(json.dumps({"study": study}))
    seen(in_terminal("study", path, "--no-notebook"), "s", "H1")


def test_a_bug_and_a_warning(data):
    "What nobody foresaw: a traceback, and a warning of a library."
    code = f"""import warnings, llmforge.cli as c
def bug():
    warnings.warn({HOSTILE!r})
    raise ValueError({HOSTILE!r})
c.app = bug
c.main()"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1 and "ValueError" in run.stderr and "UserWarning" in run.stderr
    seen(run.stderr, visible("\x1b[2J"))


def test_the_gate_is_the_only_one():
    "No command prints past it."
    source = "".join((ROOT / "llmforge" / f"{room}.py").read_text() for room in ("command", "cli"))
    assert re.findall(r"typer\.echo\(|\bprint\(|sys\.std\w+\.write", source) == ["typer.echo("]  # --version
    assert visible(visible(HOSTILE)) == visible(HOSTILE)


def test_a_warning_of_ours_is_a_sentence_without_a_line_of_code():
    "In a process of its own: what is printed of warnings is the process's."
    code = """
import logging, warnings
from llmforge import terminal
terminal.guard_terminal()
terminal.log_to_terminal(False)
warnings.warn_explicit("has no answers", UserWarning, terminal.__file__, 7)
warnings.warn_explicit("old", UserWarning, "/else/where.py", 7)
logging.getLogger("bm25s").setLevel(logging.DEBUG)
logging.getLogger("bm25s").debug("Building index from tokens")
"""
    p = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert p.stderr == "warning: has no answers\n/else/where.py:7: UserWarning: old\n"


def test_an_interrupted_command_says_that_it_goes_on():
    code = """
import sys
from llmforge import cli, project
def interrupted(): raise KeyboardInterrupt
project.config_schema = interrupted
sys.argv[1:] = ["schema"]
cli.main()
"""
    p = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert p.returncode == 130 and p.stderr.endswith("interrupted; the same command goes on from here\n")
    again = "import atexit, os, signal; atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
    p = subprocess.run([sys.executable, "-c", again + code], capture_output=True, text=True)
    assert p.returncode == -signal.SIGINT and p.stderr.endswith("goes on from here\n")


def test_a_closed_stream_takes_what_is_written(outputs):
    "As with `>&-`: the command ends as it would, and no file of its own is opened in the stream's place."
    command = f"'{sys.executable}' -c 'from llmforge.cli import main; main()'"
    run = f"{command} run naive.yaml --no-notebook -o engine=fake -o dataset.limit=4 -o method.shots=0"
    for line in (f"{run} >&- 2>&-", f"{run} <&- >&-", f"{command} list >&-"):
        ended = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stderr
    assert len(list(outputs.glob("*/result.json"))) == 1
