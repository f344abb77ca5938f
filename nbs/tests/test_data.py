"Loading: JSONL in the shapes that public collections have, stable samples, pools, and the hub's edge."

import gzip
import json
import os
from pathlib import Path

import pytest

from llmforge.core import ConfigError, DataError, datasets
from llmforge.data import HubDataset, load_corpus, load_dataset
from llmforge.records import read_jsonl, to_example
from llmforge.sections import CorpusConfig, DatasetConfig

SHARED = os.environ.get("LLMFORGE_DATA") or next(
    (str(p) for p in [Path(__file__).resolve().parents[3] / "shared" / "data"] if p.is_dir()), None
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_DATA", str(tmp_path))
    return tmp_path


def write(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


def questions(n, **more):
    return [{"id": f"q{i}", "question": f"{i}?", "answers": [str(i)], **more} for i in range(n)]


def test_larger_samples_contain_smaller_ones(folder):
    write(folder / "q.jsonl", questions(60))
    small, large = (load_dataset(DatasetConfig(name="q.jsonl", limit=n)) for n in (10, 30))
    assert small.examples == large.examples[:10]


def test_skip_leaves_out_what_was_looked_at(folder):
    write(folder / "q.jsonl", questions(60))
    first, next_ = (
        load_dataset(DatasetConfig(name="q.jsonl", limit=10)),
        load_dataset(DatasetConfig(name="q.jsonl", skip=10, limit=10)),
    )
    assert (*first.examples, *next_.examples) == load_dataset(
        DatasetConfig(name="q.jsonl", limit=20)
    ).examples
    with pytest.raises(DataError, match="dataset.skip: is 60.*allowed: 0 to 44"):
        load_dataset(DatasetConfig(name="q.jsonl", skip=60))


def test_pool_is_never_evaluated(folder):
    write(folder / "q.jsonl", questions(60))
    data = load_dataset(DatasetConfig(name="q.jsonl"))
    assert (
        len(data.pool) == 15
        and len(data) == 45
        and not {e.id for e in data.pool} & {e.id for e in data.examples}
    )


def test_a_pool_file_gives_up_questions_that_are_asked(folder):
    write(folder / "q.jsonl", questions(4))
    write(
        folder / "pool.jsonl",
        [{"id": "p0", "question": "0?", "answers": ["0"]}, {"id": "p9", "question": "9?", "answers": ["9"]}],
    )
    assert [e.id for e in load_dataset(DatasetConfig(name="q.jsonl", exemplars="pool.jsonl")).pool] == ["p9"]


def test_gzip_and_odd_line_separators(folder):
    with gzip.open(folder / "c.jsonl.gz", "wt", encoding="utf-8") as f:
        f.write(json.dumps({"id": "a", "text": "one\u2028two"}, ensure_ascii=False) + "\n")
    assert load_corpus(CorpusConfig(name="c.jsonl.gz")).passages[0].text == "one\u2028two"


@pytest.mark.parametrize(
    "line, words",
    [
        ('{"id": "a"', "line 2: not JSON"),
        ("[1]", "line 2: must be an object"),
        ('{"id": "a", "question": "?"}', "record 2: field 'answers' is missing"),
        ('{"id": 7, "question": "?", "answers": []}', "field 'id' must be a str"),
        ('{"id": "q0", "question": "?", "answers": ["x"]}', "'q0' occurs twice"),
        (
            '{"id": "a", "question": "?", "answers": [], "gold": "p1"}',
            "field 'gold' must be a list; received str",
        ),
        ('{"id": "a", "question": "?", "answers": [], "meta": []}', "field 'meta' must be a dict"),
    ],
)
def test_bad_records_are_named(folder, line, words):
    (folder / "q.jsonl").write_text(json.dumps(questions(1)[0]) + "\n" + line + "\n")
    with pytest.raises(DataError, match=words):
        load_dataset(DatasetConfig(name="q.jsonl", exemplars="q.jsonl"))


def test_not_gzip_is_one_clear_error(folder):
    (folder / "q.jsonl.gz").write_text("hello")
    with pytest.raises(DataError, match="q.jsonl.gz: cannot be read"):
        list(read_jsonl(folder / "q.jsonl.gz"))


def test_a_link_may_not_point_out(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "q.jsonl"
    write(outside, questions(4))
    (folder / "q.jsonl").symlink_to(outside)
    with pytest.raises(ConfigError, match="outside the project"):
        load_dataset(DatasetConfig(name="q.jsonl"))


@pytest.mark.parametrize("name", ["trivia_qa", "squad", "hotpot_qa", "nq_open"])
def test_hub_without_network_is_one_clear_error(name):
    "The real path, up to the network's edge: HF_HUB_OFFLINE is set in tests."
    pytest.importorskip("datasets", reason="the hub extra is not installed")
    source = datasets.get(name)
    assert isinstance(source, HubDataset) and len(source.revision) == 40
    with pytest.raises(DataError, match=f"{source.hub_id}.*cannot be loaded from the hub"):
        load_dataset(DatasetConfig(name=name))


def test_wikipedia_needs_a_limit():
    with pytest.raises(DataError, match="corpus.limit: is needed for wikipedia"):
        load_corpus(CorpusConfig(name="wikipedia"))


@pytest.mark.skipif(not SHARED, reason="the shared evaluation data is not here (set LLMFORGE_DATA)")
@pytest.mark.parametrize(
    "name, n",
    [
        ("qa/triviaqa", 1000),
        ("qa/squad", 1000),
        ("qa/squad2_unanswerable", 200),
        ("qa/nq_open", 500),
        ("qa/hotpotqa", 500),
        ("qa/multihop_gold", 140),
        ("qa/popqa", 500),
        ("qa/gsm8k", 500),
    ],
)
def test_public_collections_load(monkeypatch, name, n):
    monkeypatch.setenv("LLMFORGE_DATA", SHARED)
    data = load_dataset(DatasetConfig(name=f"{name}.jsonl.gz"))
    assert len(data) + len(data.pool) == n and all(e.question for e in data.examples)


@pytest.mark.skipif(not SHARED, reason="the shared evaluation data is not here (set LLMFORGE_DATA)")
def test_public_corpus_loads(monkeypatch):
    monkeypatch.setenv("LLMFORGE_DATA", SHARED)
    assert len(load_corpus(CorpusConfig(name="corpus/wikipedia_passages.jsonl.gz"))) == 15658


def test_fields_that_are_null_count_as_not_given(folder):
    "Public collections write null where they know nothing."
    write(folder / "q.jsonl", questions(1, gold=None, type=None, rationale=None, meta=None))
    write(folder / "c.jsonl", [{"id": "p", "title": None, "text": "x"}])
    assert load_dataset(DatasetConfig(name="q.jsonl")).examples == (to_example(questions(1)[0]),)
    assert load_corpus(CorpusConfig(name="c.jsonl")).passages[0].title == ""
