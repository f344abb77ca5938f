"Traces: hostile texts stay texts, an export is the same each time, and a real consumer reads what was sent."

import copy
import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import pytest
import sqlalchemy as sa
from filelock import FileLock
from typer.testing import CliRunner

from llmforge.batching import FakeEngine
from llmforge.cli import app
from llmforge.config import load_config
from llmforge.core import ConfigError, DataError, LlmForgeError, MissingExtra, canonical, methods
from llmforge.exports import export_experiment, import_experiment
from llmforge.files import cache_dir
from llmforge.otel import export_traces, otel_spans, shown_address
from llmforge.runner import run_experiment
from llmforge.store import Store
from llmforge.tables import RUNS
from llmforge.text import clip
from llmforge.trace import KINDS, Span, from_dict, render, render_html, short_prompts, to_dict, whole_prompts
from llmforge.traceview import MAX_SPANS, walk
from llmforge.views import stored_trace

SECRET = "Ethel Smyth"  # in every text of `sample`, and nowhere else in it
T0 = 1_790_000_000_000.25


def span_(kind, name, at, took, /, *children, input=None, output=None, error=None, **attributes):
    return Span(kind, name, input, output, attributes, T0 + at, took, error, list(children))


def sample():
    "A trace with every kind of span, an error and a failed call."
    ask = [
        {"role": "system", "content": f"Know {SECRET}."},
        {"role": "user", "content": f"When was {SECRET} born?"},
    ]
    return to_dict(
        span_(
            "chain",
            "react",
            0,
            900,
            span_(
                "agent",
                "react",
                1,
                800,
                span_(
                    "chain",
                    "step 1",
                    2,
                    300,
                    span_(
                        "llm",
                        "smol-135m",
                        3,
                        200,
                        input=f"Question: {SECRET}?\nThought:",
                        output=f" search {SECRET}",
                        tokens_in=31,
                        tokens_out=7,
                        finish_reason="stop",
                        cached=False,
                    ),
                    span_(
                        "tool",
                        "retrieval",
                        205,
                        90,
                        span_(
                            "retriever",
                            "reranked",
                            206,
                            80,
                            span_("embedding", "minilm", 207, 5, input=SECRET),
                            span_(
                                "reranker",
                                "maxsim",
                                220,
                                30,
                                input=[f"{SECRET}#0", f"{SECRET}#1"],
                                output=[{"id": f"{SECRET}#1", "score": 0.9, "before": 2, "after": 1}],
                                candidates=2,
                            ),
                            input=SECRET,
                            output=[
                                {"id": f"{SECRET}#1", "title": SECRET, "score": 0.9, "ranks": {"bm25": 1}}
                            ],
                            search_ms=70.5,
                            top_k=1,
                        ),
                        input={"query": SECRET, "k": 1},
                        output=f"{SECRET} was born in 1858.",
                        failed=False,
                        work_ms=85.0,
                    ),
                ),
                span_(
                    "chain",
                    "step 2",
                    310,
                    200,
                    span_(
                        "llm",
                        "smol-135m",
                        311,
                        150,
                        input=ask,
                        output=f"Action: ask {SECRET}",
                        tokens_in=60,
                        tokens_out=9,
                        finish_reason="stop",
                    ),
                    span_(
                        "tool",
                        f"ask {SECRET} herself",
                        470,
                        1,
                        input=f"{SECRET}, when?",
                        output=f"error: no tool 'ask {SECRET}'",
                        failed=True,
                    ),
                ),
                span_(
                    "chain",
                    "step 3",
                    520,
                    100,
                    span_(
                        "llm",
                        "smol-135m",
                        521,
                        90,
                        input=ask,
                        error=f"EngineError: {SECRET} is too long",
                        tokens_in=70,
                    ),
                    error=f"EngineError: {SECRET} is too long",
                ),
                output=SECRET,
                stop_reason="final",
                steps=3,
                source=SECRET,
            ),
            span_(
                "evaluator",
                "groundedness",
                850,
                20,
                input=SECRET,
                output=[{"claim": SECRET, "probability": 0.4}],
                threshold=0.5,
            ),
            input=f"When was {SECRET} born?",
            output=f"{SECRET}: 1858",
            example="q/1",
            kind="single_hop",
            expected=[SECRET, "1858"],
            gold=[f"almanac/{SECRET}"],
        )
    )


EXPERIMENT = "react-almanac-4f4c2810"
ROWS = [
    {"example_id": "q/1", "position": 0, "trace": sample()},
    {"example_id": "q/2", "position": 1, "trace": None},
    {"example_id": "q/3", "position": 2, "trace": sample()},
]


def values(attributes):
    return {a["key"]: next(iter(a["value"].values()), None) for a in attributes}


def exported(path, rows=ROWS, **kw):
    "The spans of each line of an exported file."
    counts = export_traces(rows, EXPERIMENT, path=path, **kw)
    requests = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    traces = [
        [s for r in request["resourceSpans"] for scope in r["scopeSpans"] for s in scope["spans"]]
        for request in requests
    ]
    assert counts == (len(traces), sum(map(len, traces)))
    return traces


# ---- drawn ----


class Page(HTMLParser):
    "Checks that a drawing is balanced, has only harmless elements and attributes, and keeps its text."

    ALLOWED = {"div", "details", "summary", "span", "pre", "b", "i", "br"}

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.bars, self.spans = [], [], 0, 0
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        assert tag in self.ALLOWED and {k for k, _ in attrs} <= {"style", "class", "title", "open"}, (
            tag,
            attrs,
        )
        for k, v in attrs:
            assert k != "style" or not any(w in v for w in ("url(", "expression", "@import")), v
        self.spans += tag == "details"
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_comment(self, data):
        pytest.fail(f"a comment: {data}")

    def handle_data(self, data):
        self.text.append(data)


HOSTILE = [
    "<script>alert(1)</script>",
    "</pre></details></div><img src=x onerror=alert(1)>",
    "\x1b[2J\x1b[31mred\x07",
    "**bold** [x](javascript:alert(1)) ![i](http://x/y.png) | `a` $\\mathbb{R}$",
    '" onmouseover="alert(1)',
    "' style='x",
    "<!-- open",
    "&lt;b&gt; &amp;",
    "nul\0nul",
    "lone \ud800 surrogate",
    "\u202eright to left\u2066",
    "Observation: 42\nchain react: forged → ✗ line",
    "\r\x85\u2028x",
    "]]>",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_only_text(text, tmp_path):
    "Wherever it stands: nothing of it is markup, nothing reaches a terminal, and the export takes it."
    s = span_(
        "chain",
        text,
        0,
        10,
        span_(
            "tool",
            text,
            1,
            5,
            input={text: [text]},
            output=text,
            error=f"ValueError: {text}",
            failed=True,
            **{text: text},
        ),
        span_(
            "llm",
            "m",
            6,
            2,
            input=[{"role": text, "content": text}],
            output=text,
            finish_reason=text,
            tokens_in=text,
        ),
        input=text,
        output=[text],
        kind=text,
    )
    for times in (True, False):
        page = Page(render_html(s, times))
    shown = "".join(page.text)
    assert not any(
        not (c.isprintable() or c == "\n") for c in shown + render(s) + render(s, full=True) + repr(s)
    )
    if text.isprintable():
        assert shown.count(text) >= 8
    assert len(render(s).split("\n")) == 3
    begins = ("│", "chain", "tool", "llm")
    assert all(line.lstrip().startswith(begins) for line in render(s, full=True).split("\n"))
    row = {"example_id": text, "trace": to_dict(s)}
    (spans,) = exported(tmp_path / "t.jsonl", [row])
    assert len(spans) == 3 and not any(c in json.dumps(spans, ensure_ascii=False) for c in ("\0", "\ud800"))
    plain = text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
    assert spans[0]["name"] == plain and values(spans[0]["attributes"])["input.value"] == plain
    silent = exported(tmp_path / "s.jsonl", [{**row, "example_id": "q"}], content=False)[0]
    for s in silent[1:]:
        assert plain not in json.dumps(s, ensure_ascii=False)


@pytest.mark.timeout(60)
def test_a_text_of_a_megabyte():
    "What is cut is said; it is drawn in bounds; the export has all of it."
    long = "<x>" + "a" * 1_000_000
    s = span_("llm", "m", 0, 1, input=long, output=long)
    text = render_html(s)
    assert len(text) < 60_000
    Page(text)
    assert "1,000,003 characters, the last 980,003 cut" in text
    assert len(render(s)) < 300 and long in render(s, full=True)
    assert otel_spans({"example_id": "q", "trace": to_dict(s)}, "e")[0].attributes["output.value"] == long


@pytest.mark.slow
def test_deep_and_wide():
    "A chain of 200 spans and a fan of 5,000: drawn in part, which is said, and exported whole."
    deep = span_("llm", "leaf", 0, 1, tokens_in=1, tokens_out=1)
    for i in range(200):
        deep = span_("chain", f"level {i}", 0, 1, deep)
    wide = span_(
        "chain", "wide", 0, 5000, *[span_("llm", f"call {i}", i, 1, output="x") for i in range(5000)]
    )
    for s, n in ((deep, 201), (wide, 5001)):
        d = to_dict(s)
        page = Page(render_html(s))
        drawn, text = page.spans, "".join(page.text)
        assert drawn <= MAX_SPANS and f"… {n - drawn:,} more spans, not drawn" in text
        assert len(render(s).split("\n")) == sum(1 for _ in walk(d)) == n and to_dict(from_dict(d)) == d
        spans = otel_spans({"example_id": "q", "trace": d}, "e")
        assert len({s.context.span_id for s in spans}) == n


def test_a_broken_trace_is_drawn():
    "Times and tokens that are no numbers, from a file that somebody wrote."
    for bad in (float("nan"), float("inf"), -5, "12", None, 1e300):
        s = Span(
            "llm",
            "m",
            "a",
            "b",
            {"tokens_in": bad, "tokens_out": True, "queue_ms": bad},
            bad,
            bad,
            children=[Span("tool", "t", start_ms=bad, duration_ms=bad)],
        )
        (
            Page(render_html(s)),
            render(s),
            otel_spans({"example_id": "q", "trace": vars(s) | {"children": []}}, "e"),
        )


def test_the_drawing_says_what_happened():
    "Bars lie where the spans were, tokens add up, failures are marked, times=False leaves times out."
    s = from_dict(sample())
    page = render_html(s)
    text = "".join(Page(page).text)
    assert text.count("✗ failed call") == 1 and text.count("✗ error") == 2 and "161+16 tokens" in text
    assert (
        "left:min(34.56%,100% - 2px);width:max(2px,16.67%)" in page
    )  # the second call: 311 to 461 of 900 ms
    assert "waited 9.5 ms" in page and "waiting for a turn is pale" in text
    bare = render_html(s, times=False)
    s.start_ms, s.duration_ms = 0, 7
    assert (
        " ms" not in bare
        and "_ms" not in bare
        and "position:absolute" not in bare
        and bare == render_html(s, times=False)
    )
    s = from_dict(sample())
    assert s._repr_html_() == page and repr(s) == render(s)
    assert clip("a\nb\x1b" + "c" * 100, 10) == "a␤b␛ccccc…"


# ---- exported ----


def test_file_is_otlp_json(tmp_path):
    "Ids in hexadecimal, nanoseconds as text, parents first; OpenTelemetry's own classes read a line back."
    traces = exported(tmp_path / "t.jsonl")
    assert len(traces) == 2 and len({s["traceId"] for t in traces for s in t}) == 2
    stored = list(walk(sample()))
    for spans in traces:
        assert [s["name"] for s in spans] == [d["name"] for d in stored]
        assert all(
            len(bytes.fromhex(s["traceId"])) == 16 and len(bytes.fromhex(s["spanId"])) == 8 for s in spans
        )
        seen = set()
        for s, d in zip(spans, stored):
            assert s.get("parentSpanId") in seen or (s is spans[0] and "parentSpanId" not in s)
            seen.add(s["spanId"])
            assert (
                abs(int(s["startTimeUnixNano"]) / 1e6 - d["start_ms"]) < 0.001
                and int(s["endTimeUnixNano"]) - int(s["startTimeUnixNano"]) == d["duration_ms"] * 1e6
            )
            a = values(s["attributes"])
            assert (
                a["llmforge.experiment.id"] == EXPERIMENT
                and a["openinference.span.kind"] == d["kind"].upper()
            )
            assert s["status"]["code"] == (
                2 if d.get("error") or d.get("attributes", {}).get("failed") else 1
            )
    assert {d["kind"] for d in stored} == set(KINDS)
    from google.protobuf.json_format import Parse
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    line = Parse((tmp_path / "t.jsonl").read_text().split("\n")[0], ExportTraceServiceRequest())
    assert len(line.resource_spans[0].scope_spans[0].spans) == len(stored)


def test_both_vocabularies_are_the_conventions_own():
    "Every attribute that is not ours is a constant of OpenInference's or OpenTelemetry's package."
    import re

    import openinference.semconv.trace as oi
    from opentelemetry.semconv._incubating.attributes import error_attributes, gen_ai_attributes

    known = {
        v for c in vars(oi).values() if isinstance(c, type) for v in vars(c).values() if isinstance(v, str)
    } | {v for m in (gen_ai_attributes, error_attributes) for v in vars(m).values() if isinstance(v, str)}
    for s in otel_spans(ROWS[0], EXPERIMENT):
        for key in s.attributes:
            parts = re.split(r"\.\d+\.", key)
            assert key.startswith("llmforge.") or all(p in known for p in parts), key
    by = {
        (s.name, s.attributes.get("llmforge.finish_reason")): s.attributes
        for s in otel_spans(ROWS[0], EXPERIMENT)
    }
    call = by["smol-135m", "stop"]
    assert (
        (call["llm.token_count.prompt"], call["llm.token_count.completion"], call["llm.token_count.total"])
        == (60, 9, 69)
        == (call["gen_ai.usage.input_tokens"], call["gen_ai.usage.output_tokens"], 69)
    )
    assert (
        call["llm.input_messages.1.message.content"]
        == f"When was {SECRET} born?"
        == json.loads(call["gen_ai.input.messages"])[1]["parts"][0]["content"]
    )
    assert json.loads(by["retrieval", None]["tool.parameters"]) == {"query": SECRET, "k": 1}
    found = by["reranked", None]
    assert (found["retrieval.documents.0.document.id"], found["retrieval.documents.0.document.score"]) == (
        f"{SECRET}#1",
        0.9,
    )
    assert (
        by["maxsim", None]["reranker.query"] == SECRET
        and by["maxsim", None]["reranker.input_documents.1.document.id"] == f"{SECRET}#1"
    )


def test_exported_again_it_is_the_same(tmp_path):
    "Byte for byte; another experiment or example has other ids."
    exported(tmp_path / "a.jsonl"), exported(tmp_path / "b.jsonl", copy.deepcopy(ROWS))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    ids = lambda rows, e: {(s.context.trace_id, s.context.span_id) for r in rows for s in otel_spans(r, e)}
    assert not ids(ROWS, "a") & ids(ROWS, "b") and len(ids(ROWS, "a")) == 2 * sum(1 for _ in walk(sample()))


def test_without_content_no_text_is_left(tmp_path):
    "Counts, kinds, names, times and outcomes remain."
    traces, full = exported(tmp_path / "t.jsonl", content=False), exported(tmp_path / "full.jsonl")
    text = (tmp_path / "t.jsonl").read_text()
    assert SECRET not in text and "1858" not in text and "too long" not in text and "no tool" not in text
    assert SECRET in (tmp_path / "full.jsonl").read_text()
    assert [[s["spanId"] for s in t] for t in traces] == [[s["spanId"] for s in t] for t in full]
    assert [s["name"] for s in traces[0]] == [
        s["name"] if SECRET not in s["name"] else "tool" for s in full[0]
    ]
    a = [values(s["attributes"]) for s in traces[0]]
    assert sum(int(x.get("llm.token_count.prompt", 0)) for x in a) == 161 and {
        x.get("error.type") for x in a
    } == {None, "tool_error", "EngineError"}
    assert not any(k.endswith(".value") or "document" in k or "message" in k for x in a for k in x)


def test_a_sentence_without_blanks_is_no_label(tmp_path):
    said = "彼の母の名前は花子です"
    row = {"example_id": "q", "trace": {"kind": "tool", "name": said, "error": said, "duration_ms": 1}}
    row["trace"]["attributes"] = {"choice": said, "kind": said, "finish_reason": said}
    export_traces([row], EXPERIMENT, path=tmp_path / "t.jsonl", content=False)
    assert said not in (tmp_path / "t.jsonl").read_text()
    export_traces([row], EXPERIMENT, path=tmp_path / "full.jsonl")
    (trace,) = [json.loads(line) for line in (tmp_path / "full.jsonl").read_text().splitlines()]
    assert trace["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["status"]["message"] == said


def test_a_number_beyond_64_bits_is_a_text(tmp_path, caplog):
    row = {"example_id": "q", "trace": {"kind": "llm", "name": "m", "duration_ms": 1}}
    row["trace"]["attributes"] = {"tokens_in": 2**70, "tokens_out": -(2**63)}
    export_traces([row], EXPERIMENT, path=tmp_path / "t.jsonl")
    (trace,) = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    found = values(trace["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"])
    assert found["llmforge.tokens_in"] == str(2**70) and found["llmforge.tokens_out"] == str(-(2**63))
    assert not caplog.records


def test_an_address_of_version_6_keeps_its_brackets():
    assert shown_address("http://u:geheim@[::1]:4318") == "http://[::1]:4318/v1/traces"


def test_errors_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="either an endpoint .* or a file .*; received neither"):
        export_traces(ROWS, EXPERIMENT)
    with pytest.raises(DataError, match="no traces"):
        export_traces(ROWS[1:2], EXPERIMENT, path=tmp_path / "t.jsonl")
    with pytest.raises(ConfigError, match="cannot write"):
        export_traces(ROWS, EXPERIMENT, path=tmp_path / "no" / "t.jsonl")
    for bad in ("localhost:6006", "ftp://x", "http://", "http://x:0", "http://x:port", "file:///etc/passwd"):
        with pytest.raises(ConfigError, match="not an OTLP/HTTP endpoint"):
            export_traces(ROWS, EXPERIMENT, endpoint=bad)
    with pytest.raises(LlmForgeError, match="nothing listens at http://127.0.0.1:9/v1/traces") as e:
        export_traces(ROWS, EXPERIMENT, endpoint="http://u:geheim@127.0.0.1:9?key=geheim")
    assert "geheim" not in str(e.value)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(MissingExtra, match=r"pip install 'llmforge-lab\[trace\]'"):
        export_traces(ROWS, EXPERIMENT, endpoint="http://127.0.0.1:9")


# ---- the command ----


@pytest.fixture
def experiment(outputs):
    "A small completed experiment."
    from llmforge.config import load_config
    from llmforge.runner import run_experiment

    return run_experiment(
        load_config(
            {
                "experiment": {
                    "name": "traced",
                    "engine": "fake",
                    "dataset": {"name": "meridia", "limit": 4},
                    "method": {"shots": 0},
                }
            }
        ),
        show=False,
    )


def invoke(*args, code=0):
    r = CliRunner().invoke(app, list(args))
    assert r.exit_code == code, r.output
    return r.output


@pytest.mark.slow
def test_trace_command(experiment):
    "By id, by position, by a beginning; unknown and ambiguous ones are errors with ids that are near."
    from llmforge.store import Store

    rows = Store().rows(experiment)
    first = rows[0]["example_id"]
    text = invoke("trace", experiment[:8], first)
    assert (
        text == invoke("trace", experiment, "0")
        and text.startswith(first + "\nchain naive")
        and rows[0]["trace"]["children"][0]["input"].split("\n")[-1] in text
    )
    unique = next(i for i in range(1, 200) if sum(r["example_id"].startswith(first[:i]) for r in rows) == 1)
    assert invoke("trace", experiment, first[:unique]) == text
    wrong = invoke("trace", experiment, first + "x", code=1)
    assert "no examples" in wrong and f"did you mean {first!r}" in wrong
    assert "4 examples" in invoke("trace", experiment, first[:4], code=1)


@pytest.mark.slow
def test_export_traces_command(experiment, tmp_path):
    assert f"{experiment}: 4 traces with 8 spans, in " in invoke(
        "export-traces", experiment, "--file", str(tmp_path / "t.jsonl")
    )
    assert len((tmp_path / "t.jsonl").read_text().splitlines()) == 4
    assert "without texts" in invoke(
        "export-traces", experiment, "--file", str(tmp_path / "s.jsonl"), "--no-content"
    )
    assert "Question" not in (tmp_path / "s.jsonl").read_text()
    assert "nothing listens" in invoke(
        "export-traces", experiment, "--endpoint", "http://127.0.0.1:9", code=1
    )
    assert "either" in invoke("export-traces", experiment, code=2)


# ---- a real consumer ----

LOCK = Path(__file__).parent / "phoenix.txt"


def phoenix_python() -> Path:
    "Phoenix's interpreter, in an environment of its own: its dependencies contradict those of this project."
    folder = (
        cache_dir("phoenix")
        / f"{sys.version_info[0]}.{sys.version_info[1]}-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    )
    python, ready = folder / "bin" / "python", folder / "ready"
    with FileLock(f"{folder}.lock"):
        if not ready.exists():
            subprocess.run(
                [sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)], check=True
            )
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "--python",
                    str(python),
                    "install",
                    "-q",
                    "--no-deps",
                    "--no-compile",
                    "--disable-pip-version-check",
                    "-r",
                    str(LOCK),
                ],
                check=True,
            )
            ready.touch()
    return python


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="session")
def phoenix(tmp_path_factory):
    "The address of an Arize Phoenix of our own: own home and ports, no telemetry, a dead proxy to the world."
    home, port = tmp_path_factory.mktemp("phoenix"), free_port()
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PHOENIX_WORKING_DIR": str(home),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(free_port()),
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
    }
    url, log = f"http://127.0.0.1:{port}", home / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [str(phoenix_python()), "-m", "phoenix.server.main", "serve"],
            cwd=home,
            env=env,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                    f"{url}/healthz", timeout=5
                ).close()
                break
            except OSError:
                time.sleep(0.2)
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        yield url
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def arrived(url, project, n):
    "All spans of a project, once there are `n`: Phoenix writes in the background."
    from phoenix.client import Client

    deadline, spans = time.monotonic() + 60, []
    while len(spans) < n and time.monotonic() < deadline:
        try:
            spans = Client(base_url=url).spans.get_spans(project_identifier=project, limit=1000)
        except Exception as e:
            if "404" not in str(e):
                raise  # the project is made with its first span
        time.sleep(0.3)
    return spans


@pytest.mark.slow
def test_phoenix_reads_what_was_sent(phoenix, monkeypatch):
    "Kinds, names, parents, times, tokens, texts, documents, outcomes; and sent twice it is there once."
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-test=1")
    stored, n = list(walk(sample())), 2 * len(list(walk(sample())))
    for _ in range(2):
        assert export_traces(ROWS, EXPERIMENT, endpoint=phoenix) == (2, n)
    other = "after-it"  # a second project: when it has arrived, so has everything before it
    export_traces(ROWS[:1], other, endpoint=phoenix)
    assert len(arrived(phoenix, other, len(stored))) == len(stored)
    spans = arrived(phoenix, EXPERIMENT, n)
    assert len(spans) == n and len({s["context"]["trace_id"] for s in spans}) == 2
    sent = {f"{s.context.span_id:016x}": s for row in ROWS for s in otel_spans(row, EXPERIMENT)}
    assert {s["context"]["span_id"] for s in spans} == set(sent)
    from datetime import datetime

    for s in spans:
        ours = sent[s["context"]["span_id"]]
        a = s["attributes"]
        assert s["name"] == ours.name and s["context"]["trace_id"] == f"{ours.context.trace_id:032x}"
        assert s.get("parent_id") == (f"{ours.parent.span_id:016x}" if ours.parent else None)
        assert (
            s["span_kind"] == ours.attributes["openinference.span.kind"]
            and s["status_code"] == ours.status.status_code.name
        )
        assert (
            abs(datetime.fromisoformat(s["start_time"]).timestamp() - ours.start_time / 1e9) < 1e-5
            and abs(datetime.fromisoformat(s["end_time"]).timestamp() - ours.end_time / 1e9) < 1e-5
        )
        for key in (
            "llm.token_count.prompt",
            "llm.token_count.completion",
            "llm.token_count.total",
            "gen_ai.usage.input_tokens",
            "llm.model_name",
            "tool.name",
            "agent.name",
            "input.value",
            "output.value",
            "input.mime_type",
            "llmforge.experiment.id",
            "llmforge.example.id",
            "retrieval.documents.0.document.id",
            "retrieval.documents.0.document.score",
            "reranker.query",
            "reranker.input_documents.1.document.id",
        ):
            assert a.get(key) == ours.attributes.get(key), (s["name"], key)
    assert {s["span_kind"] for s in spans} == {k.upper() for k in KINDS}
    assert sum(s["status_code"] == "ERROR" for s in spans) == 2 * 3
    (wrong,) = {
        e["attributes"]["exception.message"] for s in spans for e in s["events"] if s["name"] == "step 3"
    }
    assert wrong == f"{SECRET} is too long"


@pytest.mark.slow
def test_phoenix_gets_no_text_without_content(phoenix):
    rows, project = [{"example_id": "q/1", "trace": sample()}], "silent-1"
    traces, n = export_traces(rows, project, endpoint=phoenix + "/v1/traces", content=False)
    spans = arrived(phoenix, project, n)
    assert len(spans) == n and SECRET not in json.dumps(spans) and "1858" not in json.dumps(spans)
    assert sum(s["attributes"].get("llm.token_count.prompt", 0) for s in spans) == 161


@pytest.mark.slow
def test_phoenix_takes_hostile_text(phoenix):
    "Every hostile text arrives as the text it is."
    rows = [
        {"example_id": f"h{i}", "trace": to_dict(span_("chain", "h", 0, 1, input=t, output=t))}
        for i, t in enumerate(HOSTILE)
    ]
    export_traces(rows, "hostile", endpoint=phoenix)
    spans = arrived(phoenix, "hostile", len(rows))
    assert sorted(s["attributes"]["input.value"] for s in spans) == sorted(
        t.encode("utf-8", "replace").decode().replace("\0", "\ufffd") for t in HOSTILE
    )


@pytest.mark.slow
@pytest.mark.parametrize("headers", ["authorization=Bearer%20geheim", "Authorization: Bearer geheim"])
def test_an_endpoint_that_refuses(phoenix, headers, monkeypatch, capfd, caplog):
    "The reason is in the error, and where it was; the headers are nowhere, not even malformed ones."
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", headers)
    with pytest.raises(
        LlmForgeError, match=r"/no/such/v1/traces did not take the traces \(after 0 of them\).*40[45]"
    ) as e:
        export_traces(ROWS, EXPERIMENT, endpoint=phoenix + "/no/such")
    assert "geheim" not in str(e.value) + caplog.text + "".join(capfd.readouterr())


@pytest.mark.slow
def test_headers_reach_the_endpoint(monkeypatch):
    "The token from OTEL_EXPORTER_OTLP_HEADERS is sent, one request a trace."
    import http.server
    import threading

    got = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(
                (
                    self.path,
                    self.headers["authorization"],
                    len(self.rfile.read(int(self.headers["content-length"]))),
                )
            )
            self.send_response(200)
            self.end_headers()

        def log_message(self, *a):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20geheim")
        export_traces(ROWS, EXPERIMENT, endpoint=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert [g[:2] for g in got] == [("/v1/traces", "Bearer geheim")] * 2 and min(g[2] for g in got) > 1000


@pytest.mark.slow
@pytest.mark.parametrize("headers", ["authorization=Bearer%20geheim", "Authorization: Bearer geheim"])
def test_a_collector_that_refuses(headers, monkeypatch, capfd, caplog):
    "As with Phoenix above, from a server of two lines: the reason is in the error, the headers are nowhere."
    import http.server
    import threading

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_error(404)

        def log_message(self, *a):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", headers)
        with pytest.raises(LlmForgeError, match=r"did not take the traces \(after 0 of them\).*404") as e:
            export_traces(ROWS, EXPERIMENT, endpoint=f"http://127.0.0.1:{server.server_port}/no/such")
        server.shutdown()
    assert "geheim" not in str(e.value) + caplog.text + "".join(capfd.readouterr())


def episode(steps, texts=True):
    "A trace as an agent leaves it: each step asks with all that was said before."
    root = Span("chain", "react", "q", children=[Span("agent", "react")])
    said = ["You think, act, and observe what came of it. " * 5]
    for i in range(steps):
        given = "".join(said) if texts else [{"role": "user", "content": text} for text in said]
        root.children[0].children.append(Span("chain", f"step {i + 1}", children=[Span("llm", "m", given)]))
        said.append(f"Thought: {i}\nAction: calculator[{i} + 1]\nObservation: {i + 1}\n")
    return to_dict(root)


@pytest.mark.parametrize("texts", [True, False])
def test_a_prompt_is_kept_once(texts):
    "Twice the steps take twice the room, not four times; what is read is what was written."
    few, many = (episode(n, texts) for n in (40, 80))
    room = [len(canonical(short_prompts(t))) for t in (few, many)]
    assert room[1] < 2.2 * room[0] and len(canonical(many)) > 3 * len(canonical(few))
    for t in (few, many):
        before = canonical(t)
        assert whole_prompts(short_prompts(t)) == whole_prompts(t) == t and canonical(t) == before
        assert short_prompts(short_prompts(t)) == short_prompts(t)


def test_prompts_of_all_kinds_come_back(rng=random.Random(0)):
    "Whatever stands in a call's input, also what looks like a reference."
    alike = "a common beginning of more than a hundred characters, " * 3
    given = ["", "x", alike, alike + "1", alike[:120] + "2", None, 7, {"$same": 3, "$new": 4}, {"$same": 3}]
    given += [[], [alike], [alike, "b"], [{"role": "user"}], {"a": alike}, alike + "1" + alike]
    for _ in range(200):
        children = [Span("llm", "m", rng.choice(given)) for _ in range(rng.randrange(6))]
        trace = to_dict(Span("chain", "c", alike, children=children))
        assert whole_prompts(short_prompts(trace)) == trace
    assert whole_prompts(None) is short_prompts(None) is None


@pytest.mark.slow
def test_stored_prompts_are_read_whole(tmp_path, monkeypatch):
    "By every reader; the file holds them once. A secret in the first of them shifts nothing."
    monkeypatch.setenv("PLANTED_KEY", "planted-secret-value")

    async def growing(question, context):
        prompt = f"planted-secret-value {question} " * 20
        for i in range(30):
            prompt += f"Thought {i}: {await context.generate(prompt)}\n"
        return "done"

    monkeypatch.setitem(methods._entries, "growing", growing)
    about = {"method": {"name": "growing", "shots": 0}, "dataset": {"name": "almanac", "limit": 2}}
    config = load_config({"experiment": {"name": "g", "engine": {"name": "fake"}, **about}})
    store = Store(f"sqlite:///{tmp_path}/a.db")
    id = run_experiment(config, store, FakeEngine(" so"), show=False)
    [row, _] = store.rows(id)
    prompts = [s["input"] for s in walk(row["trace"], "llm")]
    begin = f"*** {row['input_text']} " * 20
    assert prompts == [begin + "".join(f"Thought {k}:  so\n" for k in range(i)) for i in range(30)]
    assert stored_trace(store, id, row["example_id"])["trace"] == row["trace"]
    with store.transaction() as c:
        kept = c.scalars(sa.select(RUNS.c.trace)).first()
    assert len(canonical(kept)) < len(canonical(row["trace"])) / 4
    exported = export_experiment(store, id, tmp_path / "x")
    other = Store(f"sqlite:///{tmp_path}/b.db")
    import_experiment(other, exported)
    assert other.rows(id) == store.rows(id) and "$same" not in (exported / "runs.jsonl").read_text()
    with other.transaction() as c:
        assert c.scalars(sa.select(RUNS.c.trace)).first() == kept
