"The example in CONTRIBUTING is run: a new metric and a new retriever, a function and a registry line each."

import re

import pytest

import llmforge.metrics as metrics_module
import llmforge.retriever as retriever_module
from llmforge.batching import FakeEngine
from llmforge.config import load_config
from llmforge.core import metrics, retrievers
from llmforge.files import project_root
from llmforge.runner import run_experiment
from llmforge.store import Store

GUIDE = (project_root() / "CONTRIBUTING.md").read_text()


@pytest.mark.slow
def test_the_example(monkeypatch):
    blocks = re.findall(r"```python\n#\| export\n(.*?)```", GUIDE, flags=re.S)
    homes = {"brevity": (metrics, metrics_module), "titles": (retrievers, retriever_module)}
    for block, (name, (registry, module)) in zip(blocks, homes.items(), strict=True):
        assert f'"{name}": "{module.__name__}:{name}"' in GUIDE
        scope = dict(vars(module))
        exec(block, scope)
        monkeypatch.setattr(module, name, scope[name], raising=False)
        monkeypatch.setitem(registry._entries, name, f"{module.__name__}:{name}")
    asked = {"name": "example", "engine": "fake", "dataset": {"name": "meridia", "limit": 4}}
    config = load_config({"experiment": asked}, ["metrics.extra=[brevity]", "retrieval.name=titles"])
    store = Store()
    rows = store.rows(run_experiment(config, store, FakeEngine(" two words"), show=False))
    assert [r["scores"]["brevity"] for r in rows] == [0.5] * 4
    retrieved = [s for r in rows for s in r["trace"]["children"] if s["kind"] == "retriever"]
    assert {s["name"] for s in retrieved} == {"titles"} and any(s.get("output") for s in retrieved)
    assert max(r["scores"]["mrr"] for r in rows) == 1.0


def test_it_is_a_page():
    assert len(GUIDE.splitlines()) <= 80
