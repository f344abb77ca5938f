"""Chunks cover the text, BM25 agrees with its reference, an index survives crashes, rivals and many readers,
and searching leaves the engine its threads."""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

import numpy as np
import pytest

from llmforge import embedding
from llmforge import indexing as index
from llmforge.core import ConfigError, MissingExtra, RetrievalError
from llmforge.embedding import (
    chunk_passages,
    embed,
    embed_cached,
    embedding_files,
    embedding_model,
    positions,
    tokenizer,
    windows,
)
from llmforge.files import cache_dir
from llmforge.indexing import Bm25, Bm25Reference, EdgeVectors, ServerVectors, build_index, open_index
from llmforge.records import Corpus, Passage
from llmforge.retriever import cross_encoder, make_retriever, maxsim, rrf
from llmforge.sections import RetrievalConfig
from llmforge.trace import span

pytestmark = pytest.mark.slow

WORDS = (
    "amber anvil barge beacon bishop brass cable canal cedar chapel copper cradle crown dock ember "
    "falcon ferry flint forge garnet glass gorge grain harbour hazel heron iron ivory jade kiln lantern "
    "larch ledger linen marble mill mint moor oak otter pearl pine plover quarry quay raven reed rope "
    "saddle salt silk silver slate spire thorn tide timber tower vale velvet walnut weir willow wool"
).split()


def passages(n, words=40, seed=0):
    r = random.Random(seed)
    return tuple(
        Passage(
            f"p{i}",
            f"{r.choice(WORDS)} {i}".title(),
            " ".join(r.choices(WORDS, k=r.randint(words // 2, words))).capitalize() + ".",
        )
        for i in range(n)
    )


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    "Indexes of a test's own."
    monkeypatch.setenv("LLMFORGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


SPARSE, DENSE, HYBRID = (RetrievalConfig(name=n) for n in ("sparse", "dense", "hybrid"))

# Chunks


def test_windows_have_exact_length_overlap_and_reach():
    for n in (0, 1, 15, 16, 17, 28, 29, 100, 257):
        for tokens, overlap in ((16, 0), (16, 4), (16, 15), (5, 2)):
            w = list(windows(range(n), n, tokens, overlap))
            assert w[0][0] == 0 and w[-1][1] == n
            assert all(end - start == count == tokens for start, end, count in w[:-1]) and w[-1][2] <= tokens
            assert all(a[1] - b[0] == overlap for a, b in zip(w, w[1:]))
            assert len(w) < 2 or w[-1][2] > overlap  # no window that the one before contains


TEXTS = [
    "Zürich, cafe\u0301 naïve — 東京 한국어 \u200b x\x00y 🏔️👨‍👩‍👧 ½ ﬁn\n\n  end  " * 12,
    "plain words, " * 300,
    "",
    "  ",
    "a" * 900,
    "\u2028line\u0085ends\r\n" * 40,
]


@pytest.mark.parametrize("text", TEXTS)
def test_chunks_cover_the_text_verbatim(text):
    p = Passage("p", "T", text)
    assert "".join(c.text for c in chunk_passages([p], 32, 0)) == text
    whole = tokenizer().encode(text, add_special_tokens=False)
    chunks = chunk_passages([p], 32, 8)
    for i, c in enumerate(chunks):
        assert (c.id, c.position, c.passage_id, c.title) == (f"p#{i}", i, "p", "T")
        first = i * (32 - 8)
        assert c.tokens == min(32, len(whole.ids) - first)
        assert i == 0 or text.startswith(c.text, whole.offsets[first][0])
    assert len(chunks) == 1 or sum(c.tokens for c in chunks) == len(whole.ids) + 8 * (len(chunks) - 1)


@pytest.mark.parametrize("tokens, overlap", [(16, 50), (16, 16), (0, 0), (16, -1)])
def test_chunks_that_would_lose_text_are_refused(tokens, overlap):
    with pytest.raises(ConfigError, match=f"chunks of {tokens} tokens cannot share {overlap} of them"):
        chunk_passages([Passage("p", "", "the quick brown fox " * 20)], tokens, overlap)


def test_long_passage_in_256s_with_50_overlap():
    chunks = chunk_passages([Passage("p", "", "the quick brown fox jumps . " * 200)])
    assert [c.tokens for c in chunks[:-1]] == [256] * (len(chunks) - 1) and len(chunks) == 6


# BM25


def test_fast_bm25_ranks_as_the_reference():
    "300 random queries, with repeated and unknown words, over chunks of which some are equal and so tie."
    texts = [p.text for p in passages(300)]
    texts += texts[:40] + ["", "the of and"]
    fast, slow = Bm25.build(texts), Bm25Reference(texts)
    r, tied = random.Random(1), 0
    for _ in range(300):
        query = " ".join(r.choices([*WORDS, "zebra", "the"], k=r.randint(1, 8)))
        a, b = fast.search(query, 50), slow.search(query, 50)
        assert [i for i, _ in a] == [i for i, _ in b] and np.allclose(
            [s for _, s in a], [s for _, s in b], rtol=1e-9
        )
        assert all(s > t or s == t and i < j for (i, s), (j, t) in zip(a, a[1:]))
        tied += any(s == t for (_, s), (_, t) in zip(a, a[1:]))
    assert tied > 50


def test_bm25_saved_and_loaded(tmp_path):
    fast = Bm25.build([p.text for p in passages(50)])
    fast.save(tmp_path / "b")
    assert Bm25.load(tmp_path / "b").search("amber oak", 9) == fast.search("amber oak", 9) != []


def test_common_words_still_count():
    "A word in most chunks has a small positive weight (BM25Okapi would make it negative)."
    assert [i for i, _ in Bm25.build(["oak ferry", "oak oak", "mill"]).search("oak", 3)] == [1, 0]


def test_no_words_is_a_clear_error():
    with pytest.raises(RetrievalError, match="no words to index"):
        build_index(Corpus("c", (Passage("a", "", "the of"),)), SPARSE)


# Fusion


def test_rrf_by_hand():
    fused = rrf({"dense": [7, 3, 5], "sparse": [3, 9]}, {"dense": 1.0, "sparse": 2.0}, k=60)
    assert fused == [
        (3, 1 / 62 + 2 / 61, {"dense": 2, "sparse": 1}),
        (9, 2 / 62, {"sparse": 2}),
        (7, 1 / 61, {"dense": 1}),
        (5, 1 / 63, {"dense": 3}),
    ]


def test_rrf_ties_go_by_best_rank_then_item():
    assert [i for i, *_ in rrf({"a": [1, 2], "b": [2, 1]})] == [1, 2]
    assert [i for i, *_ in rrf({"a": [4], "b": [2]})] == [2, 4]
    assert rrf({"a": [4], "b": []}, {"a": 0.0}) == []


# Vectors


def unit_rows(n, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, 32)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_both_stores_agree_with_numpy(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    x, queries = unit_rows(5000), unit_rows(20, 1)
    stores = EdgeVectors(x), ServerVectors(x, ":memory:", "c")
    assert list(tmp_path.iterdir()) == []  # the shard's files are gone while it is in use
    for q in queries:
        for store in stores:
            found = store.search(q, 10)
            assert [i for i, _ in found] == np.argsort(-(x @ q))[:10].tolist()
            assert np.allclose([s for _, s in found], np.sort(x @ q)[::-1][:10], atol=1e-5)
    for store in stores:
        store.close()


def test_server_collection_is_filled_once_and_completed(tmp_path, monkeypatch):
    "Against the client's local mode on disk, which two openings in turn share as they would a server."
    import qdrant_client

    real = qdrant_client.QdrantClient
    monkeypatch.setattr(qdrant_client, "QdrantClient", lambda url, **kw: real(path=str(tmp_path / "server")))
    x, inserted = unit_rows(60), []
    monkeypatch.setattr(
        real,
        "upload_collection",
        lambda self, name, v, ids, upload=real.upload_collection, **kw: (
            inserted.append(len(v)),
            upload(self, name, v, ids=ids, **kw),
        ),
    )
    for _ in range(2):
        ServerVectors(x, "http://server", "c").close()
    assert inserted == [60]
    half = ServerVectors(x, "http://server", "c")  # another process was killed while filling
    half.client.delete("c", points_selector=list(range(20, 60)))
    half.close()
    whole = ServerVectors(x, "http://server", "c")
    assert inserted == [60, 60] and whole.client.count("c").count == 60
    whole.close()


def test_unreachable_server_is_a_clear_error():
    with pytest.raises(
        RetrievalError, match=r"server at http://\*\*\*@127.0.0.1:9 failed.*check retrieval.url"
    ) as e:
        ServerVectors(unit_rows(3), "http://me:hunter2@127.0.0.1:9", "c")
    assert "hunter2" not in str(e.value)
    corpus = Corpus("c", passages(3))
    with pytest.raises(RetrievalError, match="Qdrant server"):
        make_retriever(RetrievalConfig(name="dense", url="http://127.0.0.1:9"), corpus)


def test_url_finds_what_the_embedded_store_finds():
    corpus = Corpus("c", passages(30))
    a, b = (make_retriever(RetrievalConfig(name="hybrid", url=url), corpus) for url in (None, ":memory:"))
    for q in ("copper lantern", "a river of salt"):
        assert [h.chunk.id for h in a.find(q, 8)] == [h.chunk.id for h in b.find(q, 8)]
    assert a.fingerprint == b.fingerprint
    a.close(), b.close()


# The index


def test_index_is_built_once_and_keyed_by_content():
    corpus = Corpus("c", passages(20))
    first = build_index(corpus, SPARSE)
    stamp = {p: p.stat().st_mtime_ns for p in (cache_dir("indexes") / first.fingerprint).rglob("*")}
    again = build_index(Corpus("renamed", corpus.passages), RetrievalConfig(name="sparse", top_k=9))
    assert again.fingerprint == first.fingerprint and {p: p.stat().st_mtime_ns for p in stamp} == stamp
    p = corpus.passages[0]
    changed = Corpus("c", (Passage(p.id, p.title, p.text + "!"), *corpus.passages[1:]))
    others = [
        build_index(changed, SPARSE),
        build_index(corpus, RetrievalConfig(name="sparse", chunk_tokens=64)),
        build_index(corpus, RetrievalConfig(name="sparse", chunk_overlap=9)),
    ]
    assert len({first.fingerprint, *(i.fingerprint for i in others)}) == 4


def test_only_new_texts_are_embedded(monkeypatch):
    embedded = []

    def embed(texts, model, long):
        embedded.extend(texts)
        return unit_rows(len(texts))

    monkeypatch.setattr(embedding, "embed", embed)
    ps = passages(20)
    build_index(Corpus("c", ps), DENSE)
    build_index(Corpus("c", (*ps, Passage("new", "New", "A new passage."))), HYBRID)
    assert len(embedded) == 21 and embedded[-1] == "New\nA new passage."


BUILD = """
import sys, json
import numpy as np
from llmforge import embedding, indexing as index
from llmforge.sections import RetrievalConfig
from llmforge.records import Corpus
sys.path.insert(0, {here!r})
from test_retrieval import passages
{patch}
corpus = Corpus("c", passages({n}))
print("ready", flush=True)
built = index.build_index(corpus, RetrievalConfig(name={name!r}))
vectors = None if built.vectors is None else len(built.vectors)
print(json.dumps([built.fingerprint, len(built.chunks), built.bm25.search("amber oak", 3)[0][0], vectors]))
"""
FAKE_EMBED = """
import hashlib, time
class Model: max_seq_length = 256
index.embedding_model, index.positions = lambda name: Model, lambda name: 512
def vector(text):
    seed = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
    return np.random.default_rng(seed).normal(size=16).astype(np.float32)
def embed(texts, model=None, long=False):
    print("embedding", len(texts), flush=True)
    time.sleep({delay})
    return np.stack([vector(t) for t in texts])
embedding.embed = embed
"""


def start(n=400, name="hybrid", delay=0.2, patch=""):
    code = BUILD.format(
        here=os.path.dirname(__file__), patch=FAKE_EMBED.format(delay=delay) + patch, n=n, name=name
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(p):
    out, err = p.communicate(timeout=60)
    assert p.returncode == 0, err
    return out.splitlines()


def half_built():
    "What builders that were killed left behind."
    return list(cache_dir("indexes").glob(".*-*"))


def test_two_builders_make_one_intact_index():
    a, b = start(), start()
    out = [finish(a), finish(b)]
    assert out[0][-1] == out[1][-1]
    assert sorted(any("embedding" in line for line in o) for o in out) == [
        False,
        True,
    ]  # one built, one waited
    fp = json.loads(out[0][-1])[0]
    assert open_index(cache_dir("indexes") / fp).vectors.shape == (400, 16)
    assert sorted(p.name for p in cache_dir("indexes").iterdir()) == sorted(
        [fp, fp + ".lock", "embeddings.db"]
    )


def test_sigkill_while_building_leaves_nothing_broken():
    "Killed at several moments: the next builder takes up what was embedded, and the last index is whole."
    total = 1100
    for wait in (0, 1, 2):
        p = start(total, delay=0.3)
        while "embedding" not in (line := p.stdout.readline()):
            assert line, p.stderr.read()
        for _ in range(wait):
            assert "embedding" in p.stdout.readline()
        p.send_signal(signal.SIGKILL)
        p.wait()
        assert half_built() == [f for f in cache_dir("indexes").iterdir() if f.is_dir()]
    out = finish(start(total, delay=0))
    fp, chunks, _, vectors = json.loads(out[-1])
    embedded = sum(int(line.split()[1]) for line in out if line.startswith("embedding"))
    assert (chunks, vectors) == (total, total)
    assert embedded <= total - 3 * 256  # committed batches were not paid twice
    assert not half_built()
    vectors = open_index(cache_dir("indexes") / fp).vectors
    shutil.rmtree(cache_dir("indexes"))
    assert json.loads(finish(start(total, delay=0))[-1])[0] == fp
    assert np.array_equal(open_index(cache_dir("indexes") / fp).vectors, vectors)


@pytest.mark.parametrize("moment", ["index.Bm25.save", "np.save", "os.replace"])
def test_sigkill_at_each_step(moment):
    "Killed as it starts to write the words or the vectors, or to rename the finished folder."
    p = start(
        20,
        delay=0,
        patch=f"import os, signal; {moment} = lambda *a, **kw: os.kill(os.getpid(), signal.SIGKILL)",
    )
    p.communicate(timeout=60)
    assert p.returncode == -signal.SIGKILL
    assert len(half_built()) == 1 and half_built() == [
        f for f in cache_dir("indexes").iterdir() if f.is_dir()
    ]
    assert json.loads(finish(start(20, delay=0))[-1])[1] == 20
    assert not half_built()


@pytest.mark.parametrize(
    "damage",
    ["vectors.npy", "chunks.jsonl", "index.json", "bm25/vocab.index.json", "bm25/data.csc.index.npy"],
)
def test_damaged_index_is_a_clear_error(damage, monkeypatch):
    monkeypatch.setattr(embedding, "embed", lambda texts, model, long: unit_rows(len(texts)))
    corpus = Corpus("c", passages(20))
    folder = cache_dir("indexes") / build_index(corpus, DENSE).fingerprint
    for content in (b"", (folder / damage).read_bytes()[:-40]):
        (folder / damage).write_bytes(content)
        with pytest.raises(RetrievalError, match="is damaged.*delete that folder"):
            build_index(corpus, DENSE)


def test_failed_build_leaves_no_index(monkeypatch):
    def boom(texts, model, long=False):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index, "embed_cached", boom)
    with pytest.raises(RetrievalError, match="No space left.*LLMFORGE_CACHE"):
        build_index(Corpus("c", passages(3)), DENSE)
    assert not [p for p in cache_dir("indexes").iterdir() if p.is_dir()]


def test_an_interrupted_build_leaves_no_index(monkeypatch):
    def interrupt(texts, model, long=False):
        raise KeyboardInterrupt

    monkeypatch.setattr(index, "embed_cached", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_index(Corpus("c", passages(3)), DENSE)
    assert not [p for p in cache_dir("indexes").iterdir() if p.is_dir()]


SEARCH = """
import sys, json
from pathlib import Path
from llmforge.indexing import EdgeVectors, open_index
index = open_index(Path(sys.argv[1]))
vectors = EdgeVectors(index.vectors)
def both(i):
    return vectors.search(index.vectors[i], 3), index.bm25.search(index.chunks[i].text, 3)
print(json.dumps([both(i) for i in range(0, 200, 5)]))
"""


def test_many_processes_search_one_index(monkeypatch):
    monkeypatch.setattr(embedding, "embed", lambda texts, model, long: unit_rows(len(texts)))
    folder = cache_dir("indexes") / build_index(Corpus("c", passages(200)), DENSE).fingerprint
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    found = {
        finish(p)[0]
        for p in [
            subprocess.Popen(
                [sys.executable, "-c", SEARCH, str(folder)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
    }
    assert len(found) == 1 and all(
        dense[0][0] == i * 5 for i, (dense, _) in enumerate(json.loads(found.pop()))
    )
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


# The retriever

CONFUSABLE = {
    "Beacon of Orrin": "The Beacon of Orrin was lit in 1741 by the keeper Maud Tessel. "
    "Ships steer by it on their way into the bay.",
    "Beacon of Orlin": "The Beacon of Orlin was lit in 1714 by the keeper Maud Tassel. "
    "It fell into the sea in a storm.",
    "Beacon of Orrel": "The Beacon of Orrel was lit in 1747 by the keeper Matt Tessen. It burns whale oil.",
    "Pilot boat HK-417": "A pilot boat built at Orrin. Its hull is oak.",
    "Pilot boat HK-471": "A pilot boat built at Orlin. Its hull is iron.",
    "Pilot boat HK-741": "A pilot boat built at Orrel. Its hull is larch.",
    "The Orrin physicians": "The town's doctors are paid by the harbour. They treat sailors free of charge.",
    "Bread of Orlin": "Bakers of the town mix seaweed into the dough, "
    "which keeps loaves fresh for a week at sea.",
    "School of Orrel": "Children of the town learn to tie knots before they learn to write.",
}
QUESTIONS = [
    "Who lit the Beacon of Orrin?",
    "When was the Beacon of Orlin lit?",
    "Who was the keeper Tessen?",
    "hull of HK-417",
    "What is HK-471 made of?",
    "Where does HK-741 come from?",
    "medical care for seamen",
    "food that does not spoil on a voyage",
    "How are the young educated?",
]


def test_hybrid_is_at_least_as_good_as_either():
    corpus, mrr = (
        Corpus("c", tuple(Passage(f"p{i}", t, x) for i, (t, x) in enumerate(CONFUSABLE.items()))),
        {},
    )
    for name in ("dense", "sparse", "hybrid"):
        r = make_retriever(RetrievalConfig(name=name), corpus)
        ids = [[h.chunk.passage_id for h in r.find(q, 9)] for q in QUESTIONS]
        mrr[name] = np.mean(
            [1 / (1 + found.index(f"p{i}")) if f"p{i}" in found else 0 for i, found in enumerate(ids)]
        )
        r.close()
    assert mrr["hybrid"] >= max(mrr["dense"], mrr["sparse"]) and min(mrr["dense"], mrr["sparse"]) < 1


def test_search_ranks_and_traces():
    r = make_retriever(SPARSE, Corpus("c", passages(30)))

    async def many():
        return await asyncio.gather(
            *[r.search(q) for q in ("amber oak", "salt", "zebra")], r.search("amber", 1)
        )

    with span("chain", "test") as s:
        hits, _, none, one = asyncio.run(many())
    assert (
        [h.rank for h in hits] == [1, 2, 3] == [h.ranks["sparse"] for h in hits]
        and none == []
        and len(one) == 1
    )
    assert [c.input for c in s.children] == ["amber oak", "salt", "zebra", "amber"] and all(
        c.kind == "retriever" and c.attributes["search_ms"] > 0 for c in s.children
    )
    assert s.children[0].output[0]["id"] == hits[0].chunk.id
    for bad in (("", 3), ("oak", 0)):
        with pytest.raises(RetrievalError, match="needs a query and a top_k"):
            asyncio.run(r.search(*bad))
    r.close()


def test_searching_leaves_torchs_threads_alone():
    import torch

    def in_a_new_thread():
        number = []
        thread = threading.Thread(target=lambda: number.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return number[0]

    before = torch.get_num_threads()
    torch.set_num_threads(3)  # so that one is not the default anyway
    r = make_retriever(DENSE, Corpus("c", passages(3)))
    asyncio.run(r.search("oak"))
    assert asyncio.run(r._thread.do(torch.get_num_threads)) == 1
    assert torch.get_num_threads() == 3 == in_a_new_thread()  # such as an engine's worker
    r.close()
    torch.set_num_threads(before)


def test_fingerprint_follows_what_matters():
    corpus = Corpus("c", passages(5))

    def fp(**kw):
        r = make_retriever(RetrievalConfig(name="sparse", **kw), corpus)
        r.close()
        return r.fingerprint

    assert fp() == fp(order="best_first") != fp(top_k=1) != fp(rrf_k=9)


# Reranking

RERANKED = RetrievalConfig(name="reranked", top_k=3, rerank=12, candidates=12)


def searched(config, corpus, query):
    r = make_retriever(config, corpus)

    async def go():
        with span("chain", "test") as s:
            return await r.search(query), s

    hits, s = asyncio.run(go())
    assert [h.chunk.id for h in r.find(query, config.top_k)] == [h.chunk.id for h in hits], (
        "find and search agree"
    )
    r.close()
    return hits, s.children[0]


def test_maxsim_is_the_mean_of_the_best_cosines():
    "Against the definition, token by token (Khattab and Zaharia 2020), to the precision of the kept vectors."
    query, text = "the silver beacon of the harbour", "Harbour 7\nA beacon of silver stands there."

    def tokens(t):
        return (
            embedding_model()
            .encode(t, output_value="token_embeddings", show_progress_bar=False)
            .numpy()[1:-1]
        )

    unit = lambda v: v / np.linalg.norm(v)
    by_hand = np.mean([max(float(unit(q) @ unit(d)) for d in tokens(text)) for q in tokens(query)])
    assert maxsim(query, [text])[0] == pytest.approx(by_hand, abs=2e-3)
    assert maxsim(query, [query])[0] == pytest.approx(1, abs=2e-3) and maxsim(query, ["", " "]) == [
        0.0,
        0.0,
    ]


def test_reranking_changes_the_order_of_the_fusion_and_the_trace_says_how():
    corpus = Corpus("c", passages(80))
    query = corpus.passages[7].text.split(".")[0]
    hits, retriever = searched(RERANKED, corpus, query)
    (reranker,) = retriever.children
    before, _ = searched(RetrievalConfig(name="hybrid", top_k=12, candidates=12), corpus, query)
    assert (
        reranker.kind == "reranker"
        and reranker.input == [h.chunk.id for h in before]
        and retriever.attributes["search_ms"] > 0
    )
    assert [o["after"] for o in reranker.output] == list(range(1, 13)) and sorted(
        o["before"] for o in reranker.output
    ) == list(range(1, 13))
    assert [o["score"] for o in reranker.output] == sorted(
        (o["score"] for o in reranker.output), reverse=True
    )
    assert [o["id"] for o in reranker.output][:3] == [h.chunk.id for h in hits] and len(hits) == 3
    assert hits[0].chunk.passage_id == "p7" and all(
        h.ranks["hybrid"] == o["before"] for h, o in zip(hits, reranker.output)
    )


@pytest.fixture(scope="module")
def small_cross_encoder(tmp_path_factory):
    "A cross-encoder of random weights, with MiniLM's tokenizer: what counts is that its scores decide."
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("cross-encoder")
    torch.manual_seed(0)
    tok = AutoTokenizer.from_pretrained(embedding_files(embedding.MINILM).source)
    BertForSequenceClassification(
        BertConfig(
            vocab_size=len(tok),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            num_labels=1,
        )
    ).save_pretrained(folder)
    tok.save_pretrained(folder)
    return str(folder)


def test_any_cross_encoder_can_rerank(small_cross_encoder):
    from sentence_transformers import CrossEncoder

    corpus = Corpus("c", passages(40))
    config = RERANKED.model_copy(update={"reranker": small_cross_encoder})
    hits, retriever = searched(config, corpus, "silver beacon")
    asked = [p for p in retriever.children[0].input]
    chunks = {c.id: c for c in build_index(corpus, config).chunks}
    scores = CrossEncoder(small_cross_encoder).predict(
        [("silver beacon", chunks[i].searchable) for i in asked]
    )
    assert [h.chunk.id for h in hits] == [asked[i] for i in np.argsort(-scores, kind="stable")[:3]]


def test_a_reranker_that_cannot_be_had_says_so():
    with pytest.raises(RetrievalError, match="'no/such-reranker' cannot be loaded.*maxsim"):
        make_retriever(RERANKED.model_copy(update={"reranker": "no/such-reranker"}), Corpus("c", passages(5)))


def test_a_passage_of_invisible_characters_scores_nothing():
    assert maxsim("Paris", ["\u200b\u200b", "", "Paris"])[:2] == [0.0, 0.0]


def test_a_damaged_reranker_is_one_sentence(small_cross_encoder, tmp_path):
    "Of torch and safetensors, whose errors are of no common kind."
    shutil.copytree(small_cross_encoder, tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(RetrievalError, match="damaged' cannot be loaded: .*maxsim"):
        cross_encoder(str(tmp_path / "damaged"))


def test_chunks_beyond_the_usual_limit_are_read_to_their_end():
    "Two texts of 400 tokens that differ in the last words alone differ if the model reads on."
    a, b = (" ".join(["harbour"] * 380 + [end] * 15) for end in ("violin", "volcano"))
    assert positions() == 512
    usual, long = embed([a, b]), embed([a, b], long=True)
    assert np.allclose(usual[0], usual[1], atol=1e-5) and not np.allclose(long[0], long[1], atol=1e-3)
    assert embedding_model().max_seq_length == 256 and not np.allclose(
        embed_cached([a], long=True), embed_cached([a]), atol=1e-3
    )


# Errors


def test_wrong_use_is_a_clear_error():
    assert make_retriever(RetrievalConfig(), None) is None
    with pytest.raises(ConfigError, match="needs a corpus"):
        make_retriever(SPARSE, None)
    with pytest.raises(RetrievalError, match="'empty' has no passages"):
        build_index(Corpus("empty", ()), SPARSE)
    with pytest.raises(ConfigError, match="unknown model 'minilm'"):
        build_index(Corpus("c", passages(2)), RetrievalConfig(name="dense", embedding="minilm"))
    with pytest.raises(RetrievalError, match="cannot be had from the hub"):
        build_index(Corpus("c", passages(2)), RetrievalConfig(name="dense", embedding="no/such-model"))
    with pytest.raises(RetrievalError, match="can read 512 tokens at once; received 600"):
        build_index(Corpus("c", passages(2)), RetrievalConfig(name="dense", chunk_tokens=600))


@pytest.mark.parametrize(
    "module, use",
    [
        ("qdrant_edge", lambda: EdgeVectors(unit_rows(2))),
        ("qdrant_client", lambda: ServerVectors(unit_rows(2), ":memory:", "c")),
        ("bm25s", lambda: Bm25.build(["oak"])),
        ("rank_bm25", lambda: Bm25Reference(["oak"])),
    ],
)
def test_missing_extra_names_the_install_line(module, use, monkeypatch):
    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == module:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in [m for m in sys.modules if m.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(MissingExtra, match=r"pip install 'llmforge-lab\[retrieval\]'"):
        use()


def test_sparse_needs_no_torch():
    finish(
        start(
            20,
            "sparse",
            patch="sys.modules.update(torch=None, transformers=None, sentence_transformers=None)",
        )
    )
