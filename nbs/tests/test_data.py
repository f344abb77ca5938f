"Loading: JSONL in the shapes that public collections have, stable samples, pools, and the hub's edge."

import gzip
import json
import os
import re
from pathlib import Path

import pytest

from llmforge.batching import FakeEngine
from llmforge.config import load_config
from llmforge.core import ConfigError, DataError, datasets
from llmforge.data import HubDataset, load_corpus, load_dataset
from llmforge.embedding import Chunk
from llmforge.methods import passages_text
from llmforge.progress import input_notes
from llmforge.records import Dataset, Example, read_jsonl, to_example, to_passage
from llmforge.retriever import Hit
from llmforge.runner import run_experiment
from llmforge.sections import CorpusConfig, DatasetConfig
from llmforge.store import Store
from llmforge.text import titled

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
        ('{"id": "a", "question": "?"}', "line 2: no answers; usual names: answers, answer"),
        ('{"id": true, "question": "?", "answers": []}', "line 2: id must be a text or a number"),
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


@pytest.mark.slow
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


# --- values of another type, and what no store can hold


def one(folder, **fields):
    "The example of a file with one record."
    line = json.dumps({"id": "a", "question": "Capital?", "answers": ["Paris"], **fields})
    (folder / "one.jsonl").write_text(f"\n{line}\n")
    return load_dataset(DatasetConfig(name="one.jsonl")).examples[0]


@pytest.mark.parametrize(
    "answers, expected",
    [
        ([{"text": "Paris", "answer_start": 3}], ("Paris",)),
        ([{"text": "Paris"}, "Lutetia", {"text": "Lutèce"}], ("Paris", "Lutetia", "Lutèce")),
        ([["Paris", "Lutetia"], ["Lutèce"]], ("Paris", "Lutetia", "Lutèce")),
        ([[{"text": "Paris"}, 75], 3.25, -4], ("Paris", "75", "3.25", "-4")),
        ([], ()),
    ],
)
def test_answers_that_are_accepted_as_meant(folder, answers, expected):
    assert one(folder, answers=answers).answers == expected


@pytest.mark.parametrize(
    "fields, path",
    [
        *(({"answers": [bad]}, "answers.0") for bad in (None, True, {}, {"text": None}, {"value": "Paris"})),
        *(
            ({"answers": ["Paris", bad]}, "answers.1")
            for bad in ([None], [["Paris"]], [["a", []]], 1961.0, 1e30)
        ),
        *(({"answers": bad}, "answers") for bad in (None, True)),
        *(({"gold": bad}, "gold") for bad in ("p17", {"p17": 1}, 17, True)),
        *(({"gold": [bad]}, "gold.0") for bad in (None, True, 17.0, {"id": "p17"})),
        *(({"gold_passage_ids": bad}, "gold_passage_ids") for bad in ("p17", {"p17": 1})),
        ({"gold_passage_ids": ["p1", None]}, "gold_passage_ids.1"),
        *(({"type": bad}, "type") for bad in (3, ["x"], {}, True)),
        *(({"kind": 3}, "kind"), ({"rationale": ["because"]}, "rationale"), ({"meta": "x"}, "meta")),
        *(({"question": None}, "question"), ({"question": ["Who?"]}, "question")),
    ],
)
def test_a_value_of_another_type_is_refused_with_line_and_field(folder, fields, path):
    with pytest.raises(
        DataError, match=rf"one.jsonl line 2: field '{re.escape(path)}' must be a \w+; received"
    ):
        one(folder, **fields)


def test_ids_of_gold_passages_may_be_numbers(folder):
    assert one(folder, gold=["p1", 17]).gold == ("p1", "17")
    assert one(folder, gold=None, gold_passage_ids=[["p1"], ["p2"]]).gold == ("p1", "p2")


@pytest.mark.parametrize(
    "more, words",
    [
        ('"score": NaN', "field 'score' is nan"),
        ('"meta": {"a": [0, -Infinity]}', "field 'meta.a.1' is -inf"),
        ('"score": 1e999', "field 'score' is inf"),
        ('"meta": {"who": "Ada \\ud83d"}', "field 'meta.who' has half of a character"),
        ('"meta": {"\\udc00": 1}', "field .* has half of a character"),
        ('"rationale": "\\ud83d and \\ude00"', "field 'rationale' has half of a character"),
        (f'"n": {"9" * 5000}', "cannot be read: Exceeds the limit"),
        (f'"n": {"[" * 100_000}{"]" * 100_000}', "cannot be read: maximum recursion depth"),
        (f'"n": {"[" * 960}{"]" * 960}', "(cannot be read|is nested too deeply)"),
    ],
)
def test_what_no_store_can_hold_is_refused_with_its_line(folder, more, words):
    line = f'{{"id": "a", "question": "?", "answers": ["x"], "text": "t", {more}}}'
    (folder / "bad.jsonl").write_text(f'{{"id": "b", "question": "?", "answers": [], "text": "t"}}\n{line}\n')
    for load in (lambda: load_dataset(DatasetConfig(name="bad.jsonl")), lambda: corpus_of("bad.jsonl")):
        with pytest.raises(DataError, match=f"bad.jsonl line 2: {words}"):
            load()


def corpus_of(name):
    return load_corpus(CorpusConfig(name=name))


def test_whole_emojis_and_long_numbers_are_read(folder):
    (folder / "q.jsonl").write_text(
        '{"id": "a", "question": "Who \\ud83d\\ude00?", "answers": ["X"], "n": ' + "9" * 400 + "}\n"
    )
    data = load_dataset(DatasetConfig(name="q.jsonl"))
    assert data.examples[0].question == "Who 😀?" and data.fingerprint


@pytest.mark.parametrize("opener", [open, gzip.open])
def test_a_byte_order_mark_is_no_part_of_a_line(folder, opener):
    "At the beginning, and where files were joined."
    name = "q.jsonl" if opener is open else "q.jsonl.gz"
    lines = [b"\xef\xbb\xbf" + json.dumps(q).encode() + b"\r\n" for q in questions(3)]
    with opener(folder / name, "wb") as f:
        f.write(b"".join(lines) + b"\xef\xbb\xbf\n")
    data = load_dataset(DatasetConfig(name=name, exemplars=name))
    assert {e.id for e in data.examples} == {"q0", "q1", "q2"}


def test_jsonl_in_another_encoding_is_refused(folder):
    for encoding in ("utf-16-le", "utf-32-be", "cp1252", "shift-jis", "gbk"):
        text = '{"id": "a", "question": "Zoë?", "answers": []}\n'.encode(encoding, "replace")
        (folder / "q.jsonl").write_bytes(text)
        try:
            assert load_dataset(DatasetConfig(name="q.jsonl")).examples[0].question == "Zo??"
        except DataError as e:
            assert "q.jsonl" in str(e)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "csv"])
def test_a_mark_tells_the_encoding(folder, encoding, ending):
    "Of questions and of documents alike."
    texts = {
        "json": '[{"id": "a", "question": "Zoë?", "answer": "é"}]',
        "csv": "id,question,answer\na,Zoë?,é\n",
    }
    text = texts.get(ending, '{"id": "a", "question": "Zoë?", "answers": ["é"]}\n').encode(encoding)
    (folder / f"q.{ending}").write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
    [e] = load_dataset(DatasetConfig(name=f"q.{ending}")).examples
    assert (e.question, e.answers) == ("Zoë?", ("é",))
    (folder / "c.jsonl").write_bytes('{"id": "a", "text": "Zoë"}\n'.encode(encoding))
    assert load_corpus(CorpusConfig(name="c.jsonl")).passages[0].text == "Zoë"


def test_a_corpus_in_another_encoding_says_what_to_do(folder):
    (folder / "c.jsonl").write_bytes('{"id": "a", "text": "Zoë"}\n'.encode("cp1252"))
    with pytest.raises(DataError, match="c.jsonl: cannot be read as text: .*position 23.*save it as UTF-8"):
        load_corpus(CorpusConfig(name="c.jsonl"))


def test_documents_that_share_an_id_are_named_with_their_line(folder):
    (folder / "c.jsonl").write_text('{"id": 1, "text": "x"}\n\n{"ID": "1", "Text": "y", "Title": "T"}\n')
    with pytest.raises(DataError, match="c.jsonl line 3: id '1' occurs twice"):
        load_corpus(CorpusConfig(name="c.jsonl"))


def test_a_question_without_a_text_is_refused(folder):
    for text in ("", "  ", "\t"):
        with pytest.raises(DataError, match="line 2: field 'question' is empty"):
            one(folder, question=text)


def test_a_row_of_the_hub_that_is_not_as_expected_is_named(monkeypatch):
    "Another revision of a data set may have other columns."
    from llmforge import data

    rows = {
        "squad": {"id": "a", "question": "?", "title": "t", "answers": {"text": None}},
        "trivia_qa": {"question_id": "a", "question": "?", "answer": None},
        "nq_open": {"question": "?", "answer": "Paris"},
        "hotpot_qa": {"id": "a", "question": "?", "answer": None, "type": "x", "level": "y"},
    }
    for name, row in rows.items():
        monkeypatch.setattr(data, "_hub_rows", lambda *args, row=row: [row])
        with pytest.raises(DataError, match=f"{name}.*: the row is not as expected"):
            load_dataset(DatasetConfig(name=name))


# --- passages without a title


@pytest.mark.parametrize("missing", [{}, {"title": None}, {"title": ""}, {"title": "  "}])
@pytest.mark.parametrize(
    "template, titled, untitled",
    [
        ("{title}: {text}\n", "T: x\n", "x\n"),
        ("[{title}] {text}\n---\n", "[T] x\n---\n", "x\n---\n"),
        ("{text} ({title})\n", "x (T)\n", "x\n"),
        ("Title: {title}\nText: {text}\n\n", "Title: T\nText: x\n\n", "x\n\n"),
        ("{text}\n", "x\n", "x\n"),
        ("{{{title}}} {text} [{title}]\n", "{T} x [T]\n", "x\n"),
    ],
)
def test_a_passage_without_a_title_is_its_text(missing, template, titled, untitled):
    prompt = load_config(
        {"experiment": {"name": "x", "method": {"prompt": {"passage": template}}}}
    ).method.prompt

    def shown(passage):
        chunk = Chunk(f"{passage.id}#0", passage.id, passage.title, passage.text, 0, 1)
        return passages_text([Hit(chunk, 1, 1.0, {})], prompt)

    assert shown(to_passage({"id": "a", "text": "x", "title": "T"})) == titled
    assert shown(to_passage({"id": "a", "text": "x", **missing})) == untitled


def test_a_tool_shows_a_passage_without_a_title(folder):
    assert titled("", "x") == "x" and titled("T", "x") == "T: x"


@pytest.mark.parametrize(
    "answers, chosen, noted",
    [
        (["4", "$1,000", "50%", "−2.5"], {}, True),
        (["4", "1,000"], {"normalization": "squad"}, False),
        (["4", "1,000"], {"normalization": "numeric"}, False),
        (["4", "four"], {}, False),
        ([], {}, False),
    ],
)
def test_numbers_that_are_compared_as_words_are_noted(answers, chosen, noted):
    data = Dataset("sums", tuple(Example(f"q{i}", "?", (a,)) for i, a in enumerate(answers)))
    config = load_config({"experiment": {"name": "sums", "metrics": chosen}})
    notes = input_notes(config, data, None)
    assert any("metrics.normalization: numeric" in note for note in notes) == noted


@pytest.mark.slow
def test_without_exemplars_all_questions_of_a_file_are_asked(monkeypatch, tmp_path, capsys):
    "A quarter is set aside where some are shown, and that is said once; `own` sets it aside in any case."
    monkeypatch.setenv("LLMFORGE_DATA", str(tmp_path))
    lines = [json.dumps({"id": f"q{i}", "question": f"{i}?", "answers": [str(i)]}) for i in range(8)]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    experiment = {"name": "few", "engine": {"name": "fake", "cache": False}, "method": {"shots": 0}}

    def run(shots=0, **dataset):
        config = load_config(
            {
                "experiment": {
                    **experiment,
                    "method": {"shots": shots},
                    "dataset": {"file": "q.jsonl", **dataset},
                }
            }
        )
        id = run_experiment(config, Store(), FakeEngine(" 1"))
        return len(Store().rows(id)), capsys.readouterr().err

    n, said = run()
    assert n == 8 and "set aside" not in said
    n, said = run(shots=2)
    assert n == 6 and said.count("q.jsonl: 6 questions are asked, 2 are set aside as exemplars") == 1
    assert "(2 of them are shown)" in said
    n, said = run(exemplars="own")
    assert n == 6 and "(none is shown here; dataset.exemplars: none asks them)" in said
    assert run(shots=2, exemplars="own")[0] == 6
    n, said = run(exemplars="none")
    assert n == 8 and "set aside" not in said
    with pytest.raises(ConfigError, match="shots: is 2, but the pool of 'q.jsonl' has 0 exemplars"):
        run(shots=2, exemplars="none")
    assert load_dataset(DatasetConfig(exemplars="none")).pool == ()
    with pytest.raises(ConfigError, match="exemplars"):
        load_config({"experiment": {**experiment, "dataset": {"file": "q.jsonl", "exemplars": "null"}}})


def test_choices_that_are_numbers_are_not_compared_as_words():
    "A choice is right or wrong as a whole; a free answer is compared."
    example = Example("q", "1 + 1?", ("2",), meta={"choices": ["1", "2"]})
    for method, notes in (("multiple_choice", 0), ("naive", 1)):
        fields = {"name": "m", "dataset": "m.jsonl", "method": {"name": method, "shots": 0}}
        config = load_config({"experiment": fields})
        assert len(input_notes(config, Dataset("m.jsonl", (example,)), None)) == notes


@pytest.mark.slow
def test_other_samples(tmp_path, monkeypatch):
    "Another number draws another sample, the same one every time; skip and limit cut one without overlap."
    monkeypatch.setenv("LLMFORGE_DATA", str(tmp_path))
    rows = [
        {"id": str(i), "question": f"{i}?", "answers": ["x"], "kind": "ab"[i % 10 == 0]} for i in range(400)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))

    def drawn(**fields):
        config = DatasetConfig(name="q.jsonl", exemplars="none", **fields)
        return [e.id for e in load_dataset(config).examples]

    usual, other = drawn(limit=100), drawn(limit=100, shuffle=1)
    assert usual == drawn(limit=100, shuffle=0) and other == drawn(limit=100, shuffle=1) != drawn(
        limit=100, shuffle=2
    )
    assert 10 < len(set(usual) & set(other)) < 45  # 25 by chance
    assert sorted(drawn(shuffle=1)) == sorted(drawn()) and drawn(skip=100, shuffle=1)[:5] not in other
    assert not set(other) & set(drawn(shuffle=1, skip=100, limit=100))
    for skip in range(0, 400, 50):  # of every 50 questions 5 are of the kind that a tenth is of
        part = drawn(stratified=True, shuffle=skip, skip=skip, limit=50)
        assert 4 <= sum(int(id) % 10 == 0 for id in part) <= 6
