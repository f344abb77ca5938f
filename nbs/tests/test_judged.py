"Rates of an experiment by labels: they hold what is certain, and are given only where there are labels."

import json

import pytest

from llmforge.core import DataError
from llmforge.files import project_root
from llmforge.judged import LEAST_LABELS, rate_by_labels, rate_by_rule

OUTPUTS = project_root() / "outputs"
PUBLISHED = [
    f"retrieval-{arm}" for arm in ("naive-almanac", "naive-meridia", "hybrid-almanac", "hybrid-meridia")
]


def row(i, scores=(1.0, 1.0, 1.0), judge=0.0, read=("town",)):
    hits = [{"id": f"{name}#0"} for name in read]
    trace = {"kind": "chain", "attributes": {"gold": ["town"]}}
    trace["children"] = [{"kind": "retriever", "name": "naive", "output": hits}]
    named = dict(zip(("exact_match", "f1", "contains"), scores)) | {"has_answer@1": 1.0}
    named["ungrounded_rate"] = judge
    return {"example_id": f"q{i}", "scores": named, "abstained": False, "error_type": None, "trace": trace}


WRONG, PARTLY = (0.0, 0.0, 0.0), (0.0, 0.5, 0.0)


@pytest.mark.parametrize("judge", [0.0, 1.0])
def test_the_rate_is_of_labels_whatever_the_judge_says(judge):
    rows = [row(i, WRONG if i < 30 else (1.0, 1.0, 1.0), judge) for i in range(60)]
    rate = rate_by_rule(rows, "almanac")
    assert rate.estimate.value == pytest.approx(0.5) and rate.judge_says == judge and rate.labelled == 60


def test_answers_without_a_label_count_either_way():
    rows = [row(i, WRONG if i < 20 else (1.0, 1.0, 1.0)) for i in range(40)]
    more = rows + [row(i, PARTLY) for i in range(40, 50)]
    all_known, some = rate_by_rule(rows, "almanac"), rate_by_rule(more, "almanac")
    assert (some.labelled, some.estimate.n) == (40, 50)
    assert some.estimate.low <= 20 / 50 and some.estimate.high >= 30 / 50
    assert some.estimate.high - some.estimate.low > all_known.estimate.high - all_known.estimate.low


def test_few_labels_give_no_rate():
    rows = [row(i, WRONG) for i in range(LEAST_LABELS - 1)]
    assert rate_by_rule(rows, "almanac") is None
    assert rate_by_rule(rows + [row(99)], "almanac") is not None
    assert rate_by_rule(rows + [row(99)], "trivia_qa") is None
    assert rate_by_rule([row(i, WRONG, read=("river",)) for i in range(99)], "almanac") is None


def test_labels_by_people():
    rows = [row(i, judge=float(i % 3 == 0)) for i in range(90)]
    rate = rate_by_labels(rows, {f"q{i}": i % 3 > 0 for i in range(45)})
    assert rate.estimate.value == pytest.approx(1 / 3, abs=0.01) and rate.labelled == 45
    assert rate.weight > 0.4 and rate.estimate.n == 90
    with pytest.raises(DataError, match="at least one label"):
        rate_by_labels(rows, {"another": True})


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_rates_hold_what_is_certain(name):
    "What the judge says lies below the interval in each of them."
    (folder,) = OUTPUTS.glob(f"{name}-*")
    rows = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    rate = rate_by_rule(rows, name.rpartition("-")[2])
    assert rate.labelled >= 70 and rate.judge_says < rate.estimate.low
