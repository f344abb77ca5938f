"Everything a user meets shows itself in a bare cell, and whatever texts it holds stay texts."

import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from hostile import PAYLOADS
from IPython.core.formatters import DisplayFormatter
from markdown_it import MarkdownIt

import llmforge
from llmforge.aggregate import result_row, summarise
from llmforge.comparison import compare
from llmforge.config import load_config
from llmforge.contrasts import contrast
from llmforge.core import fingerprint
from llmforge.experiment import Experiment
from llmforge.plan import Study
from llmforge.records import Corpus, Dataset, Example, Passage
from llmforge.results import Traces
from llmforge.retriever import Hits, make_retriever
from llmforge.runner import Prepared, prepare
from llmforge.sections import RetrievalConfig
from llmforge.store import FrozenPlan, Store
from llmforge.studyconfig import Hypothesis, StudyConfig
from llmforge.trace import span, to_dict

HOSTILE = (
    "<script>alert(1)</script> | `x` ``` **b** [l](javascript:x) ![i](x) \x1b[31mred\x1b[0m \u202e\n\n"
    "# head\n<img src=x onerror=alert(1)>"
)
OURS = {
    "p",
    "strong",
    "ul",
    "li",
    "code",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "div",
    "span",
    "i",
    "details",
    "summary",
    "pre",
    "style",
    "small",
    "b",
    "em",
    "br",
    "time",
}


class Tags(HTMLParser):
    "The tags and attributes that a page has."

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes = set(), set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes.update(k for k, _ in attrs)


def displayed(x, capfd):
    "What a notebook gets for a bare `x`, after a look at whether it can be shown to anybody."
    data, _ = DisplayFormatter().format(x)
    assert capfd.readouterr().err == ""  # an error within a repr is printed here, and its format left out
    assert {"text/plain"} < set(data), "no table for notebooks"
    assert "\x1b" not in data["text/plain"] and "\u202e" not in data["text/plain"]
    page = data.get("text/html") or MarkdownIt("commonmark", {"html": True}).enable("table").render(
        data["text/markdown"]
    )
    found = Tags(page)
    assert found.tags <= OURS and not any(
        a.startswith("on") or a in ("href", "src") for a in found.attributes
    ), (found.tags, page)
    assert "\x1b" not in page and "\u202e" not in page
    for block in re.findall(r"(?:^\|.*\n?)+", data.get("text/markdown", ""), re.M):
        assert len({line.count("|") for line in block.splitlines()}) == 1, block
    return data


def test_the_package_offers_what_a_notebook_needs():
    "By tab, each as its module has it; and to import the package imports nothing more."
    assert set(llmforge._PUBLIC) == set(llmforge.__all__) <= set(dir(llmforge))
    for name, module in llmforge._PUBLIC.items():
        assert getattr(llmforge, name) is getattr(importlib.import_module(f"llmforge.{module}"), name)
    with pytest.raises(AttributeError, match="'llmforge' has no attribute 'comparee'; it offers .*compare"):
        _ = llmforge.comparee
    code = "import llmforge, sys; print(*[m for m in sys.modules if m.startswith('llmforge')])"
    p = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert p.stdout == "llmforge\n"


def test_a_config_shows_what_differs_from_the_usual(config):
    shown = repr(config.model_copy(update={"seed": 7}))
    assert "name='shown', engine=EngineConfig(name='fake')" in shown and "seed=7" in shown
    assert "sampling" not in shown and "temperature" not in shown
    assert "temperature=0.5" in repr(config.sampling.model_copy(update={"temperature": 0.5}))


@pytest.fixture
def store(outputs):
    return Store()


@pytest.fixture
def config():
    return load_config(
        {
            "experiment": {
                "name": "shown",
                "engine": "fake",
                "dataset": {"name": "meridia"},
                "metrics": {"resamples": 500},
            }
        }
    )


def row(i, score, **scores):
    root = {
        "kind": "chain",
        "name": "naive",
        "attributes": {"kind": HOSTILE, "expected": [HOSTILE], "gold": []},
        "start_ms": 0.0,
        "duration_ms": 0.0,
    }
    return dict(
        example_id=f"q{i}",
        position=i,
        input_text=HOSTILE,
        output_text=HOSTILE,
        answer=HOSTILE,
        tokens_in=10,
        tokens_out=2,
        latency_ms=5.0,
        queue_ms=0.0,
        cached=False,
        correct=score >= 1,
        abstained=False,
        error_type=None,
        error=None,
        scores={"exact_match": score, "f1": score, "contains": score, **scores},
        trace=root,
    )


def completed(store, config, name, score):
    id = store.create_experiment(name, name, config.model_dump(mode="json"), "data")
    lease = store.claim(id)
    store.add_rows(lease, [row(i, score, **{f"{HOSTILE}@1": 0.5}) for i in range(3)])
    scorer = {"name": HOSTILE, "version": HOSTILE, "threshold": 0.5, "card": None}
    store.complete(
        lease,
        result_row(
            summarise(store.rows(id), config)
            | {"agent": {"choice": HOSTILE, "tools": [HOSTILE]}, "scorer": scorer}
        ),
        {},
    )
    return Experiment(id, store)


# experiments


def test_a_completed_experiment_and_a_comparison(store, config, capfd):
    a, b = completed(store, config, f"a {HOSTILE}", 0.0), completed(store, config, f"b {HOSTILE}", 1.0)
    assert "3 attempted" in displayed(a, capfd)["text/markdown"] and repr(a) == f"Experiment({a.id!r})"
    assert "question by question" in displayed(compare(a, b), capfd)["text/markdown"]
    assert len(repr(contrast({("", 0): a}, {("", 0): b}, "f1"))) < 600  # without the values of every question


def test_an_experiment_without_results_says_why(store, config, capfd):
    def says(e, *parts):
        data = displayed(e, capfd)
        for part in parts:
            assert part in data["text/markdown"] and part in data["text/plain"]

    e = Experiment(
        store.create_experiment(f"e {HOSTILE}", "e", config.model_dump(mode="json"), "data"), store
    )
    says(e, "is PENDING")
    lease = store.claim(e.id)
    store.add_rows(lease, [row(i, 1.0) for i in range(2)])
    says(e, "is RUNNING", "questions with a row: 2")
    store.fail(lease, f"run inference loop: EngineError: {HOSTILE}")
    says(e, "FAILED: run inference loop: EngineError", "alert")
    says(Experiment("nowhere", store), "cannot be read")


def test_an_experiment_that_was_looked_at_while_it_ran(store, config, capfd):
    "The last look is not remembered as the state."
    id = store.create_experiment("e", "e", config.model_dump(mode="json"), "data")
    e, lease = Experiment(id, store), store.claim(id)
    displayed(e, capfd)
    store.add_rows(lease, [row(0, 1.0)])
    store.complete(lease, result_row(summarise(store.rows(id), config)), {})
    assert "1 attempted" in displayed(e, capfd)["text/markdown"] and e.result["attempted"] == 1


def test_a_study_says_how_far_it_is(store, config, capfd):
    a = completed(store, config, "a", 0.0)
    h = Hypothesis(id="H1", claim=HOSTILE, metric="accuracy", treatment="b", control="a")
    c = StudyConfig(
        name="test", question=HOSTILE, base={}, datasets={"d": {}}, arms={"a": {}, "b": {}}, hypotheses=(h,)
    )
    frozen = FrozenPlan("test", {"questions": {"d": 3}}, fingerprint({}), "2026-01-01T00:00:00+00:00")
    shown = displayed(
        Study(c, store, frozen, {("a", "d", 0): a.id, ("b", "d", 0): "b"}, tampered=(HOSTILE,)), capfd
    )
    assert (
        "1 of 2 experiments are completed; not yet: b/d/0." in shown["text/markdown"]
        and shown["text/plain"] == "Study('test', 2 arms, 2 experiments)"
    )


# data and what is made of it

PASSAGES = tuple(Passage(f"p{i} {HOSTILE}", f"{i} {HOSTILE}", f"oak {i} {HOSTILE}") for i in range(4))


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        {"name": "sparse"},
        {"name": "hybrid"},
        {"name": "reranked", "rerank": 4},
        {"name": "hybrid", "url": ":memory:"},
    ],
    ids=lambda h: "-".join(map(str, h.values())),
)
def test_what_is_searched_and_what_is_found(how, capfd, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_CACHE", str(tmp_path / "cache"))
    if "url" in how:
        pytest.importorskip("qdrant_client")
    retriever = make_retriever(RetrievalConfig(top_k=2, **how), Corpus(HOSTILE, PASSAGES))
    hits = retriever.find("oak", 2)
    assert len(hits) == 2 and isinstance(hits, list)
    shown = displayed(retriever, capfd)
    assert (
        f"**{how['name']}**" in shown["text/markdown"]
        and "4 passages" in shown["text/markdown"]
        and "second" not in shown["text/markdown"]
    )
    for x in (retriever.index, hits, hits[0]):
        shown = displayed(x, capfd)
        assert (
            "alert" in shown["text/markdown"]
            and "seconds" not in shown["text/markdown"]
            and len(shown["text/plain"]) < 1000
        )
    assert displayed(Hits(), capfd)["text/markdown"] == "No hits."
    retriever.close()


def test_data_and_work(config, capfd):
    questions, corpus = (
        Dataset(HOSTILE, (Example("q", HOSTILE, (HOSTILE,), kind=HOSTILE),)),
        Corpus(HOSTILE, PASSAGES),
    )
    for x in (questions, corpus, Prepared(config, questions, corpus, (), f"id {HOSTILE}")):
        assert "alert" in displayed(x, capfd)["text/markdown"]
    assert repr(w := prepare(config)) == f"Prepared({w.id!r}, {len(w.data)} questions)"


def test_a_trace(capfd):
    with span("chain", "naive", HOSTILE) as s:
        s.output = HOSTILE
    assert "alert" in displayed(s, capfd)["text/html"]
    displayed(Traces([{"trace": to_dict(s)}]), capfd)


# every payload


@pytest.mark.slow
def test_every_payload_in_a_trace_and_in_a_table(capfd):
    for text in PAYLOADS:
        with span("tool", text, [text, {"role": text, "content": text}], **{text: {text: text}}) as s:
            s.output = s.error = text
        displayed(s, capfd)
        displayed(Dataset(text, (Example(text, text, (text,), kind=text),)), capfd)


@pytest.mark.slow
def test_every_payload_in_experiments_a_comparison_and_a_study(store, config, capfd, monkeypatch):
    "A row for each; the names, claims and metrics are some of them."
    made = []
    for name, score, text in (("a", 0.0, PAYLOADS[9]), ("b", 1.0, PAYLOADS[-2])):
        monkeypatch.setattr(sys.modules[__name__], "HOSTILE", text)
        id = store.create_experiment(name, name, config.model_dump(mode="json"), "data")
        texts = {
            t: dict.fromkeys(("input_text", "output_text", "answer", "error", "error_type"), t)
            for t in PAYLOADS
        }
        rows = [row(i, score) | texts[t] | {"example_id": f"{i} {t}"} for i, t in enumerate(PAYLOADS)]
        lease = store.claim(id)
        store.add_rows(lease, rows)
        store.complete(lease, result_row(summarise(store.rows(id), config)), {})
        made.append(Experiment(id, store))
        displayed(made[-1], capfd)
        displayed(Traces(rows[:9]), capfd)
    displayed(compare(*made), capfd)
    for text in PAYLOADS[::7]:
        h = Hypothesis(id="H1", claim=text, metric="accuracy", treatment="b", control="a")
        arms = {"a": {}, "b": {}}
        c = StudyConfig(name="test", question=text, base={}, datasets={"d": {}}, arms=arms, hypotheses=(h,))
        plan = FrozenPlan("test", {"questions": {"d": 3}}, fingerprint({}), "2026-01-01T00:00:00+00:00")
        ids = {("a", "d", 0): made[0].id, ("b", "d", 0): made[1].id}
        for arms_there in (ids, {**ids, ("b", "d", 0): text}):
            displayed(Study(c, store, plan, arms_there, tampered=(text,)), capfd)
