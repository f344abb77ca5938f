"Keys planted in the environment are found nowhere: in no store, export, message or notebook."

import base64
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import quote

import numpy as np
import pytest
from typer.testing import CliRunner

from llmforge.batching import FakeEngine
from llmforge.cli import app
from llmforge.config import load_config
from llmforge.core import SHORTEST_SECRET, ConfigError, RetrievalError, methods, redact, without_secrets
from llmforge.exports import export_experiment
from llmforge.runner import run_experiment
from llmforge.store import Store
from llmforge.studyconfig import load_study
from llmforge.trace import span

KEY = 'planted/key+of "16"'
PLANTED = {
    "QDRANT_API_KEY": f"{KEY}\n",
    "SOME_TOKEN": " planted-token ",
    "DB_PASSWORD": "planted-password",
    "client_secret": "planted-secret",
    "OTHER_STORE": "postgresql://me:planted-in-url@db/llm",
    "SHORT_KEY": "x",
    "EMPTY_TOKEN": "",
    "HARMLESS": "planted-nowhere",
}
VALUES = [KEY, "planted-token", "planted-password", "planted-secret", "planted-in-url"]
FORMS = [KEY, quote(KEY), quote(KEY, safe=""), json.dumps(KEY)[1:-1], base64.b64encode(KEY.encode()).decode()]


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)


def clean(text):
    return not any(value in text for value in [*VALUES, *FORMS])


def test_by_value_and_in_every_form():
    for text in [*VALUES, *FORMS, repr(PLANTED["QDRANT_API_KEY"])]:
        assert clean(redact(f"before {text} after")), text
        assert redact(f"before {text} after").startswith("before ")
    assert without_secrets({KEY: [(KEY, 1)], "b": None}) == {"***": [["***", 1]], "b": None}


def test_a_secret_is_known_as_soon_as_it_is_set_and_no_longer_than_that(monkeypatch):
    "What is remembered of the environment is compared with it each time."
    assert redact("a new-secret here") == "a new-secret here"
    monkeypatch.setenv("NEW_KEY", "new-secret")
    assert redact("a new-secret here") == "a *** here"
    monkeypatch.setenv("NEW_KEY", "other-secret")
    assert redact("a new-secret, an other-secret") == "a new-secret, an ***"
    monkeypatch.delenv("NEW_KEY")
    assert redact("an other-secret here") == "an other-secret here"


def test_what_is_short_or_no_secret_stays():
    text = "an x, a planted-nowhere, task-oriented risk-adjusted, x" * 3
    assert redact(text) == without_secrets(text) == text
    assert SHORTEST_SECRET == 8


def test_what_looks_like_a_secret():
    "Also where no variable holds it."
    for text in (
        "hf_abcdefghijkl",
        "sk-abcdefghijkl",
        "Bearer abc",
        "http://me:pw@host/x",
        "http://h/?api_key=abc&x=1",
    ):
        assert "***" in redact(text) and not {"abc", "pw"} & set(redact(text).replace("=", " ").split())
    assert redact("http://h/?top_k=3&api_key=abc") == "http://h/?top_k=3&api_key=***"


@pytest.mark.parametrize(
    "url",
    [
        "https://host:6333?api_key=hunter2",
        "https://host:6333/?x=1#hunter2",
        "https://me:hunter2@host:6333",
        "https://hunter2@host",
        "http://host/sk-hunter2hunter2",
    ],
)
def test_an_address_with_a_secret_is_refused(url):
    "In a sentence that does not repeat it."
    config = {"experiment": {"name": "a", "retrieval": {"name": "hybrid", "url": url}}}
    with pytest.raises(ConfigError, match="QDRANT_API_KEY") as e:
        load_config(config)
    assert "hunter2" not in str(e.value)
    r = CliRunner().invoke(app, ["validate", "rag_hybrid.yaml", "-o", f"retrieval.url={url}"])
    assert r.exit_code == 2 and "hunter2" not in r.output and r.output.count("retrieval.url") == 1


def test_a_config_with_a_planted_value_is_refused():
    prompt = {"method": {"prompt": {"system": f"The key is {KEY}.", "template": "{question}"}}}
    with pytest.raises(ConfigError, match="QDRANT_API_KEY") as e:
        load_config({"experiment": {"name": "a", **prompt}})
    assert clean(str(e.value))
    study = {"name": "s", "question": "planted-token?", "base": {}, "arms": {"a": {}, "b": {}}}
    with pytest.raises(ConfigError, match="SOME_TOKEN") as e:
        load_study({"study": study})
    assert clean(str(e.value))


def test_a_message_about_a_wrong_value_does_not_repeat_it():
    r = CliRunner().invoke(app, ["validate", "rag_hybrid.yaml", "-o", "seed=sk-abcdefghijkl"])
    assert r.exit_code == 2 and "experiment.seed" in r.output and "abcdefgh" not in r.output


@pytest.fixture
def echo():
    "A server that refuses every request and repeats its headers."

    class Echo(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"status": {"error": str(self.headers)}}).encode()
            self.send_response(401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_POST = do_GET

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("key", [f"{KEY}\n", "plan\nted/key", "planted/kéy-x"])
@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_qdrants_key(echo, monkeypatch, key):
    "With a line break at its end it is a key; with one within, or as it comes back, it is not repeated."
    pytest.importorskip("qdrant_client")
    from llmforge.indexing import ServerVectors

    monkeypatch.setenv("QDRANT_API_KEY", key)
    with pytest.raises(RetrievalError) as e:
        ServerVectors(np.eye(2, dtype=np.float32), echo, "x")
    assert key.strip() not in str(e.value) and repr(key.strip())[1:-1] not in str(e.value)
    said = str(e.value).replace(echo, "")  # its port may hold these digits, too
    assert ("401" in said) == (key == f"{KEY}\n")


def test_nothing_of_a_run_keeps_a_secret(outputs, monkeypatch):
    "What a method answers, traces and raises: store, export and generation cache, read as bytes."

    async def leaky(question, context):
        with span("chain", KEY, {"headers": {"api-key": KEY}}, **{KEY: [f"Bearer {KEY}"]}) as s:
            s.output = f"sent {KEY} and {quote(KEY, safe='')}"
        reply = await context.generate(context.prompt(question, []))
        if len(question) % 2:
            raise RuntimeError(f"Illegal header value {PLANTED['QDRANT_API_KEY']!r}")
        return f"{KEY} {reply}"

    monkeypatch.setitem(methods._entries, "leaky", leaky)
    config = load_config(
        {
            "experiment": {
                "name": "leaky",
                "engine": {"name": "fake"},
                "method": {"name": "leaky", "shots": 0, "prompt": {"template": "{question}"}},
                "dataset": {"name": "meridia", "limit": 10},
            }
        }
    )
    store = Store()
    engine = FakeEngine(lambda text, sampling: f" it is {KEY}, or planted-token")
    id = run_experiment(config, store, engine, show=False)
    assert {row["error_type"] for row in store.rows(id)} == {None, "RuntimeError"}
    assert any("***" in row["answer"] for row in store.rows(id))
    export_experiment(store, id, outputs / id)
    files = [p for p in outputs.rglob("*") if p.is_file()]
    assert len(files) >= 4 and all(clean(p.read_bytes().decode("latin-1")) for p in files)
    shown = CliRunner().invoke(app, ["show", id]).output + CliRunner().invoke(app, ["trace", id, "0"]).output
    assert clean(shown) and "***" in shown


@pytest.mark.slow
def test_an_executed_notebook_and_its_terminal(outputs, monkeypatch, capfd):
    "One that succeeds, and one whose cell fails; what the kernel writes to stderr."
    from pathlib import Path

    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    from llmforge.core import LlmForgeError
    from llmforge.notebooks import execute_notebook

    home = outputs / "home"
    (home / "nbs").mkdir(parents=True)
    monkeypatch.setenv("LLMFORGE_HOME", str(home))
    loud = "import os, sys; k = os.environ['QDRANT_API_KEY']; print(k); print(k, '\\x1b[2J', file=sys.stderr)"
    info = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    cells = [new_code_cell("config = ''", metadata={"tags": ["parameters"]}), new_code_cell(f"{loud}; k")]
    nbformat.write(new_notebook(cells=cells, metadata=info), home / "nbs" / "good.ipynb")
    nbformat.write(
        new_notebook(cells=[*cells, new_code_cell("raise RuntimeError(k)")], metadata=info),
        home / "nbs" / "bad.ipynb",
    )
    done = execute_notebook("good", {"config": KEY}, outputs / "good.ipynb")
    with pytest.raises(LlmForgeError) as e:
        execute_notebook("bad", {}, outputs / "bad.ipynb")
    files = [Path(done), outputs / "bad.failed.ipynb"]
    assert all(clean(p.read_text()) and "***" in p.read_text() for p in files) and clean(str(e.value))
    said = capfd.readouterr()
    assert clean(said.out + said.err) and "\x1b" not in said.out + said.err and "***" in said.err
