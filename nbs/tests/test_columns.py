"Shapes of public question files, written here in small, and what people's own tables look like."

import gzip
import json
import warnings

import pandas as pd
import pytest

from llmforge.batching import FakeEngine
from llmforge.columns import read_questions
from llmforge.comparepage import browser_data
from llmforge.comparison import compare, diff_table, overview
from llmforge.config import load_config
from llmforge.core import ConfigError, DataError
from llmforge.data import load_corpus, load_dataset
from llmforge.derived import result_faults
from llmforge.experiment import NOT_MEASURED, Experiment, results_table
from llmforge.experimentpages import outcome
from llmforge.gates import minimum_gates, worse_gate
from llmforge.listing import experiments_table
from llmforge.metrics import unscored, value_of
from llmforge.predictions import import_predictions
from llmforge.records import answers_known
from llmforge.results import kinds_table, worst_examples
from llmforge.runner import run_experiment
from llmforge.sections import CorpusConfig, DatasetConfig
from llmforge.store import Store
from llmforge.study import open_study
from llmforge.studyconfig import load_study


def jsonl(*records):
    return "".join(json.dumps(r) + "\n" for r in records)


SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Ulvo",
            "paragraphs": [
                {
                    "context": "…",
                    "qas": [
                        {"id": "s1", "question": "When?", "answers": [{"text": "1864", "answer_start": 3}]},
                        {"id": "s2", "question": "Why?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}
TRIVIA = {
    "Data": [
        {
            "QuestionId": "tc_1",
            "Question": "When?",
            "Answer": {"Value": "1864", "Aliases": ["1864", "the year 1864"], "NormalizedValue": "1864"},
        }
    ],
    "Domain": "web",
}
HOTPOT = [{"_id": "h1", "question": "When?", "answer": "1864", "type": "bridge", "level": "hard"}]
MARCO = {
    "query": {"0": "When?", "1": "Why?"},
    "query_id": {"0": 17, "1": 18},
    "answers": {"0": ["1864"], "1": ["No Answer Present."]},
}
RAGAS = {"question": ["When?"], "ground_truth": ["1864"], "contexts": [["built in 1864"]]}
NEW_RAGAS = {"user_input": "When?", "reference": "1864", "retrieved_contexts": ["built in 1864"]}
HUB_SQUAD = {"id": "s1", "question": "When?", "answers": {"text": ["1864", "1864"], "answer_start": [0, 9]}}
HUB_TRIVIA = {"question_id": "tc_1", "question": "When?", "answer": {"value": "1864", "aliases": ["1864"]}}
SHAPES = {
    "squad.json": (json.dumps(SQUAD), "s1", ("1864",)),
    "hub_squad.jsonl": (jsonl(HUB_SQUAD), "s1", ("1864",)),
    "trivia.json": (json.dumps(TRIVIA), "tc_1", ("1864", "the year 1864")),
    "hub_trivia.jsonl": (jsonl(HUB_TRIVIA), "tc_1", ("1864",)),
    "hotpot.json": (json.dumps(HOTPOT, indent=1), "h1", ("1864",)),
    "nq_open.jsonl": (
        jsonl({"question": "When?", "answer": ["1864", "in 1864"]}),
        "line-1",
        ("1864", "in 1864"),
    ),
    "marco.json": (json.dumps(MARCO), "17", ("1864",)),
    "flashrag.jsonl": (jsonl({"id": 3, "question": "When?", "golden_answers": [1864]}), "3", ("1864",)),
    "ragas.json": (json.dumps(RAGAS), "record-1", ("1864",)),
    "new_ragas.jsonl": (jsonl(NEW_RAGAS), "line-1", ("1864",)),
    "by_id.json": (json.dumps({"q1": {"query": "When?", "target": "1864"}}), "q1", ("1864",)),
    "one.json": (json.dumps({"input": "When?", "expected_output": 1864}), "record-1", ("1864",)),
    "sheet.csv": ("\ufeffID;Question;Answer\r\n\r\n7;When?;1864\r\n;;\r\n", "7", ("1864",)),
    "lists.csv": ('query,answers\n"When?","[""1864"", ""in 1864""]"\n', "line-2", ("1864", "in 1864")),
    "excel.csv": ("sep=;\nid;question;answer\n7;When?;1864\n", "7", ("1864",)),
    "late.csv": ("\n \nid,question,answer\n7,When?,1864\n", "7", ("1864",)),
    "blanks.csv": ('id, question, answer\n7, "When?", "1864"\n', "7", ("1864",)),
    "python.csv": ("question,answers\nWhen?,\"['1864', 'in 1864']\"\n", "line-2", ("1864", "in 1864")),
    "object.csv": (
        'question,answers\nWhen?,"{""text"": [""1864""], ""answer_start"": [3]}"\n',
        "line-2",
        ("1864",),
    ),
    "squad.csv": (
        "question,answers\nWhen?,\"{'text': ['1864'], 'answer_start': [3]}\"\n",
        "line-2",
        ("1864",),
    ),
    "interval.csv": ('question,answer\nWhen?,"[18, 64]"\n', "line-2", ("[18, 64]",)),
    "bracket.csv": ("question,answer\nWhen?,[sic]\n", "line-2", ("[sic]",)),
    "commas.tsv": ("id,question,answer\n7,When?,1864\n", "7", ("1864",)),
    "quote.tsv": ('id\tquestion\tanswer\n7\tWhen?\t18"64\n', "7", ('18"64',)),
    "a_list.jsonl": (json.dumps([{"question": "When?", "answer": "1864"}], indent=1), "record-1", ("1864",)),
    "lines.json": (jsonl({"question": "When?", "answer": "1864"}) * 2, "line-1", ("1864",)),
    "nested.json": (
        json.dumps({"data": {"questions": [{"question": "When?", "answer": "1864"}]}}),
        "record-1",
        ("1864",),
    ),
    "noted.json": (
        json.dumps({"data": [{"question": "When?", "answer": "1864"}], "errors": [{"code": 3}]}),
        "record-1",
        ("1864",),
    ),
    "split.json": (
        json.dumps({"columns": ["question", "answer"], "index": [0], "data": [["When?", "1864"]]}),
        "record-1",
        ("1864",),
    ),
    "meta.json": (
        json.dumps({"question": "When?", "answer": "1864", "meta": {"from": ["x"], "to": ["y"]}}),
        "record-1",
        ("1864",),
    ),
    "gsm8k.jsonl": (
        jsonl({"question": "When?", "answer": "932 * 2 = <<932*2=1864>>1864.\n#### 1,864"}),
        "line-1",
        ("1,864",),
    ),
    "floats.jsonl": (jsonl({"id": 7.0, "question": "When?", "answer": 1864}), "7", ("1864",)),
    "null_id.jsonl": (jsonl({"id": None, "question": "When?", "answer": 1864}), "line-1", ("1864",)),
    "tabs.tsv": ("qid\tquery\tanswer\n9\tWhen?\tParis, Texas\n", "9", ("Paris, Texas",)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_recognised(tmp_path, name):
    text, id, answers = SHAPES[name]
    (tmp_path / name).write_text(text, newline="")
    first = read_questions(tmp_path / name)[0]
    assert (first.id, first.question, first.answers) == (id, "When?", answers)


def test_the_way_to_a_number_is_its_rationale(tmp_path):
    "As GSM8K has it; a text whose last line is a heading is an answer as it stands."
    (tmp_path / "gsm8k.jsonl").write_text(SHAPES["gsm8k.jsonl"][0])
    assert read_questions(tmp_path / "gsm8k.jsonl")[0].rationale == "932 * 2 = 1864."
    text = "One.\n#### Two"
    (tmp_path / "page.jsonl").write_text(jsonl({"question": "What?", "answer": text}))
    assert read_questions(tmp_path / "page.jsonl")[0].answers == (text,)


def test_questions_without_an_answer_stay_unanswerable(tmp_path):
    for name in ("squad.json", "marco.json"):
        (tmp_path / name).write_text(SHAPES[name][0])
        assert [e.answers for e in read_questions(tmp_path / name)][1:] == [()]


def test_parquet_and_gzip(tmp_path):
    pd.DataFrame({"qid": [1, 2], "query": ["a?", "b?"], "answers": [["x", "y"], ["z"]]}).to_parquet(
        tmp_path / "q.parquet"
    )
    assert [(e.id, e.answers) for e in read_questions(tmp_path / "q.parquet")] == [
        ("1", ("x", "y")),
        ("2", ("z",)),
    ]
    with gzip.open(tmp_path / "q.jsonl.gz", "wt") as f:
        f.write(jsonl(HOTPOT[0]))
    assert read_questions(tmp_path / "q.jsonl.gz")[0].id == "h1"


@pytest.fixture
def beir(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_DATA", str(tmp_path))
    (tmp_path / "beir" / "qrels").mkdir(parents=True)
    (tmp_path / "beir" / "queries.jsonl").write_text(
        jsonl({"_id": "1", "text": "a?"}, {"_id": "2", "text": "b?"})
    )
    (tmp_path / "beir" / "corpus.jsonl").write_text(jsonl({"_id": "d1", "title": "Paris", "text": "capital"}))
    (tmp_path / "beir" / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n1\td1\t1\n1\td2\t2\n2\td1\t0\n"
    )
    return tmp_path / "beir"


@pytest.mark.parametrize("gold", ["", [""], [" "]])
def test_an_empty_cell_is_no_gold_passage(gold, tmp_path):
    (tmp_path / "q.jsonl").write_text(jsonl({"question": "?", "answer": "x", "passage": gold}))
    (e,) = read_questions(tmp_path / "q.jsonl", {"gold": "passage"})
    assert e.gold == (), "else its recall would be 0"


def test_beir_with_its_judgements(beir):
    "Only judged questions, each with its relevant passages; that there are no answers is said."
    with pytest.warns(UserWarning, match="queries.jsonl: has no answers"):
        (e,) = read_questions(beir / "queries.jsonl")
    assert (e.id, e.gold, e.answers) == ("1", ("d1", "d2"), ()) and not answers_known(e)
    assert load_corpus(CorpusConfig(name="beir/corpus.jsonl")).passages[0].id == "d1"
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\td1\tyes\n")
    with pytest.raises(DataError, match="qrels/test.tsv line 2: needs"):
        read_questions(beir / "queries.jsonl")


def test_judged_questions_have_answers_all_or_none(beir):
    "An empty list says that none is right; where only some questions have a field, nobody says so."
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\td1\t1\n2\td1\t1\n")
    first = {"_id": "1", "text": "a?", "answers": []}
    (beir / "queries.jsonl").write_text(jsonl(first, {"_id": "2", "text": "b?"}))
    with pytest.raises(DataError, match="line 2: has no answers, and other questions have; give it \\[\\]"):
        read_questions(beir / "queries.jsonl")
    (beir / "queries.jsonl").write_text(jsonl(first, {"_id": "2", "text": "b?", "answers": ["B"]}))
    assert [(e.answers, answers_known(e)) for e in read_questions(beir / "queries.jsonl")] == [
        ((), True),
        (("B",), True),
    ]


@pytest.mark.slow
def test_nothing_is_scored_where_nobody_knows_what_is_right(beir, tmp_path):
    "No accuracy of 0: none, wherever it is shown, compared, demanded or claimed."
    base = {
        "engine": {"name": "fake", "cache": False},
        "method": {"name": "naive", "shots": 0},
        "dataset": {"name": "beir/queries.jsonl"},
        "corpus": {"name": "beir/corpus.jsonl"},
        "retrieval": {"name": "sparse", "top_k": 1},
    }
    store = Store(f"sqlite:///{tmp_path}/s.db")
    ids = []
    with pytest.warns(UserWarning, match="has no answers"):
        for name, reply in (("one", "I don't know"), ("two", "x")):
            config = load_config({"experiment": {"name": name, "seed": len(ids), **base}})
            ids.append(run_experiment(config, store, FakeEngine(reply), show=False))
    a, b = (Experiment(id, store) for id in ids)
    (row,) = a.rows
    assert row["correct"] is None and set(row["scores"]) == {"recall@1", "mrr"} and unscored(row)
    assert value_of(row, "exact_match") is None and a.estimate("accuracy").value is None
    assert not list(result_faults(a.rows, store.result(a.id), a.record.config_json))
    assert NOT_MEASURED in results_table(a) and "| – | – | – | 0 |" in kinds_table(a)
    assert worst_examples(a) == NOT_MEASURED and "COMPLETED | – |" in experiments_table(store)
    assert outcome(b.rows[0], "exact_match") == "not scored" and browser_data(a)["accuracy"] == [None]
    compared = compare(a, b)
    assert "exact_match" not in compared.differences and "recall@1" in compared.differences
    assert "no question has a value of exact match" in overview([compared])
    assert "0 both wrong" in diff_table(a, b)
    with pytest.raises(ConfigError, match="--min accuracy: is not measured by one-"):
        minimum_gates(a, {"accuracy": 0.0})
    with pytest.raises(ConfigError, match="accuracy is not measured"):
        worse_gate(compared)
    answers = tmp_path / "p.jsonl"
    answers.write_text(jsonl({"query_id": "1", "prediction": "x"}))
    with pytest.warns(UserWarning), pytest.raises(DataError, match="known of none of the questions"):
        import_predictions(store, answers, beir / "queries.jsonl")
    arms = {"a": {"retrieval": {"top_k": 1}}, "b": {"retrieval": {"top_k": 2}}}
    claim = {"id": "H1", "claim": "c", "control": "a", "treatment": "b", "min_effect": 0.1}
    study = {"name": "s", "question": "q", "base": base, "arms": arms, "hypotheses": [claim]}
    with (
        pytest.warns(UserWarning),
        pytest.raises(ConfigError, match="accuracy needs right answers, and none"),
    ):
        open_study(load_study({"study": study}), store)


def test_without_judgements_queries_are_no_questions(tmp_path):
    (tmp_path / "queries.jsonl").write_text(jsonl({"_id": "1", "text": "a?"}))
    with pytest.raises(DataError, match="queries.jsonl line 1: no answers"):
        read_questions(tmp_path / "queries.jsonl")


def test_a_long_document_beside_a_question(tmp_path):
    "The reader of tables refuses a cell of more than 131,072 characters by itself."
    (tmp_path / "q.csv").write_text(f"question,answer,context\nWhen?,1864,{'long ' * 40_000}\n")
    assert read_questions(tmp_path / "q.csv")[0].answers == ("1864",)


def test_choices_in_a_cell_as_python_writes_them(tmp_path):
    (tmp_path / "q.csv").write_text("question,choices,answer\nWhen?,\"['1863', '1864']\",B\n")
    e = read_questions(tmp_path / "q.csv")[0]
    assert (e.answers, e.meta["choices"]) == (("1864",), ["1863", "1864"])


def test_all_complaints_at_once_in_the_order_of_lines(tmp_path):
    lines = [
        '{"question": "a?", "answer": "x", "id": 1}',
        "[]",
        "{",
        '{"question": "b?", "answer": "y", "id": 1}',
    ]
    (tmp_path / "q.jsonl").write_text(
        "\n".join([*lines, '{"question": 3, "answer": "z"}', "", '{"answer": "z"}'])
    )
    with pytest.raises(DataError) as e:
        read_questions(tmp_path / "q.jsonl")
    first, *rest = str(e.value).splitlines()
    assert first == "q.jsonl: 5 problems"
    assert [r.split(":")[0].strip() for r in rest] == ["line 2", "line 3", "line 4", "line 5", "line 7"]
    assert "id '1' occurs twice; first: line 1" in rest[2] and "no question; usual names" in rest[4]


def test_many_complaints_are_cut(tmp_path):
    (tmp_path / "q.csv").write_text(
        "id,question,answer\n" + "".join(f"{i},?,x\n{i},?,x\n" for i in range(50))
    )
    with pytest.raises(DataError, match=r"50 problems\n(.*\n){20}  … and 30 more"):
        read_questions(tmp_path / "q.csv")


def test_what_many_lines_lack_is_said_once(tmp_path):
    "A column of another name is one problem, not five hundred; an empty cell is no column that is not there."
    (tmp_path / "q.csv").write_text("Frage,answer\n" + "?,x\n" * 500)
    with pytest.raises(
        DataError, match=r"^q.csv line 2, and 499 more: no question; .* Frage, answer; rename"
    ):
        read_questions(tmp_path / "q.csv")
    (tmp_path / "q.csv").write_text("question,answer\n?,\n?,x\n?,\n")
    with pytest.raises(
        DataError, match=r"^q.csv line 2, and 1 more: no answers; .*without empty cells: question;"
    ):
        read_questions(tmp_path / "q.csv")


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("q.csv", "question,answer\na?,x,y\n", "q.csv line 2: has more cells"),
        ("q.csv", "frage,antwort\na?,x\n", "q.csv line 2: no question; usual names: question, query"),
        ("q.csv", "", "there are no questions"),
        ("q.csv", 'question,answer\n"a\nb?",x\nc?,\n', "q.csv line 4: no answers"),
        ("q.json", "{", "q.json: not JSON"),
        ("q.json", "3", "q.json: there are no records"),
        ("q.json", "[3]", "q.json record 1: must be an object"),
        ("q.json", '{"data": [{"paragraphs": 3}]}', "q.json: is of no shape that is known"),
        ("q.parquet", "hello", "q.parquet: cannot be read"),
        ("q.csv", "question,answer,answer\na?,x,y\n", "q.csv: column 'answer' is there twice"),
        ("q.csv", "question,answer\na?,   \n", "q.csv line 2: no answers"),
        ("q.csv", "question,answer\n  ,x\n", "q.csv line 2: no question"),
        ("q.csv", "question,answers\na?,\"['x' 'y']\"\n", "q.csv line 2: .* is an array as NumPy prints it"),
        ("q.csv", "question,answers\na?,\"{'text': array(['x'])}\"\n", "line 2: .* as NumPy prints it"),
        ("q.tsv", 'question\tanswer\n"a?\tx\nb?\ty"\n', "q.tsv line 2: a quotation mark opens .* line 3"),
        (
            "q.jsonl",
            '{"question": "a?", "question": "b?", "answer": "x"}',
            "line 1: field 'question' is given tw",
        ),
        (
            "q.json",
            '[{"question": "a?", "answer": "x", "answer": "y"}]',
            "q.json: field 'answer' is given twi",
        ),
        (
            "q.jsonl",
            '{"question": "a?", "answer": true}',
            "field 'answers' must be a text; received True; wri",
        ),
        ("q.jsonl", '{"question": "a?", "answer": null}', "field 'answers' must be a list; received null"),
        ("q.json", '{"train": [{"question": "a?"}], "test": [{"question": "b?"}]}', "under train, test; put"),
        ("q.json", '{"question": ["a?", "b?"], "answer": ["x"]}', "received question 2, answer 1"),
        ("q.xlsx", "hello", "q.xlsx: its kind is not known; allowed: .jsonl"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        read_questions(tmp_path / name)


def test_fields_in_a_config(tmp_path, monkeypatch):
    "Columns of other names are mapped, and `file` is another word for `name`."
    monkeypatch.setenv("LLMFORGE_DATA", str(tmp_path))
    (tmp_path / "q.csv").write_text("nr,frage,gold\n1,Wann?,1864\n")
    dataset = {"file": "q.csv", "fields": {"question": "frage", "answers": "gold", "id": "nr"}}
    config = load_config({"experiment": {"name": "x", "dataset": dataset}})
    (e,) = load_dataset(config.dataset).examples
    assert (e.id, e.question, e.answers, e.gold) == ("1", "Wann?", ("1864",), ())
    wrong = DatasetConfig.model_validate({"name": "q.csv", "fields": {"question": "fragen"}})
    with pytest.raises(DataError, match=r"line 2: dataset.fields.question: no column 'fragen'.*mean 'frage'"):
        load_dataset(wrong)
    with pytest.raises(ConfigError, match="dataset.file: is another word for dataset.name"):
        load_config({"experiment": {"name": "x", "dataset": {"file": "q.csv", "name": "q.csv"}}})


def test_own_records_are_read_as_before(tmp_path):
    "Repeated answers and all: ids of experiments rest on it."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (tmp_path / "q.jsonl").write_text(
            jsonl({"id": "a", "question": "?", "answers": ["x", "x"], "type": "k"})
        )
        (e,) = read_questions(tmp_path / "q.jsonl")
    assert (e.answers, e.kind) == (("x", "x"), "k")
