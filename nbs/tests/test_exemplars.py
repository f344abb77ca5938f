"What is shown before the questions of a study: the same in every arm, and no question's own evidence."

import re

import pytest

from llmforge.almanac import almanac_corpus
from llmforge.batching import FakeEngine
from llmforge.config import load_config
from llmforge.core import ConfigError
from llmforge.plan import plan_of, plan_table
from llmforge.retriever import Retriever
from llmforge.runner import make_resources, prepare
from llmforge.study import open_study
from llmforge.studyconfig import experiments, load_study

LIMITS = {"skip": 200, "limit": 30}
STUDY = {
    "name": "shown",
    "question": "Which retrieval?",
    "base": {"method": {"name": "naive", "shots": 3}, "retrieval": {"name": "sparse", "top_k": 2}},
    "datasets": {
        "almanac": {"dataset": {"name": "almanac", **LIMITS}},
        "meridia": {"dataset": {"name": "meridia", **LIMITS}},
    },
    "arms": {
        "none": {"retrieval": "none"},
        "one": {"retrieval": {"top_k": 1}},
        "two": {},
        "reasoned": {"method": {"name": "chain_of_thought"}},
    },
    "hypotheses": [
        {"id": "H1", "claim": "Reading helps", "treatment": "one", "control": "none"},
        {"id": "H2", "claim": "Two are better than one", "treatment": "two", "control": "one"},
    ],
}


def shown(**changes):
    "Arm and data set -> the exemplars of its prompts."
    study = load_study({"study": {**STUDY, **changes}})
    out = {}
    for (arm, data, _), config in experiments(study).items():
        resources = make_resources(prepare(config, FakeEngine()), FakeEngine())
        out[arm, data] = resources.exemplars
        resources.close()
    return out


def test_what_was_made_is_closed_where_a_later_part_fails(monkeypatch):
    "An index whose engine cannot be loaded."
    monkeypatch.setattr("llmforge.runner.make_engine", lambda config: 1 / 0)
    closed, close = [], Retriever.close
    monkeypatch.setattr(Retriever, "close", lambda self: (closed.append(self), close(self)))
    fields = {"name": "x", "engine": "fake", "retrieval": {"name": "sparse"}, "dataset": {"limit": 2}}
    with pytest.raises(ZeroDivisionError):
        make_resources(prepare(load_config({"experiment": fields})))
    assert len(closed) == 1


@pytest.fixture(scope="module")
def same():
    return shown()


@pytest.mark.slow
def test_every_arm_shows_the_same_exemplars(same):
    "The same questions, answers and passages; without retrieval no passages."
    for data in STUDY["datasets"]:
        one = same["one", data]
        assert len(one) == 3 and all(x.passages.strip() for x in one)
        assert same["two", data] == same["reasoned", data] == one
        bare = [(x.example.id, x.answer) for x in one]
        assert [(x.example.id, x.answer) for x in same["none", data]] == bare
        assert not any(x.passages for x in same["none", data])


@pytest.mark.slow
def test_each_arm_may_choose_its_own():
    "`exemplars: own`: as many passages as the arm reads."
    own = shown(exemplars="own")
    assert own["two", "almanac"] != own["one", "almanac"]
    assert len(own["two", "almanac"][0].passages) > len(own["one", "almanac"][0].passages)


@pytest.mark.slow
def test_an_arm_is_named(same):
    two = shown(exemplars="two")
    assert two["one", "almanac"] == two["two", "almanac"] != same["one", "almanac"]
    with pytest.raises(ConfigError, match="exemplars: unknown 'tow'; allowed: none, one, two, .*own"):
        load_study({"study": {**STUDY, "exemplars": "tow"}})


def test_no_exemplar_shows_what_a_question_asks_for():
    "Of all of Meridia's questions every exemplar's own passage is gold, so none of these may be shown."
    every = {"meridia": {"dataset": {"name": "meridia"}}}
    out = shown(datasets=every, arms={"one": {}, "two": {"retrieval": {"top_k": 3}}}, hypotheses=[])
    questions = prepare(load_config({"experiment": {"name": "m", "dataset": "meridia"}}), FakeEngine()).data
    gold = {id for e in questions.examples for id in e.gold}
    texts = [p.text for p in almanac_corpus().passages if p.id in gold]
    assert len(texts) > 50
    for exemplars in out.values():
        assert exemplars and all(x.passages.strip() for x in exemplars)
        assert not any(t[:60] in x.passages for t in texts for x in exemplars)


def test_the_chooser_is_part_of_an_experiments_id():
    "It is where it chooses something, and only there."

    def id_of(**parts):
        data = {"name": "x", "dataset": {"name": "almanac", "limit": 5}, "retrieval": "sparse", **parts}
        return prepare(load_config({"experiment": data}), FakeEngine()).id

    dense = {"exemplar_retrieval": "dense"}
    assert id_of() != id_of(**dense) != id_of(exemplar_retrieval="none")
    assert id_of(method={"shots": 0}) == id_of(method={"shots": 0}, **dense)
    assert id_of(method="react") == id_of(method="react", **dense)
    assert id_of(exemplar_retrieval="naive") == id_of(**dense)  # the field's other word
    reranked = {"name": "dense", "reranker": "cross-encoder"}
    assert id_of(exemplar_retrieval=reranked) == id_of(**dense)  # nothing is reranked


def test_exemplars_need_the_documents_that_they_are_shown_with():
    "Without retrieval, too: another retrieval finds their passages, so that the arms agree."
    data = {"name": "x", "dataset": "my.jsonl", "exemplar_retrieval": "sparse"}
    with pytest.raises(ConfigError, match="experiment.corpus: is missing"):
        load_config({"experiment": data})
    assert load_config({"experiment": {**data, "dataset": "almanac"}}).corpus.name == "almanac"


@pytest.mark.slow
def test_a_plan_says_who_chooses(outputs):
    "The plan names the arm, or says that the arms differ in their exemplars."
    study = load_study({"study": STUDY})
    assert "The retrieval of one chooses the exemplars of every arm" in plan_table(open_study(study))
    own = load_study({"study": {**STUDY, "name": "own", "exemplars": "own"}})
    assert re.search(r"\*\*Exemplars: each arm's own\*\*", plan_table(open_study(own)))
    assert "exemplars" not in plan_of(own, {}, {})["study"]  # as plans were before there was a choice
