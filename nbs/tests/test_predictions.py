"Files of answers: read, scored, compared and kept, with the numbers of experiments of the same answers."

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from llmforge.answerfiles import compared_experiments
from llmforge.claimed import parse_claim, verdict_on
from llmforge.cli import app
from llmforge.columns import question_record
from llmforge.comparison import compare
from llmforge.core import ConfigError, DataError
from llmforge.experiment import Experiment
from llmforge.findings import verdicts
from llmforge.paired import paired_difference
from llmforge.predictions import import_predictions, read_predictions
from llmforge.records import Example, to_example
from llmforge.store import Store
from llmforge.studyconfig import StudyConfig

N = 40


class Rows:
    "What a study has that was run."

    def __init__(self, **fields):
        vars(self).update(fields)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "Questions, and three systems' answers to them."
    monkeypatch.setenv("LLMFORGE_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.chdir(tmp_path)
    gold = [{"id": i, "question": f"{i} + 1?", "answers": [str(i + 1)]} for i in range(N)]
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(g) + "\n" for g in gold))
    for name, wrong in (("a", 2), ("b", 8)):
        rows = "".join(f"{i},{i + 1 if i % wrong else 0}\n" for i in range(N))
        (tmp_path / f"{name}.csv").write_text("id,prediction\n" + rows)
    return tmp_path


def said(*args, code=0):
    result = CliRunner().invoke(app, list(map(str, args)))
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.mark.slow
def test_from_two_files_to_a_verdict(folder):
    text = said("compare", "a.csv", "b.csv", "--gold", "gold.jsonl", "--claim", "b > a by 0.05")
    assert "15 improved, 0 regressed, 5 both wrong, 20 both right" in text
    assert "b − a, accuracy: +37.5 points" in text and "n = 40): supported (post hoc)" in text
    assert not (folder / "outputs" / "llmforge.db").exists(), "comparing leaves nothing behind"


def test_the_numbers_are_those_of_the_paired_test(folder):
    a, b = compared_experiments(["a.csv", "b.csv"], folder / "gold.jsonl")
    x, y = ([float(bool(i % wrong)) for i in range(N)] for wrong in (2, 8))
    d, expected = compare(a, b).differences["exact_match"], paired_difference(x, y, 0.95)
    assert (d.difference, d.p, d.wins, d.losses) == (
        expected.difference,
        expected.p,
        expected.wins,
        expected.losses,
    )
    v = verdict_on("b > a by 0.05", {"a": a, "b": b})
    assert (v.effect, v.p, v.n) == (expected.difference, expected.p, N)


def test_the_verdict_is_that_of_a_study(folder):
    "The same rows as arms of a study, whose rule and numbers are the ones used here."
    a, b = compared_experiments(["a.csv", "b.csv"], folder / "gold.jsonl")
    for least, wanted in ((0.05, "supported"), (0.6, "refuted")):
        h = {"id": "H1", "claim": "b is better", "treatment": "b", "control": "a", "min_effect": least}
        config = StudyConfig(name="s", question="?", base={}, arms={"a": {}, "b": {}}, hypotheses=(h,))
        ids = {("a", "default", 0): a.id, ("b", "default", 0): b.id}
        study = Rows(config=config, ids=ids, store=a.store, frozen=None, tampered=(), late=())
        (theirs,) = verdicts(study)
        ours = verdict_on(f"b > a by {least}", {"a": a, "b": b})
        assert (ours.verdict, ours.effect, ours.p) == (theirs.verdict, theirs.effect, theirs.p)
        assert ours.verdict == wanted


@pytest.mark.slow
def test_an_import_is_an_experiment(folder):
    first, second = (said("import", f"{name}.csv", "--gold", "gold.jsonl", "--name", name) for name in "ab")
    assert first.startswith("a-") and said("import", "a.csv", "--gold", "gold.jsonl", "--name", "a") == first
    assert "0.500" in said("list") and "accuracy (exact match)" in said("show", first)
    assert "b − a" in said("compare", first, second, "--claim", "b > a")


def test_an_import_is_not_stale(folder, monkeypatch):
    "Though a file of the name of its questions is in the project: it was not read by a config."
    monkeypatch.setenv("LLMFORGE_HOME", str(folder))
    (folder / "gold.csv").write_text("id,question,answer\n1,a?,x\n")
    (folder / "one.csv").write_text("id,prediction\n1,x\n")
    for file, gold in (("a.csv", "gold.jsonl"), ("one.csv", "gold.csv")):
        assert "Stale" not in said("show", said("import", file, "--gold", gold))


@pytest.mark.slow
def test_claims_by_name(folder):
    "Files and experiments by what they are called; a name that is another's letter is refused."
    (folder / "base.v1.csv").write_text((folder / "a.csv").read_text())
    (folder / "new-2.csv").write_text((folder / "b.csv").read_text())
    files = ("compare", "base.v1.csv", "new-2.csv", "--gold", "gold.jsonl", "--claim")
    for claim in ("new-2 > base by 0.05", "b > a by 0.05"):
        assert "accuracy: +37.5 points" in said(*files, claim)
    assert "new-2 and b are the same answers" in said(*files, "new-2 > b", code=2)
    crossed = said("compare", "b.csv", "a.csv", "--gold", "gold.jsonl", "--claim", "b > a", code=2)
    assert "'b' is the letter of one and the name of another" in crossed
    for name in "ab":
        said("import", f"{name}.csv", "--gold", "gold.jsonl", "--name", f"sys-{name}")
    assert "sys-b − sys-a, accuracy: +37.5" in said(
        "compare", "sys-a", "sys-b", "--claim", "sys-b > sys-a by 0.05"
    )


def test_a_wrong_claim_is_said_before_anything_is_shown(folder):
    text = said("compare", "a.csv", "b.csv", "--gold", "gold.jsonl", "--claim", "c > a", code=2)
    assert "no 'c'; allowed: a, b" in text and "improved" not in text and "exact match" not in text


def test_a_claim_may_name_whole_files_and_a_file_of_no_known_kind_is_named(folder):
    files = ("a.csv", "b.csv", "--gold", "gold.jsonl")
    assert "b.csv − a.csv, accuracy: " in said("compare", *files, "--claim", "b.csv > a.csv by 0.05")
    (folder / "c.txt").write_text("1")
    assert "c.txt: its kind is not known; allowed: .jsonl" in said("compare", "a.csv", "c.txt", code=2)
    assert "own: experiments and files cannot be" in said("compare", "a.csv", "own", code=2)


def test_a_question_without_a_prediction_failed_and_an_empty_one_is_wrong(folder):
    lines = (folder / "a.csv").read_text().splitlines()
    (folder / "a.csv").write_text("\n".join([*lines[:-2], "38,", ""]))
    e = Experiment(
        import_predictions(store := Store("sqlite://"), folder / "a.csv", folder / "gold.jsonl"), store
    )
    assert (e.result["attempted"], e.result["failed"], e.result["abstained"]) == (N, 1, 1)
    assert e.result["accuracy"]["value"] == 19 / N


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_every_kind_of_file_and_joining_by_the_question(folder, ending):
    import pandas as pd

    table = pd.DataFrame({"question": ["1 + 1?", "0 + 1?"], "answer": ["2", "7"]})
    path = folder / f"p.{ending}"
    writers = {
        "csv": lambda: table.to_csv(path, index=False),
        "tsv": lambda: table.to_csv(path, index=False, sep="\t"),
        "jsonl": lambda: table.to_json(path, orient="records", lines=True),
        "json": lambda: table.to_json(path, orient="records"),
        "parquet": lambda: table.to_parquet(path),
    }
    writers[ending]()
    store = Store("sqlite://")
    e = Experiment(import_predictions(store, path, folder / "gold.jsonl"), store)
    assert (e.result["answered"], e.result["failed"]) == (2, N - 2)
    assert [r["correct"] for r in e.rows][:2] == [False, True]


def test_files_that_were_scored_elsewhere(folder):
    "No questions needed; the order of the rows does not matter."
    (folder / "x.csv").write_text("id;correct\n1;true\n2;False\n3;1\n")
    (folder / "y.csv").write_text("qid,score\n3,1\n2,0.5\n1,0\n")
    x, y = compared_experiments(["x.csv", "y.csv"])
    d = compare(x, y).differences["exact_match"]
    assert (d.a, d.b, d.wins, d.losses) == (2 / 3, 0.5, 1, 1)
    with (folder / "y.csv").open("a") as f:
        f.write("4,1\n")
    assert "1 questions are in y.csv and not in x.csv: 4" in said("compare", "x.csv", "y.csv", code=2)


def test_a_file_with_its_own_key(folder):
    (folder / "z.csv").write_text(
        "question,answer,prediction\nBuilt?,1864,in 1864\nWho?,Marta Lind,marta lind\n"
    )
    assert [s.expected for s in read_predictions(folder / "z.csv")] == [("1864",), ("Marta Lind",)]


def test_an_object_of_predictions_by_id(folder):
    "As SQuAD's script takes them."
    (folder / "p.json").write_text(json.dumps({str(i): str(i + 1) for i in range(10)}))
    store = Store("sqlite://")
    e = Experiment(import_predictions(store, folder / "p.json", folder / "gold.jsonl"), store)
    assert (e.result["answered"], e.result["failed"], e.result["accuracy"]["value"]) == (10, N - 10, 0.25)


def test_a_number_that_went_through_a_table_of_floats(folder):
    (folder / "p.jsonl").write_text('{"id": 1, "prediction": 2.0}\n{"id": 2, "prediction": 2.5}\n')
    samples = read_predictions(folder / "p.jsonl", [Example("1", "?", ("2",)), Example("2", "?", ("2.5",))])
    assert [s.answer for s in samples] == ["2", "2.5"]


def test_accepted_answers_in_objects(folder):
    rows = [{"question": "?", "answer": [{"text": "Oslo", "answer_start": 3}], "prediction": "oslo"}]
    (folder / "z.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert [s.expected for s in read_predictions(folder / "z.jsonl")] == [("Oslo",)]


@pytest.mark.parametrize("right", ["true", "{}", "[null]", '[{"x": 3}]'])
def test_accepted_answers_that_are_none_are_refused_with_their_line(folder, right):
    (folder / "z.jsonl").write_text(f'{{"question": "?", "answer": {right}, "prediction": "x"}}\n')
    with pytest.raises(DataError, match="z.jsonl line 1: "):
        read_predictions(folder / "z.jsonl")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "true", '["a", "b"]', '{"text": "a"}'])
def test_a_prediction_that_is_no_text_is_refused_with_its_line(folder, value):
    (folder / "p.jsonl").write_text(f'{{"id": 1, "prediction": {value}}}\n')
    with pytest.raises(DataError, match="p.jsonl line 1: prediction "):
        read_predictions(folder / "p.jsonl", [Example("1", "?", ("a",))])


@pytest.mark.parametrize(
    "text, words",
    [
        ("id,prediction\n0,1\n99,2\n", "line 3: id '99' is no question's"),
        ("id,prediction\n0,1\n0,2\n", "line 3: id '0' occurs twice; first: line 2"),
        ("id,prediction\n77,1\n0,1\n0,2\n", "p.csv: 2 problems\n  line 2.*\n  line 4"),
        (
            "id,note\n0,1\n",
            "p.csv: no column with predictions; usual names: prediction.* received: id, note; rename one",
        ),
        ("row,prediction\n0,1\n", "p.csv: has neither an id nor the question"),
        ("id,prediction\n", "p.csv: there is nothing in it"),
    ],
)
def test_wrong_files_are_one_error_with_lines(folder, text, words):
    (folder / "p.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        import_predictions(Store("sqlite://"), folder / "p.csv", folder / "gold.jsonl")


@pytest.mark.parametrize(
    "text, words",
    [
        ("id,prediction\n0,1\n", "p.csv: what is right\\? It has no score"),
        ("id,score\n0,3\n1,x\n", "p.csv: 2 problems\n  line 2: the score must be a number from 0 to 1"),
        ("id,score\n0,1\n0,0\n", "p.csv line 3: id '0' occurs twice"),
        ("score\n1\n", "p.csv line 2: needs an id or a question, and a score"),
        ("id,score\n0,nan\n", "line 2: the score must be"),
    ],
)
def test_wrong_files_without_questions(folder, text, words):
    (folder / "p.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        read_predictions(folder / "p.csv")


@pytest.mark.parametrize(
    "claim, words",
    [
        ("b better than a", "cannot be read; write it as"),
        ("c > a", "no 'c'; allowed: a, b"),
        ("a > a", "compares 'a' with itself"),
        ("b > a by much", "cannot be read"),
        ("b > a by 5", "accuracy is a share, so that 5 points are 0.05; received 5"),
        ("b > a by 9" + "9" * 400, "1 problem"),
    ],
)
def test_a_claim_that_cannot_be_read(claim, words):
    with pytest.raises(ConfigError, match=words):
        parse_claim(claim)


def test_claims_the_other_way_and_on_another_metric():
    h = parse_claim("a<b by .1 on f1")
    assert (h.treatment, h.control, h.direction, h.min_effect, h.metric) == ("a", "b", "lower", 0.1, "f1")


@pytest.mark.parametrize(
    "args, words",
    [
        (("compare", "a.csv", "abc"), "experiments and files cannot be compared"),
        (("compare", "a.csv", "nope.csv"), "nope.csv: does not exist"),
        (("compare", "abc", "abd", "--gold", "gold.jsonl"), "--gold: is for files of answers"),
        (("compare", "a.csv", "b.csv", "--claim", "b > a", "--json"), "leave --json and --csv out"),
    ],
)
def test_commands_that_make_no_sense(folder, args, words):
    assert words in said(*args, code=2)


@pytest.mark.slow
def test_it_imports_nothing_heavy(folder):
    "Most of its time would go there."
    code = "import sys; from llmforge.cli import app; app(standalone_mode=False); print(*sys.modules)"
    arguments = ["compare", "a.csv", "b.csv", "--gold", "gold.jsonl", "--claim", "b > a"]
    p = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    heavy = {"torch", "transformers", "matplotlib", "seaborn", "sphinx", "qdrant_client", "nbconvert"}
    assert not heavy & {*p.stdout.split("\n")[-2].split()}


ASKED = [{"id": i, "question": q, "answers": [q.upper()]} for i, q in enumerate("abc", 1)]


@pytest.mark.parametrize(
    "file, text",
    [
        ("p.jsonl", '{"id": 1.0, "prediction": "A"}\n{"id": 2.0, "prediction": "x"}\n'),
        ("p.csv", "id,prediction\n1.0,A\n2.0,x\n"),
        (
            "own.jsonl",
            '{"id": 1.0, "prediction": "A", "answer": "a"}\n{"id": "2", "prediction": "x", "answer": "B"}',
        ),
        ("scored.jsonl", '{"id": 1.0, "correct": true}\n{"id": 2, "correct": "False"}\n'),
    ],
)
def test_ids_that_went_through_a_table_of_floats(file, text, tmp_path):
    (tmp_path / file).write_text(text)
    gold = [to_example(question_record(r, "line")) for r in ASKED[:2]] if file.startswith("p.") else None
    assert [s.doc_id for s in read_predictions(tmp_path / file, gold)] == ["1", "2"]


@pytest.mark.parametrize("others", [{"correct": True}, {"prediction": "x", "answer": "x"}])
@pytest.mark.parametrize("id", [None, "", True, [1], {"a": 1}, 1.0])
def test_what_is_no_id_is_refused_as_in_a_file_of_questions(id, others, tmp_path):
    "1.0 is 1, which is there twice; the others became questions called None, True and [1]."
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r | others) + "\n" for r in ({"id": 1}, {"id": id})))
    with pytest.raises(DataError, match="line 2: (id must be a text or a number|id '1' occurs twice)"):
        read_predictions(tmp_path / "p.jsonl")


def test_an_answer_that_is_missing_in_one_line_is_not_unanswerable(tmp_path):
    (tmp_path / "p.csv").write_text("id,prediction,answer\n1,x,\n2,y,y\n")
    with pytest.raises(DataError, match="line 2: has no answer; give it"):
        read_predictions(tmp_path / "p.csv")


def test_half_a_character_in_an_id(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"id": "a\\ud83d", "score": 1}\n')
    with pytest.raises(DataError, match="mine.jsonl line 1: has half of a character in it"):
        import_predictions(Store("sqlite://"), path)


def test_questions_that_occur_twice_cannot_join(tmp_path):
    (tmp_path / "p.csv").write_text("question,prediction\na,A\n")
    gold = [to_example({"id": i, "question": "a", "answers": [i]}) for i in "12"]
    with pytest.raises(DataError, match="needs ids: the question 'a' occurs 2 times"):
        read_predictions(tmp_path / "p.csv", gold)
