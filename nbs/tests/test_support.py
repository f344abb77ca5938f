"The rule that labels answers, the halves of the own answers, and what needs no judge."

import json
import shutil
from dataclasses import asdict

import pytest

from llmforge.core import ConfigError
from llmforge.files import project_root
from llmforge.labelled import Labelled
from llmforge.ownanswers import _judged_questions, labelled_own
from llmforge.support import support_label


def row(scores=(0.0, 0.0, 0.0), read=("town", "river"), gold=("town",), **more):
    hits = [{"id": f"{name}#0"} for name in read]
    trace = {"kind": "chain", "attributes": {"gold": list(gold)}}
    trace["children"] = [{"kind": "retriever", "name": "hybrid", "output": hits}]
    named = dict(zip(("exact_match", "f1", "contains"), scores)) | {"has_answer@2": 1.0}
    return {"scores": named, "abstained": False, "error_type": None, "trace": trace} | more


@pytest.mark.parametrize(
    "made, label",
    [
        (row((1.0, 1.0, 1.0)), True),
        (row(), False),
        (row((0.0, 0.5, 0.0)), None),
        (row((0.0, 0.0, 1.0)), None),
        (row(read=("river",)), None),
        (row(gold=("town", "people")), None),
        (row(gold=()), None),
        (row(abstained=True), None),
        (row(error_type="EngineError"), None),
        (row((1.0, 1.0, 1.0)) | {"scores": {"exact_match": 1.0, "f1": 1.0, "contains": 1.0}}, None),
    ],
)
def test_the_rule(made, label):
    assert support_label(made, "almanac") is label
    assert support_label(made, "squad") is None


def cases_of(half, n):
    "The published own answers of the embedded model; those of another are a set of their own."
    return labelled_own(half, n)["own answers of smollm2-135m-instruct"]


@pytest.mark.slow
def test_own_answers_are_split_by_question(monkeypatch):
    monkeypatch.setenv("LLMFORGE_OUTPUTS", str(project_root() / "outputs"))
    dev, test = (cases_of(half, n=10_000) for half in ("dev", "test"))
    assert not {c.group for c in dev} & {c.group for c in test}
    for half in (dev, test):
        assert len(half) > 200 and {c.supported for c in half} == {True, False}
        assert all(c.passages and all(c.passages) for c in half)
    few = cases_of("test", n=50)
    assert 50 <= len(few) < 60 and set(few) <= set(test) and few == cases_of("test", n=50)


def test_answers_of_two_models_are_two_populations(outputs):
    "A card says whose answers a judge was tried on; a made-up word of the fake engine is nobody's."
    source = next((project_root() / "outputs").glob("retrieval-naive-almanac-*"))
    for name, new in {
        "a": {},
        "b": {"name: smollm2-135m-instruct": "name: other"},
        "c": {"name: local": "name: fake"},
    }.items():
        shutil.copytree(source, outputs / name)
        config = (source / "config.yaml").read_text()
        for old, value in new.items():
            assert old in config
            config = config.replace(old, value)
        (outputs / name / "config.yaml").write_text(config)
    sets = labelled_own("dev")
    assert list(sets) == ["own answers of other", "own answers of smollm2-135m-instruct"]
    assert len(set(sets.values())) == 1 and not labelled_own()


def test_without_runs_there_are_none(outputs):
    outputs.mkdir(exist_ok=True)
    assert labelled_own() == {}
    with pytest.raises(ConfigError, match="'test', 'dev'"):
        labelled_own("train")


@pytest.mark.slow
def test_what_needs_no_judge_stands_beside_it():
    from llmforge.cards import judge_scorer
    from llmforge.scorer import Scorer

    class Half(Scorer):
        name, version = "half", "1"

        def probabilities(self, question, answer, passages):
            return [0.5]

    long, short = "a long winded answer of words", "red"
    cases = [
        Labelled("q", long if i % 2 else short, ("It is red.",), i % 2 == 0, "k", str(i)) for i in range(20)
    ]
    m = judge_scorer(Half(), cases)
    assert m.auroc.value == 0.5
    values = {name: (a.value, b.value) for name, (a, b) in m.baselines.items()}
    assert values == {
        "answer length": (1.0, 1.0),
        "lexical overlap": (1.0, 1.0),
        "always supported": (0.5, 0.5),
    }
    assert type(m).from_dict(json.loads(json.dumps(asdict(m)))) == m


def test_a_text_may_hold_what_some_take_for_a_line_end(outputs):
    "U+2028 stands in the rows as it is; the rows were split there."
    (outputs / "x").mkdir(parents=True)
    (outputs / "x" / "config.yaml").write_text(
        "experiment: {name: x, retrieval: sparse, metrics: {judge: groundedness}}"
    )
    row = json.dumps({"example_id": "q0", "output_text": "a\u2028b"}, ensure_ascii=False)
    (outputs / "x" / "runs.jsonl").write_text(row + "\n", encoding="utf-8")
    assert _judged_questions() == {"q0"}
