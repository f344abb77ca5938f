"Sample logs in the format that lm-evaluation-harness writes (EvaluationTracker.save_results_samples)."

import csv
import gzip
import hashlib
import html
import json
import random
import re
import subprocess
import sys

import pytest

from llmforge.comparison import compare
from llmforge.core import ConfigError, DataError, StoreError
from llmforge.experiment import Experiment, results_table
from llmforge.exports import export_experiment, import_experiment
from llmforge.listing import experiments_table
from llmforge.logs import import_lm_eval, read_samples, sample_logs
from llmforge.plainresults import listed_records
from llmforge.predictions import import_predictions
from llmforge.results import (
    cost_line,
    kinds_table,
    provenance_table,
    retrieval_table,
    worst_examples,
)
from llmforge.store import Store
from llmforge.tables import Status
from llmforge.views import Query, browse, choices


def as_text(x):
    return [as_text(v) for v in x] if isinstance(x, (list, tuple)) else str(x)


def dumped(doc_id, doc, target, arguments, resps, filtered, filter="none", **metrics):
    "A line as the harness writes it: responses and target as strings, arguments as mappings, three hashes."
    digest = lambda x: hashlib.sha256(str(x).encode()).hexdigest()
    return {
        "doc_id": doc_id,
        "doc": doc,
        "target": str(target),
        "arguments": {
            f"gen_args_{i}": {f"arg_{j}": a for j, a in enumerate(args)} for i, args in enumerate(arguments)
        },
        "resps": as_text(resps),
        "filtered_resps": as_text(filtered),
        "filter": filter,
        "metrics": list(metrics),
        "doc_hash": digest(doc),
        "prompt_hash": digest(arguments[0][0]),
        "target_hash": digest(target),
        **metrics,
    }


def generated(i, answer, right, target=None, filter="none", metric="exact_match", **more):
    doc = {"question": f"What is {i} + {i}?", "answer": str(2 * i)}
    return dumped(
        i,
        doc,
        2 * i if target is None else target,
        [(f"Q: What is {i} + {i}?\nA:", {"until": ["\n"], "do_sample": False})],
        [[f"Let me see. {answer}"]],
        [answer],
        filter,
        **{metric: right, **more},
    )


def chosen(i, pick, gold=0, options=("red", "green", "blue"), **metrics):
    lls = [(-1.0 - (n != pick), n == pick) for n in range(len(options))]
    return dumped(
        i,
        {"question": f"Colour {i}?", "choices": list(options)},
        gold,
        [(f"Q: Colour {i}?\nA:", f" {o}") for o in options],
        [[x] for x in lls],
        lls,
        **(metrics or {"acc": float(pick == gold), "acc_norm": float(pick == gold)}),
    )


def log(folder, lines, task="sums", model="lab__m-1b", name=None):
    path = folder / model / (name or f"samples_{task}_2026-03-01T10-00-00.123456.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(
            (line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)) + "\n" for line in lines
        ),
        encoding="utf-8",
    )
    return path


@pytest.fixture
def store():
    s = Store("sqlite://")
    yield s
    s.close()


# --- the two kinds of task, two models, paired


def test_two_models_on_a_generated_task_are_paired(store, tmp_path):
    rng = random.Random(0)
    right = {
        m: [float(rng.random() < share) for _ in range(80)]
        for m, share in (("lab__small", 0.4), ("lab__large", 0.8))
    }
    ids = {}
    for m, values in right.items():
        lines = [
            generated(i, str(2 * i) if r else "no idea at all", r, filter=f)
            for f in ("strict-match", "flexible-extract")
            for i, r in enumerate(values)
        ]
        ids[m] = import_lm_eval(
            store, log(tmp_path, lines if m == "lab__small" else lines[:80][::-1] + lines[80:], model=m)
        )
    a, b = Experiment(ids["lab__small"], store), Experiment(ids["lab__large"], store)
    assert (
        a.record.status == Status.COMPLETED
        and a.config.model.name == "lab/small"
        and a.config.dataset.name == "sums.jsonl"
        and a.record.name == "small_sums_strict-match"
    )
    assert (
        [r["example_id"] for r in a.rows] == [r["example_id"] for r in b.rows] == [str(i) for i in range(80)]
    )
    d = compare(a, b).differences["exact_match"]
    wins = sum(y > x for x, y in zip(*right.values()))
    losses = sum(y < x for x, y in zip(*right.values()))
    assert (
        (d.n, d.wins, d.losses) == (80, wins, losses)
        and d.a == pytest.approx(sum(right["lab__small"]) / 80)
        and d.b == pytest.approx(sum(right["lab__large"]) / 80)
        and d.p < 0.001
    )


def test_two_models_on_a_multiple_choice_are_paired(store, tmp_path):
    picks = {"a": [0, 1, 2, 0, 0, 1], "b": [0, 0, 0, 0, 1, 1]}
    a, b = (
        Experiment(
            import_lm_eval(store, log(tmp_path, [chosen(i, p) for i, p in enumerate(v)], "colours", m)), store
        )
        for m, v in picks.items()
    )
    d = compare(a, b).differences
    assert {n: (x.wins, x.losses, x.ties) for n, x in d.items()} == dict.fromkeys(
        ("exact_match", "f1", "contains"), (2, 1, 3)
    )
    row = a.rows[1]
    assert (row["input_text"], row["answer"], row["correct"], row["abstained"]) == (
        "Colour 1?",
        "green",
        0,
        False,
    )
    assert row["scores"] == {"exact_match": 0, "f1": 0, "contains": 0, "acc": 0, "acc_norm": 0}
    assert (
        row["trace"]["kind"] == "chain"
        and row["trace"]["attributes"] == {"example": "1", "kind": "", "expected": ["red"], "gold": []}
        and row["trace"]["input"] == "Q: Colour 1?\nA:"
    )
    assert row["latency_ms"] is row["tokens_in"] is row["tokens_out"] is None and row["cached"]


def test_what_is_not_known_of_imported_answers_is_not_claimed(store, tmp_path):
    'They had no retrieval, no seed, Python "not logged", and configs that were equal.'
    lines = [generated(i, "x", 0.0) for i in range(5)]
    a, b = (Experiment(import_lm_eval(store, log(tmp_path, lines, model="a"), n), store) for n in "ab")
    assert "not known" in retrieval_table(a) and "memory" not in retrieval_table(a)
    made = provenance_table(a)
    assert "| imported |" in made and "lm-evaluation-harness" in made
    assert not {w for w in ("None", "not logged", "unknown", "seed", "packages") if w in made}
    assert compare(a, b).notes[0].startswith("model and task are equal but for the name; more is not known")
    assert listed_records(store)[0]["method"] is None and "| – | – |" in experiments_table(store)
    assert browse(store, Query())[0][0]["retrieval"] is None and not choices(store)["method"]


def test_a_log_and_a_file_of_the_same_questions_are_paired(store, tmp_path):
    "By id, text and right answers; where one question differs they are not."
    lines = [generated(i, str(2 * i), 1.0) for i in range(6)]
    a = Experiment(import_lm_eval(store, log(tmp_path, lines, model="a")), store)
    asked = [(r["example_id"], r["input_text"], r["trace"]["attributes"]["expected"][0]) for r in a.rows]
    for name, last in (("same", asked[-1]), ("other", ("5", "Another?", asked[-1][2]))):
        with open(tmp_path / f"{name}.csv", "w", newline="") as file:
            rows = [(*row, "?") for row in [*asked[:-1], last]]
            csv.writer(file).writerows([("id", "question", "answers", "prediction"), *rows])
    same, other = (
        Experiment(import_predictions(store, tmp_path / f"{name}.csv"), store) for name in ("same", "other")
    )
    d = compare(a, same).differences["exact_match"]
    assert (d.n, d.wins, d.losses) == (6, 0, 6)
    with pytest.raises(StoreError, match="cannot be paired"):
        compare(a, other)


def test_logs_of_other_questions_are_not_paired(store, tmp_path):
    base = [generated(i, "x", 0.0) for i in range(5)]
    a = Experiment(import_lm_eval(store, log(tmp_path, base, model="a")), store)
    others = [
        base[:4],
        [*base[:4], generated(4, "x", 0.0, target="9")],
        [*base[:4], {**base[4], "doc": {"question": "Another?"}}],
        [*base[:4], {**base[4], "doc_id": 5}],
    ]
    for i, lines in enumerate(others):
        with pytest.raises(StoreError, match="cannot be paired: .*; import answers to the same questions"):
            compare(a, Experiment(import_lm_eval(store, log(tmp_path, lines, model=f"b{i}")), store))
    other_prompt = [
        {
            **x,
            "arguments": {"gen_args_0": {"arg_0": "Another prompt", "arg_1": {}}},
            "prompt_hash": "other",
            "doc": dict(reversed(x["doc"].items())),
        }
        for x in base
    ]
    assert (
        compare(a, Experiment(import_lm_eval(store, log(tmp_path, other_prompt, model="c")), store))
        .differences["f1"]
        .n
        == 5
    )


def test_what_people_see_of_an_imported_log(store, tmp_path):
    e = Experiment(
        import_lm_eval(store, log(tmp_path, [chosen(i, i % 3) for i in range(6)], "colours")), store
    )
    assert (
        "6 attempted, 6 answered, 0 abstained, 0 failed" in results_table(e)
        and "acc norm" in results_table(e)
        and "tokens" not in results_table(e)
        and "latency" not in results_table(e)
    )
    assert "lab/m-1b" in provenance_table(e) and "samples_colours_2026" in html.unescape(
        provenance_table(e)
    ).replace("\\", "")
    assert all(
        isinstance(f(e), str) for f in (cost_line, kinds_table, worst_examples)
    ) and "m-1b_colours" in html.unescape(experiments_table(store)).replace("\\", "")
    result = store.result(e.id)
    assert (
        result["n"],
        result["accuracy"],
        result["tokens_used"],
        result["latency_p50"],
        result["peak_memory_mb"],
    ) == (6, pytest.approx(1 / 3), None, None, None)


def test_an_imported_log_travels_like_any_experiment(store, tmp_path):
    id = import_lm_eval(store, log(tmp_path, [generated(i, str(2 * i), 1.0) for i in range(3)]))
    folder, other = export_experiment(store, id, tmp_path / "x"), Store("sqlite://")
    assert import_experiment(other, folder) == id and other.rows(id) == store.rows(id)
    assert (
        import_lm_eval(other, tmp_path / "lab__m-1b" / "samples_sums_2026-03-01T10-00-00.123456.jsonl") == id
    )


# --- filters and metrics


def test_the_filter_is_chosen_by_name_and_is_the_first_otherwise(store, tmp_path):
    path = log(
        tmp_path,
        [
            generated(i, a, r, filter=f)
            for f, a, r in (("strict-match", "[invalid]", 0.0), ("flexible-extract", "4", 1.0))
            for i in (1, 2)
        ],
    )
    one, two = import_lm_eval(store, path), import_lm_eval(store, path, filter="flexible-extract")
    assert (
        one != two
        and [store.result(i)["accuracy"] for i in (one, two)] == [0, 1]
        and store.experiment(one).dataset_fingerprint == store.experiment(two).dataset_fingerprint
    )
    assert store.experiment(two).provenance_json["engine"][
        "filter"
    ] == "flexible-extract" and store.experiment(two).name.endswith("flexible-extract")
    with pytest.raises(DataError, match="no filter 'flexible'; in this log: strict-match, flexible-extract"):
        import_lm_eval(store, path, filter="flexible")


def test_the_metric_that_counts(store, tmp_path):
    path = log(
        tmp_path,
        [
            chosen(i, 0, acc=a, acc_norm=n, brier_score=[0, 0.5], other=120.0)
            for i, (a, n) in enumerate([(1.0, 0.0), (True, False), (0, 1)])
        ],
        "colours",
    )
    for metric, accuracy in ((None, 2 / 3), ("acc", 2 / 3), ("acc_norm", 1 / 3)):
        assert store.result(import_lm_eval(store, path, metric=metric, name="x"))[
            "accuracy"
        ] == pytest.approx(accuracy)
    row = store.rows(import_lm_eval(store, path))[0]
    assert row["scores"] == {"exact_match": 1, "f1": 1, "contains": 1, "acc": 1, "acc_norm": 0, "other": 120}
    for bad, message in (
        ("acc_nrm", "did you mean 'acc_norm'"),
        ("other", "line 1: metric 'other' is 120, as on 2 more of 3; .* those that are: acc, acc_norm"),
        ("brier_score", "is missing, or no number"),
    ):
        with pytest.raises(DataError, match=message):
            import_lm_eval(store, path, metric=bad)


@pytest.mark.parametrize("metric", ["exact_match", "em", "exact"])
def test_the_harness_has_the_last_word(store, tmp_path, metric):
    "Its exact match is taken as it is, whatever ours would be; where it says right, F1 and contains agree."
    id = import_lm_eval(
        store,
        log(
            tmp_path,
            [
                generated(0, "forty-two", 1.0, "... #### 42", metric=metric),
                generated(1, "42", 0.0, "42", metric=metric),
            ],
        ),
    )
    assert [[r["scores"][n] for n in ("exact_match", "f1", "contains")] for r in store.rows(id)] == [
        [1, 1, 1],
        [0, 1, 1],
    ]


def unscored(i, answer, target):
    "A line without a metric."
    line = generated(i, answer, 0.0, target)
    del line["exact_match"]
    return {**line, "metrics": []}


def test_scores_that_the_log_lacks_are_computed(store, tmp_path):
    lines = [
        unscored(0, "The Mars!", ["the red planet", "Mars"]),
        unscored(1, "planet Mars", ["the red planet", "Mars"]),
        unscored(2, "", "[]"),
        unscored(3, "I don't know", "[1, 2]"),
    ]
    id = import_lm_eval(store, log(tmp_path, lines))
    assert [[r["scores"][n] for n in ("exact_match", "f1", "contains")] for r in store.rows(id)] == [
        [1, 1, 1],
        [0, pytest.approx(2 / 3), 1],
        [1, 1, 1],
        [0, 0, 0],
    ]
    assert [r["abstained"] for r in store.rows(id)] == [False, False, True, True] and store.experiment(
        id
    ).provenance_json["engine"]["exact_match"] == "computed here"
    assert store.rows(id)[3]["trace"]["attributes"]["expected"] == ["[1, 2]"], (
        "a list of numbers is an answer, not a list of answers"
    )


def test_logged_f1_is_taken_where_it_is_one(store, tmp_path):
    for f1, expected in ((0.25, 0.25), (25.0, 0.0), ([1, 0], 0.0)):
        id = import_lm_eval(
            store,
            log(
                tmp_path, [generated(0, "x", 0.0, "y", f1=f1)], name=f"samples_f{f1}.jsonl".replace(", ", "-")
            ),
        )
        assert store.rows(id)[0]["scores"]["f1"] == expected


def test_choices_without_a_metric_are_no_perplexities(store, tmp_path):
    with pytest.raises(DataError, match="has no metric, so it does not say which of its choices are right"):
        import_lm_eval(store, log(tmp_path, [chosen(0, 1) | {"metrics": []} | {"acc": "", "acc_norm": ""}]))


def test_the_question_of_a_chat_is_what_the_user_said_last(store, tmp_path):
    "The harness may have begun the answer for the model (gen_prefix)."
    chat = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "The answer is"}]
    line = dumped(0, {}, "4", [(json.dumps(chat), {})], [["4"]], ["4"], exact_match=1.0)
    id = import_lm_eval(store, log(tmp_path, [line]))
    assert store.rows(id)[0]["input_text"] == "2 + 2?"


def test_a_log_without_any_verdict_is_refused(store, tmp_path):
    rolling = dumped(
        0,
        {"page": "text"},
        "text",
        [("", "text")],
        [[(-12.5, True)]],
        [(-12.5, True)],
        word_perplexity=[-12.5, 3],
    )
    with pytest.raises(DataError, match="is a log of perplexities; there is no answer in it"):
        import_lm_eval(store, log(tmp_path, [rolling]))
    lambada = dumped(
        0,
        {"text": "the end"},
        " end",
        [("the", " end")],
        [[(-1.5, True)]],
        [(-1.5, True)],
        perplexity=-1.5,
        acc=1,
    )
    row = store.rows(import_lm_eval(store, log(tmp_path, [lambada], "lambada")))[0]
    assert (
        row["scores"] == {"exact_match": 1, "f1": 1, "contains": 1, "acc": 1, "perplexity": -1.5}
        and row["abstained"] is False
        and row["input_text"] == "the"
    )


# --- the shapes a line may have


def test_lines_of_older_and_newer_versions(store, tmp_path):
    new = generated(0, "0", 1.0)
    plain = {**new, "arguments": [["Q: What is 0 + 0?\nA:", {"until": ["\n"]}]]}
    for gone in ("filter", "metrics", "doc_hash", "prompt_hash", "target_hash"):
        plain.pop(gone)
    chat = {
        **new,
        "arguments": {
            "gen_args_0": {
                "arg_0": json.dumps(
                    [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "What is it?"}]
                ),
                "arg_1": {},
            }
        },
        "doc": {"no": 1},
    }
    listed = {
        **chat,
        "arguments": {"gen_args_0": {"arg_0": [chat["arguments"]["gen_args_0"]["arg_0"]], "arg_1": {}}},
    }
    repeated = {**new, "resps": [["a", "b"]], "filtered_resps": [["0", "1"]]}
    for line, question, answer in (
        (new, "What is 0 + 0?", "0"),
        (plain, "What is 0 + 0?", "0"),
        (chat, "What is it?", "0"),
        (listed, "What is it?", "0"),
        (repeated, "What is 0 + 0?", "0"),
    ):
        [s] = read_samples(log(tmp_path, [line]))
        assert (s.question, s.answer, s.expected, s.scores) == (question, answer, ("0",), {"exact_match": 1})


def test_peculiar_choices(tmp_path):
    mutual = chosen(0, 1, 1, ("red", "green"))
    mutual["arguments"] |= {
        f"gen_args_{i + 2}": {"arg_0": "", "arg_1": f" {o}"} for i, o in enumerate(("red", "green"))
    }
    mutual["filtered_resps"] += [["-0.1", "False"], ["-0.2", "False"]]
    winogrande = dumped(
        0,
        {"sentence": "The _ is red"},
        1,
        [("The cup", " is red"), ("The hat", " is red")],
        [[(-3.0, False)], [(-2.0, False)]],
        [(-3.0, False), (-2.0, False)],
        acc=1.0,
    )
    many, infinite = chosen(0, 2, [0, 2]), chosen(0, 0, 2)
    infinite["filtered_resps"][1][0] = "-inf"
    spelled = {**chosen(0, 2), "target": "blue"}
    for line, answer, expected in (
        (mutual, "green", ("green",)),
        (winogrande, "1", ("1",)),
        (many, "blue", ("red", "blue")),
        (infinite, "red", ("blue",)),
        (spelled, "blue", ("blue",)),
    ):
        [s] = read_samples(log(tmp_path, [line]))
        assert (s.answer, s.expected, s.is_text) == (answer, expected, False)


def test_odd_but_right_files(store, tmp_path):
    lines = [json.dumps(generated(i, "né \u2028 x", 0.0), ensure_ascii=False) for i in (10, 9, 2)]
    lines[0] = lines[0].replace('"exact_match": 0.0', '"exact_match": 0.0, "odd": NaN, "none": null')
    path = log(tmp_path, [lines[0], "", *lines[1:]])
    zipped = path.with_name(path.name + ".gz")
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    assert [s.doc_id for s in read_samples(path)] == [2, 9, 10] and read_samples(zipped) == read_samples(path)
    rows = store.rows(import_lm_eval(store, path))
    assert (
        [r["example_id"] for r in rows] == ["2", "9", "10"]
        and set(rows[0]["scores"]) == {"exact_match", "f1", "contains"}
        and rows[0]["answer"] == "né \u2028 x"
    )


# --- what is wrong is told with its line, and nothing is written


def lacking(name):
    return {k: v for k, v in generated(1, "2", 1.0).items() if k != name}


@pytest.mark.parametrize(
    "line, message",
    [
        ("{broken", "line 3: not JSON: .* at column 2"),
        (json.dumps(generated(1, "2", 1.0))[:-20], "line 3: not JSON"),
        ("[1]", "line 3: must be an object; received list"),
        ("null", "line 3: must be an object"),
        ("{}", "line 3: .* is missing"),
        *(
            (lacking(n), f"line 3: {n} is missing")
            for n in ("doc_id", "target", "arguments", "resps", "filtered_resps")
        ),
        (
            {**generated(1, "2", 1.0), "doc_id": 0},
            "line 3: doc_id 0 with filter 'none' was on line 1 already",
        ),
        ({**generated(1, "2", 1.0), "doc_id": "0"}, "line 3: .*line 1 already"),
        ({**generated(1, "2", 1.0), "doc_id": None}, "line 3: .*doc_id must be a number or a text"),
        ({**generated(1, "2", 1.0), "arguments": {}}, "line 3: .*: arguments is empty"),
        ({**generated(1, "2", 1.0), "arguments": 3}, "line 3: not a line that"),
        (
            {**generated(1, "2", 1.0), "filtered_resps": []},
            "line 3: not a line that .*filtered_resps is empty",
        ),
        ({**generated(1, "2", 1.0), "resps": []}, "line 3: .*: resps is empty"),
        (
            {**chosen(1, 0), "filtered_resps": [["-1", "True"], ["-2", "False"]]},
            "line 3: .*3 requests have 2 answers",
        ),
    ],
)
def test_a_wrong_line_is_told_and_nothing_is_written(store, tmp_path, line, message):
    path = log(tmp_path, [generated(0, "0", 1.0), "", line, generated(2, "4", 1.0)])
    with pytest.raises(DataError, match=message) as e:
        import_lm_eval(store, path)
    assert str(e.value).startswith(path.name) and "\n" not in str(e.value)
    assert store.experiments().empty


def test_a_score_missing_on_one_line(store, tmp_path):
    bad = generated(1, "2", float("nan"))
    lines = [generated(0, "0", 1.0), "", bad, generated(2, "4", 1.0), generated(3, "x", float("nan"))]
    for metric in (None, "exact_match"):
        with pytest.raises(
            DataError, match="line 3: metric 'exact_match' is missing, or no number, as on 1 more of"
        ):
            import_lm_eval(store, log(tmp_path, lines), metric=metric)
    for value in (None, "1.0", 7, -0.5, [1.0], float("inf")):
        with pytest.raises(DataError, match="line 2: metric 'exact_match' is"):
            import_lm_eval(store, log(tmp_path, [generated(0, "0", 1.0), generated(1, "2", value)]))
    lacking_it = {k: v for k, v in generated(1, "2", 1.0).items() if k != "exact_match"}
    with pytest.raises(DataError, match="line 2: metric 'exact_match' is missing"):
        import_lm_eval(store, log(tmp_path, [generated(0, "0", 1.0), lacking_it]))
    assert store.experiments().empty


@pytest.mark.parametrize(
    "scores, could",
    [
        ({"pass@1": 1.0}, "pass@1"),
        (
            {"prompt_level_strict_acc": True, "inst_level_strict_acc": [True, False]},
            "prompt_level_strict_acc",
        ),
        (
            {"prompt_level_strict_acc": True, "prompt_level_loose_acc": False},
            "prompt_level_loose_acc, prompt_level",
        ),
        ({"qa_f1_score": 0.5}, "qa_f1_score"),
        ({"rouge1": 31.5, "bleu": [0.1, "x"]}, "there is none that could"),
        ({"perplexity": -3.0, "mine": 1}, "mine"),
    ],
)
def test_a_metric_of_another_name_is_asked_for(store, tmp_path, scores, could):
    "Also where the line does not list its metrics."
    lines = [generated(i, "4", 0.0, **scores) for i in range(3)]
    for line in lines:
        del line["exact_match"]
        line["metrics"] = [*scores]
    for written in (lines, [{k: v for k, v in line.items() if k != "metrics"} for line in lines]):
        with pytest.raises(DataError, match=rf"which metric says .*--metric \(metric=\): {re.escape(could)}"):
            import_lm_eval(store, log(tmp_path, written))
    assert store.experiments().empty
    if "none" not in could:
        name = could.split(",")[0]
        id = import_lm_eval(store, log(tmp_path, lines), metric=name)
        assert store.result(id)["exact_match"] == float(scores[name])
        assert store.experiment(id).provenance_json["engine"]["exact_match"] == name


@pytest.mark.parametrize("names", [["word_perplexity"], ["bits_per_byte", "byte_perplexity"], ["perplexity"]])
@pytest.mark.parametrize("response", ["-102.5", ["-102.5", "False"]])
def test_a_log_of_perplexities_is_refused(store, tmp_path, names, response):
    lines = [
        dumped(i, {"page": "t"}, "t", [("t",)], [[response]], [response], **dict.fromkeys(names, [-102.5, 3]))
        for i in range(3)
    ]
    with pytest.raises(DataError, match="is a log of perplexities"):
        import_lm_eval(store, log(tmp_path, lines, "wikitext"))
    assert store.experiments().empty


@pytest.mark.parametrize(
    "nothing", ["[invalid]", "[INVALID]", " [invalid] ", "[invalidanswer]", "[no answer]", ""]
)
def test_where_a_filter_found_nothing_nothing_was_answered(store, tmp_path, nothing):
    lines = [generated(0, nothing, 0.0), generated(1, "2", 1.0), generated(2, "the [invalid] one", 0.0)]
    result = store.result(import_lm_eval(store, log(tmp_path, lines)))
    assert (result["answered"], result["abstained"]) == (2, 1)


@pytest.mark.parametrize("scored", [True, False])
def test_none_may_be_the_right_answer(store, tmp_path, scored):
    "As in a run of our own: what is right is no abstention."
    pairs = [
        ("None", "None", 1.0),
        ("unknown", "Unknown", 1.0),
        ("I don't know", "4", 0.0),
        ("none", "4", 0.0),
    ]
    made = generated if scored else lambda i, said, right, target: unscored(i, said, target)
    lines = [made(i, said, right, target) for i, (said, target, right) in enumerate(pairs)]
    rows = store.rows(import_lm_eval(store, log(tmp_path, lines)))
    assert [(r["correct"], r["abstained"]) for r in rows] == [(1, 0), (1, 0), (0, 1), (0, 1)]


@pytest.mark.parametrize(
    "target",
    [
        {"text": ["Oslo", "Christiania"], "answer_start": [3, 9]},
        "{'text': ['Oslo', 'Christiania'], 'answer_start': [3, 9]}",
        {"value": "Oslo", "aliases": ["Christiania"]},
    ],
)
def test_accepted_answers_in_an_object(tmp_path, target):
    line = {**generated(0, "Oslo", 1.0), "target": target}
    assert read_samples(log(tmp_path, [line]))[0].expected == ("Oslo", "Christiania")
    for other in ("{x | x > 0}", "{'x': 3}", {"x": 3}):
        line = {**generated(0, "Oslo", 1.0), "target": other}
        assert len(read_samples(log(tmp_path, [line]))[0].expected) == 1


def test_a_likelihood_that_is_no_number_is_not_chosen(tmp_path):
    line = chosen(0, 1)
    line["filtered_resps"][0][0] = "nan"
    assert read_samples(log(tmp_path, [line]))[0].answer == "green"
    line["filtered_resps"] = [[*pair, 3] for pair in line["filtered_resps"]]  # with a length besides
    assert read_samples(log(tmp_path, [line]))[0].answer == "green"


def test_what_a_log_does_not_know_is_unknown(store, tmp_path):
    id = import_lm_eval(store, log(tmp_path, [generated(0, "0", 1.0)]))
    result, summary = store.result(id), store.result(id)["summary"]
    for name in ("tokens_used", "peak_memory_mb", "throughput"):
        assert result[name] is None and not summary.get(name)
    assert summary["metrics"]["tokens_in"]["n"] == 0 and summary["metrics"]["tokens_in"]["value"] is None
    assert cost_line(Experiment(id, store)) == "an unknown number of tokens"


def test_files_that_are_no_logs(store, tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\n")
    (tmp_path / "not.jsonl.gz").write_text("{}\n")
    for name, message in (
        ("empty.jsonl", "is empty"),
        ("bytes.jsonl", "cannot be read"),
        ("not.jsonl.gz", "cannot be read"),
        ("none.jsonl", "cannot be read: No such file"),
        ("", "cannot be read: Is a directory"),
    ):
        with pytest.raises(DataError, match=message):
            import_lm_eval(store, tmp_path / name)
    with pytest.raises(ConfigError, match="name"):
        import_lm_eval(store, log(tmp_path, [generated(0, "0", 1.0)]), name="no spaces please")
    assert store.experiments().empty


# --- names, folders, being interrupted


def test_logs_are_found_in_a_folder(tmp_path):
    paths = sorted(
        log(tmp_path / "out", [generated(0, "0", 1.0)], t, m)
        for t in ("gsm8k", "mmlu_high_school_biology")
        for m in ("lab__a", "lab__b")
    )
    (tmp_path / "out" / "lab__a" / "results_2026-03-01T10-00-00.123456.json").write_text("{}")
    assert (
        sample_logs(tmp_path) == paths
        and sample_logs(paths[0]) == paths[:1]
        and sample_logs(tmp_path / "out" / "lab__a" / "results_2026-03-01T10-00-00.123456.json") == []
    )


def test_names_are_made_from_model_and_task(store, tmp_path):
    for model, name, short, dataset in (
        ("Some Org__Models 2.5 (7B)", None, "Models-2-5-7B-_sums", "sums.jsonl"),
        ("m", "samples_x_y.jsonl", "m_x_y", "x_y.jsonl"),
        ("m", "answers.jsonl", "m_answers", "answers.jsonl"),
        ("l" * 80, None, "l" * 64, "sums.jsonl"),
        ("Ünï", None, "n-_sums", "sums.jsonl"),
    ):
        e = Experiment(
            import_lm_eval(store, log(tmp_path, [generated(0, "0", 1.0)], model=model, name=name)), store
        )
        assert (e.record.name, e.config.dataset.name) == (short, dataset)
    assert import_lm_eval(store, log(tmp_path, [generated(0, "0", 1.0)]), name="mine").startswith("mine-")


def test_importing_twice_is_importing_once_and_other_content_is_another(store, tmp_path):
    a = import_lm_eval(store, log(tmp_path, [generated(0, "0", 1.0)]))
    assert (
        import_lm_eval(store, log(tmp_path, [generated(0, "0", 1.0)]))
        == a
        != import_lm_eval(store, log(tmp_path, [generated(0, "1", 0.0)]))
        and len(store.experiments()) == 2
    )


def test_an_import_that_broke_off_is_finished_by_the_next(store, tmp_path, monkeypatch):
    path = log(tmp_path, [generated(i, "0", 1.0) for i in range(3)])
    with monkeypatch.context() as m:
        m.setattr(Store, "complete", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            import_lm_eval(store, path)
    assert list(store.experiments().status) == ["RUNNING"]
    assert store.result(import_lm_eval(store, path))["n"] == 3 and list(store.experiments().status) == [
        "COMPLETED"
    ]


@pytest.mark.slow
def test_importing_needs_no_torch():
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, llmforge.logs; assert not {'torch', 'transformers'} & set(sys.modules)",
        ],
        check=True,
    )


# --- the command


def test_the_command_imports_and_compares(tmp_path, outputs):
    "`llmforge import` a folder of logs, then `llmforge compare`: the paired test on the users' own logs."
    from typer.testing import CliRunner

    from llmforge.cli import app

    rng = random.Random(1)
    for model, share in (("lab__small", 0.3), ("lab__large", 0.7)):
        log(
            tmp_path / "logs",
            [
                generated(i, str(2 * i) if r else "unsure", r)
                for i, r in enumerate(float(rng.random() < share) for _ in range(60))
            ],
            model=model,
        )
    imported = CliRunner().invoke(app, ["import", str(tmp_path / "logs")])
    ids = imported.output.split()
    assert imported.exit_code == 0 and len(ids) == 2
    said = CliRunner().invoke(app, ["compare", "small", "large"]).output
    assert "paired t" in said and "60" in said
    (tmp_path / "empty").mkdir()
    nothing = CliRunner().invoke(app, ["import", str(tmp_path / "empty")])
    assert (
        nothing.exit_code == 2 and "nothing to import" in nothing.output and "Traceback" not in nothing.output
    )
