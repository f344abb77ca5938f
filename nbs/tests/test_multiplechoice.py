"Multiple choice: the files it comes in, what is scored, and what is refused."

import json

import pytest

from llmforge.batching import FakeEngine
from llmforge.choices import choices_of, with_choices
from llmforge.columns import read_questions
from llmforge.config import load_config
from llmforge.core import ConfigError, DataError
from llmforge.data import load_dataset
from llmforge.experiment import Experiment, results_table
from llmforge.runner import prepare, run_experiment
from llmforge.sections import DatasetConfig
from llmforge.store import Store
from llmforge.studyconfig import load_study

TEXTS = ["3", "4", "5"]
SHAPES = {  # as public collections have them
    "mmlu": {"question": "2 + 2?", "choices": TEXTS, "answer": 1, "subject": "sums"},
    "arc": {"question": "2 + 2?", "choices": {"text": TEXTS, "label": ["A", "B", "C"]}, "answerKey": "B"},
    "arc, numbered": {
        "question": "2 + 2?",
        "choices": {"text": TEXTS, "label": list("123")},
        "answerKey": "2",
    },
    "openbookqa": {
        "question_stem": "2 + 2?",
        "choices": [{"text": t, "label": x} for t, x in zip(TEXTS, "ABC")],
        "answerKey": "B",
    },
    "arc as distributed": {
        "question": {"stem": "2 + 2?", "choices": [{"text": t, "label": x} for t, x in zip(TEXTS, "ABC")]},
        "answerKey": "B",
    },
    "hellaswag": {"ctx": "2 + 2?", "endings": TEXTS, "label": "1"},
    "medqa": {"question": "2 + 2?", "options": dict(zip("ABC", TEXTS)), "answer_idx": "B"},
    "by text": {"question": "2 + 2?", "options": TEXTS, "answer": "4"},
    "lower case": {"question": "2 + 2?", "choices": TEXTS, "answer": "b"},
    "own": {"id": "1", "question": "2 + 2?", "choices": TEXTS, "answers": ["4"]},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_DATA", str(tmp_path))
    (tmp_path / "q.jsonl").write_text(json.dumps(SHAPES[shape]) + "\n")
    (e,) = load_dataset(DatasetConfig(name="q.jsonl")).examples
    assert choices_of(e) == tuple(TEXTS) and e.answers == ("4",) and e.question == "2 + 2?"


@pytest.mark.parametrize(
    "table",
    [
        "question,A,B,C,answer\n2 + 2?,3,4,5,B\n",
        "question,option_a,option_b,option_c,answer\n2 + 2?,3,4,5,4\n",
        'question,choices,answer\n2 + 2?,"[""3"", ""4"", ""5""]",1\n',
    ],
)
def test_tables(table, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_DATA", str(tmp_path))
    (tmp_path / "q.csv").write_text(table)
    (e,) = load_dataset(DatasetConfig(name="q.csv")).examples
    assert choices_of(e) == tuple(TEXTS) and e.answers == ("4",)


def test_a_table_without_names_as_mmlu_has_it(tmp_path):
    "Its first line is a question like the others; complaints name lines as they are."
    path = tmp_path / "q.csv"
    path.write_text('What is 2 + 2?,3,4,4.0,5,B\n"What, then, is 3 + 3?",6,7,8,8.5,A\n')
    assert [(e.id, e.answers) for e in read_questions(path)] == [("line-1", ("4",)), ("line-2", ("6",))]
    path.write_text("What is 2 + 2?,3,4,4.0,5,B\nWhat is 3 + 3?,6,7,8,9,A,x\n")
    with pytest.raises(DataError, match="q.csv line 2: has more cells"):
        read_questions(path)


def test_a_mapped_column(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_DATA", str(tmp_path))
    (tmp_path / "q.jsonl").write_text(json.dumps({"q": "2 + 2?", "choices": TEXTS, "right": "B"}) + "\n")
    config = DatasetConfig(name="q.jsonl", fields={"question": "q", "answers": "right"})
    (e,) = load_dataset(config).examples
    assert choices_of(e) == tuple(TEXTS) and e.answers == ("4",)


def test_what_has_no_choices_stays():
    for row in (
        {"question": "?", "answer": "x"},
        {"question": "?", "a": "one", "b": "two", "answer": "both"},  # columns of something else
        {"question": "?", "choices": "one or two", "answer": "x"},
        {"question": "?", "choices": ["x"], "answer": "x"},
        {"question": "?", "choices": ["x", "y"]},
    ):
        assert with_choices(row) == row


@pytest.mark.parametrize("key", ["E", 3, -1, "7", None, True])
def test_a_wrong_key_is_refused_with_its_line(key, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMFORGE_DATA", str(tmp_path))
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": "?", "choices": TEXTS, "answer": key}) + "\n")
    with pytest.raises(DataError, match=r"line 1: the right choice is .*; must be: a label \(A, B, C\)"):
        load_dataset(DatasetConfig(name="q.jsonl"))


@pytest.mark.parametrize(
    "columns", [("option1", "option2"), ("Choice 1", "Choice 2"), ("ending0", "ending1")]
)
def test_choices_in_numbered_columns_are_refused(columns):
    "2 of option1 and option2 is the second in one collection, and none in another."
    row = {"question": "?", **dict(zip(columns, TEXTS)), "answer": "2"}
    with pytest.raises(DataError, match=f"choices in {columns[0]}, {columns[1]} are not read.*as a list"):
        with_choices(row)
    assert with_choices({**row, "answer": "four"})["answer"] == "four"


def test_choices_that_are_numbers_are_refused():
    with pytest.raises(DataError, match="choices must be texts; received 1; put each in quotes"):
        with_choices({"question": "?", "choices": [1, 2, 3], "answer": 1})


def test_a_label_comes_before_a_place():
    choices = {"text": ["x", "y"], "label": ["1", "2"]}
    assert with_choices({"choices": choices, "answerKey": 1})["answers"] == ["x"]
    assert with_choices({"choices": choices, "answerKey": "2"})["answers"] == ["y"]


def test_a_number_may_be_a_text_or_a_place():
    "Choices that are numbers: the text comes before the place, but a whole number is a place."
    assert with_choices({"choices": ["2", "4", "8"], "answer": "2"})["answers"] == ["2"]
    assert with_choices({"choices": ["2", "4", "8"], "answer": 2})["answers"] == ["8"]
    assert with_choices({"choices": ["2", "4", "8"], "answer": "1"})["answers"] == ["4"]


def asked(tmp_path, monkeypatch, rows, **method):
    "A config of multiple choice over these rows."
    monkeypatch.setenv("LLMFORGE_DATA", str(tmp_path))
    (tmp_path / "q.jsonl").write_text(
        "".join(json.dumps({"id": str(i)} | r) + "\n" for i, r in enumerate(rows))
    )
    fields = {"name": "mc", "engine": "fake", "dataset": {"name": "q.jsonl"}}
    return load_config({"experiment": fields | {"method": {"name": "multiple_choice", "shots": 0} | method}})


def ran(config, reply):
    store = Store()
    id = run_experiment(config, store, FakeEngine(reply), show=False)
    return Experiment(id, store)


def test_a_choice_is_right_by_being_the_right_one(tmp_path, monkeypatch, outputs):
    "Not by being alike: after normalisation -5 is 5, and 1.5 is 15."
    rows = [
        {"question": "a?", "choices": ["-5", "5"], "answer": 1},
        {"question": "b?", "choices": ["15", "1.5"], "answer": 1},
        {"question": "c?", "choices": ["I do not know", "the cat"], "answer": 0},
    ]
    e = ran(asked(tmp_path, monkeypatch, rows), lambda prompt, sampling: [-1.0, -2.0])
    by_id = {r["example_id"]: r for r in e.rows}
    assert [by_id[i]["answer"] for i in "012"] == ["-5", "15", "I do not know"]
    assert [by_id[i]["correct"] for i in "012"] == [0, 0, 1]
    assert [by_id[i]["scores"]["f1"] for i in "012"] == [0, 0, 1] and e.result["abstained"] == 0
    assert "accuracy normalised" in results_table(e)


def test_a_failed_question_is_wrong_by_both(tmp_path, monkeypatch, outputs):
    rows = [{"question": f"{i}?", "choices": ["a", "bb"], "answer": 1} for i in range(4)]

    def reply(prompt, sampling):
        return "no choice at all" if "3?" in prompt else [-2.0, -2.0]

    e = ran(asked(tmp_path, monkeypatch, rows), reply)
    assert e.result["failed"] == 1 and e.estimate("accuracy").value == 0
    normalised = e.estimate("accuracy_normalised")
    assert normalised.value == pytest.approx(3 / 4) and normalised.n == 4


def test_letters(tmp_path, monkeypatch, outputs):
    "A template with {choices} lists them, and letters are scored; exemplars answer with theirs."
    rows = [{"question": f"{i}?", "choices": ["yes", "no"], "answer": i % 2} for i in range(8)]
    prompt = {"template": "{passages}{question}\n{choices}Answer:"}
    config = asked(tmp_path, monkeypatch, rows, prompt=prompt, shots=1)
    seen = []

    def reply(prompt, sampling):
        seen.append((prompt, sampling.choices))
        return [-1.0, -2.0]

    e = ran(config, reply)
    shown, choices = seen[0]
    assert choices == (" A", " B") and shown.count("A. yes\nB. no\nAnswer:") == 2
    assert shown.split("Answer:")[1].startswith((" A", " B"))
    assert {r["answer"] for r in e.rows} == {"yes"}


def test_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="asks questions with choices; 5 of 5 of 'almanac'"):
        prepare(load_config("naive.yaml", ["method=multiple_choice", "dataset.limit=5"]))
    rows = [{"question": "?", "choices": ["a", "b"], "answer": 0}, {"question": "!", "answer": "x"}]
    with pytest.raises(
        ConfigError, match=r"1 of 2 of .* cannot be asked, the first '1': fewer than two choices"
    ):
        prepare(asked(tmp_path, monkeypatch, rows))
    rows = [{"id": "own", "question": "?", "choices": ["a", "b"], "answers": ["c"]}]
    with pytest.raises(ConfigError, match="no right one among its choices"):
        prepare(asked(tmp_path, monkeypatch, rows))
    rows = [{"question": "?", "choices": ["a", " "], "answer": "a"}]
    with pytest.raises(ConfigError, match="an empty text among its choices"):
        prepare(asked(tmp_path, monkeypatch, rows))
    rows = [{"question": "?", "choices": ["a", "a"], "answer": 0}]
    with pytest.raises(DataError, match="different texts"):
        prepare(asked(tmp_path, monkeypatch, rows))
    with pytest.raises(ConfigError, match=r"\{choices\} is for method multiple_choice"):
        load_config("naive.yaml", ['method.prompt.template="{question}{choices}"'])
    with pytest.raises(ConfigError, match="probabilities of choices.*'vllm'"):
        load_config("multiple_choice.yaml", ["engine=vllm"])


def test_a_claim_about_the_normalised_accuracy():
    study = {
        "name": "s",
        "question": "?",
        "base": "multiple_choice.yaml",
        "arms": {"few": {}, "none": {"method": {"shots": 0}}},
        "hypotheses": [
            {"id": "H1", "claim": "c", "metric": "accuracy_normalised", "treatment": "few", "control": "none"}
        ],
    }
    assert load_study({"study": study}).hypotheses[0].metric == "accuracy_normalised"
    with pytest.raises(ConfigError, match="needs method multiple_choice"):
        load_study({"study": study | {"base": "naive.yaml"}})


def test_the_embedded_questions():
    "Four different choices each, one of them right, and no place is the right one more often than others."
    data = load_dataset(DatasetConfig(name="almanac_choices"))
    places = [choices_of(e).index(e.answers[0]) for e in data.examples]
    assert len(data) > 1000 and all(len(set(choices_of(e))) == 4 for e in data.examples)
    assert all(len(set(choices_of(e)) & set(e.answers)) == 1 for e in data.examples)
    assert all(abs(places.count(p) / len(places) - 0.25) < 0.05 for p in range(4))


@pytest.mark.slow
def test_the_embedded_model_chooses(outputs):
    "With the real model: far above the quarter of a coin with four sides, and the same twice."
    config = load_config("multiple_choice.yaml", ["dataset.limit=20", "engine.cache=false"])
    store = Store()
    first, again = (run_experiment(config.model_copy(update={"name": n}), store, show=False) for n in "ab")
    rows, others = Experiment(first, store).rows, Experiment(again, store).rows
    assert [r["answer"] for r in rows] == [r["answer"] for r in others]
    assert sum(r["correct"] for r in rows) >= 8 and all(r["tokens_out"] == 0 for r in rows)
