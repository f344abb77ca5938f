"Arms that are both near 0, or both near 1: said before a study is run, and with its verdicts."

import json

import pytest
from typer.testing import CliRunner

from llmforge.batching import FakeEngine
from llmforge.cli import app
from llmforge.core import ConfigError, StoreError
from llmforge.findings import verdict_table, verdicts
from llmforge.pilot import check_known, floor_warning, known_means, near, pilot
from llmforge.plan import plan_table, stored_study
from llmforge.store import Store
from llmforge.study import open_study, run_pilot, run_study
from llmforge.studyconfig import experiments, load_study
from llmforge.text import cell

STUDY = {
    "name": "floors",
    "question": "Does a passage help?",
    "base": {"engine": "fake", "method": {"shots": 0}, "retrieval": {"name": "sparse", "top_k": 1}},
    "datasets": {
        "almanac": {"dataset": {"name": "almanac", "kinds": ["single_hop"], "skip": 40, "limit": 20}},
        "meridia": {"dataset": {"name": "meridia", "skip": 40, "limit": 30}},
    },
    "arms": {"none": {"retrieval": "none"}, "one": {}},
    "hypotheses": [
        {"id": "H1", "claim": "Reading helps", "treatment": "one", "control": "none", "min_effect": 0.1},
        {
            "id": "H2",
            "claim": "Reading helps on the Almanac",
            "treatment": "one",
            "control": "none",
            "datasets": ["almanac"],
        },
        {"id": "H3", "claim": "It costs more", "treatment": "one", "control": "none", "metric": "tokens_in"},
    ],
}


def test_an_earlier_result_without_a_summary_says_nothing():
    study = load_study({"study": STUDY})
    arms, store = experiments(study), Store("sqlite://")
    earlier = pilot(arms["one", "meridia", 0], 10).model_dump(mode="json")
    store.complete(store.claim(store.create_experiment("x-1", "x", earlier)), {"n": 0})
    assert known_means(study, arms, store)["one/meridia"] == {"experiment": "x-1", "n": 0, "means": {}}


def knows_nothing(config):
    "A model that is always wrong."
    return FakeEngine(lambda text, sampling: " Nobody")


def study(**changes):
    return load_study({"study": {**STUDY, **changes}})


@pytest.mark.parametrize(
    "a, b, end",
    [(0, 0.05, "near 0"), (0, 0.051, ""), (1, 0.95, "near 1"), (0.94, 1, ""), (0, 1, ""), (None, 0, "")],
)
def test_what_is_near(a, b, end):
    assert near(a, b) == near(b, a) == end


def test_a_pilot_asks_other_questions():
    "Those just before the study's, or just after; where the study asks all, it says so."
    arms = experiments(study())
    before = pilot(arms["one", "meridia", 0], 20).dataset
    assert (before.skip, before.limit) == (20, 20)
    after = pilot(arms["one", "meridia", 0], 50).dataset
    assert (after.skip, after.limit) == (70, 50)
    everything = study(datasets={"all": {"dataset": {"name": "meridia"}}}, hypotheses=[])
    with pytest.raises(ConfigError, match="asks every question, so none is left for a pilot; give"):
        pilot(experiments(everything)["one", "all", 0], 5)


@pytest.mark.slow
def test_a_pilot_is_told_in_the_plan_and_the_floor_in_the_verdict(outputs):
    "From the pilot to the verdict, on a model that knows nothing."
    store = Store()
    ids = run_pilot(study(), 10, store, knows_nothing, show=False)
    assert len(set(ids)) == 4 and all(store.result(id)["n"] == 10 for id in ids)
    opened = open_study(study(), store)
    known = opened.frozen.plan_json["known"]
    assert known.keys() == {f"{a}/{d}" for a in STUDY["arms"] for d in STUDY["datasets"]}
    assert {k["experiment"] for k in known.values()} == set(ids)
    table = plan_table(opened)
    for line in (
        "H1: both arms were near 0 on almanac (0.00 and 0.00 of 10 earlier answers); near 0 on meridia "
        "(0.00 and 0.00 of 10 earlier answers): on 50 of 50 questions hardly any difference can show",
        "H2: both arms were near 0 on almanac (0.00 and 0.00 of 10 earlier answers): on 20 of 20",
    ):
        assert line in table
    assert "H3: both" not in table
    with pytest.raises(
        StoreError, match="a pilot comes before it; to pilot a changed study, give it another"
    ):
        run_pilot(study(), 10, store, knows_nothing, show=False)
    done = run_study(study(), store, knows_nothing, show=False)
    assert done.frozen == opened.frozen and not done.tampered  # what is known later changes no plan
    one, two, three = verdicts(done)
    assert (
        "; on 50 of 50 questions hardly any difference could show: both arms are near 0 on" in one.sentence()
    )
    assert "near 0 on almanac: " in two.sentence() and not three.floor
    assert cell(one.floor, 2000) in verdict_table(done)  # kinds are the data's words
    assert plan_table(stored_study("floors", store)).count("hardly any") == 2


@pytest.mark.slow
def test_arms_that_can_differ_have_no_floor(outputs):
    "A model that reads what it is given."

    def reads(config):
        return FakeEngine(lambda text, sampling: " " + text.rsplit("Question:", 1)[0][-400:])

    base = {**STUDY["base"], "metrics": {"accuracy": "contains"}}
    done = run_study(study(base=base), Store(), reads, show=False)
    assert [v.floor for v in verdicts(done)] == ["", "", ""]


def test_nothing_known_is_said(outputs):
    "A plan that was frozen without a look at earlier answers says nothing; one that found none says so."
    opened = open_study(study(), Store())
    assert opened.frozen.plan_json["known"] == {}
    assert "whether they can differ is not known" in plan_table(opened)


@pytest.mark.slow
def test_other_settings_and_the_same_questions_do_not_count(outputs):
    store = Store()
    run_pilot(study(name="other", base={**STUDY["base"], "seed": 3}), 10, store, knows_nothing, show=False)
    changed = {**STUDY["base"], "sampling": {"max_tokens": 7}}
    assert open_study(study(name="changed", base=changed), store).frozen.plan_json["known"] == {}
    same = study(
        name="same",
        datasets={"m": {"dataset": {"name": "meridia", "skip": 35, "limit": 10}}},
        hypotheses=STUDY["hypotheses"][:1],
    )
    assert open_study(same, store).frozen.plan_json["known"] == {}
    assert len(open_study(study(), store).frozen.plan_json["known"]) == 4


@pytest.mark.parametrize(
    "known",
    [[], {"one/meridia": 3}, {"one/meridia": {"n": "3", "means": {}, "experiment": "x"}}]
    + [{"one/meridia": {"n": 3, "means": {"accuracy": v}, "experiment": "x"}} for v in ("0", None, True)],
)
def test_a_strangers_plan(known):
    with pytest.raises(ValueError, match="earlier answers"):
        check_known(json.loads(json.dumps(known)))


def test_half_of_the_questions_is_the_limit():
    h = study().hypotheses[0]
    known = {f"{arm}/almanac": {"n": 9, "means": {"accuracy": 1.0}} for arm in STUDY["arms"]}
    assert "near 1 on almanac" in floor_warning(h, {"almanac": 30, "meridia": 30}, known)
    assert not floor_warning(h, {"almanac": 30, "meridia": 31}, known)


@pytest.mark.slow
def test_the_command(outputs, tmp_path):
    "`--pilot 5` asks first, then freezes and runs."
    import yaml

    file = tmp_path / "floors.yaml"
    short = {d: {"dataset": {"name": d, "skip": 5, "limit": 5}} for d in STUDY["datasets"]}
    file.write_text(yaml.safe_dump({"study": {**STUDY, "datasets": short}}))
    out = CliRunner().invoke(app, ["study", str(file), "--pilot", "5", "--no-notebook"])
    assert out.exit_code == 0, out.output
    assert "of 5 earlier answers" in out.output
