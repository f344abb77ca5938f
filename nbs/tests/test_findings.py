"Tables and verdicts on stored rows: failures, the rule, hostile texts, determinism; agents, prices, kinds."

import gc
import importlib
import inspect
import math
import re
from dataclasses import is_dataclass, replace
from html import unescape

import numpy as np
import pytest
import sqlalchemy as sa

import llmforge.contrasts as contrasts
from llmforge.aggregate import result_row, summarise
from llmforge.batching import FakeEngine, Fault
from llmforge.card import Card, Measure
from llmforge.claimed import verdict_on
from llmforge.comparison import compare, diff_table, overview, trace_line
from llmforge.config import load_config
from llmforge.contrasts import arms_of, groups, values
from llmforge.core import ConfigError, StoreError, fingerprint
from llmforge.equivalence import equivalence_of
from llmforge.experiment import Experiment, agent_table, counts_line, results_table
from llmforge.findings import arms_table, decide, exploratory_table, verdict_table, verdicts
from llmforge.interaction import interaction, label_test
from llmforge.listing import experiments_table
from llmforge.plan import Study
from llmforge.pooling import pooled, ratio, shared_passage
from llmforge.preference import choices_between
from llmforge.results import kinds_table, retrieval_table, worst_examples
from llmforge.rounds import Round
from llmforge.runner import run_experiment
from llmforge.speedplots import front_plot
from llmforge.stats import Estimate
from llmforge.store import FrozenPlan, Store
from llmforge.studyconfig import Hypothesis, StudyConfig
from llmforge.tables import EXPERIMENTS
from llmforge.tradeoffs import agent_arms_table, cost_ratio, costs_table, trade_off
from llmforge.views import flips
from llmforge.wording import p_text, percent, shown

pytestmark = pytest.mark.slow

FROZEN = FrozenPlan("test", {}, fingerprint({}), "2026-01-01T00:00:00+00:00")
SCORER = {"name": "groundedness", "version": "1", "threshold": 0.5, "card": None}


@pytest.fixture
def store(outputs):
    return Store()


def row(i, score, failed=False, cached=False, gold=(), text=None, answer="x", abstained=False, **scores):
    "A row of `runs` made by hand."
    done = not failed
    return dict(
        example_id=f"q{i}",
        position=i,
        input_text=text or f"Question {i}?",
        output_text=answer,
        answer=answer,
        tokens_in=10,
        tokens_out=2,
        latency_ms=5.0 + i,
        queue_ms=0.0,
        cached=cached,
        correct=float(done and score >= 1),
        abstained=abstained,
        error_type=None if done else "EngineError",
        error=None if done else "injected",
        scores={"exact_match": score, "f1": score, "contains": score, **scores},
        trace={
            "kind": "chain",
            "name": "naive",
            "attributes": {"kind": "", "expected": ["yes"], "gold": list(gold)},
            "start_ms": 0.0,
            "duration_ms": 0.0,
        },
    )


def stored(store, name, rows, scorer=None, data="data", accuracy="exact_match", more=None, confidence=0.95):
    "A completed experiment of these rows."
    config = load_config(
        {
            "experiment": {
                "name": name,
                "engine": "fake",
                "dataset": {"name": "meridia"},
                "metrics": {"resamples": 500, "accuracy": accuracy, "confidence": confidence},
            }
        }
    )
    id = store.create_experiment(name, name, config.model_dump(mode="json"), data)
    lease = store.claim(id)
    store.add_rows(lease, rows)
    store.complete(
        lease,
        result_row(summarise(store.rows(id), config) | ({"scorer": scorer} if scorer else {}) | (more or {})),
        {},
    )
    return Experiment(id, store)


def binary(*parts):
    return [score for n, score in parts for _ in range(n)]


def study_of(store, arms, *hypotheses, **more):
    "A study on one data set with these experiments."
    fields = dict(frozen=FROZEN, tampered=(), late=()) | {
        k: more.pop(k) for k in ("frozen", "tampered", "late") if k in more
    }
    plan = StudyConfig(
        name="test",
        question="?",
        base={},
        datasets={"d": {}},
        arms={a: {} for a in arms},
        seeds=(0,),
        hypotheses=tuple(hypotheses),
        **more,
    )
    return Study(config=plan, store=store, ids={(a, "d", 0): e.id for a, e in arms.items()}, **fields)


def claim(id="H1", metric="accuracy", treatment="b", control="a", **more):
    return Hypothesis(id=id, claim=f"claim {id}", metric=metric, treatment=treatment, control=control, **more)


def pair(store, a, b, *hypotheses, **more):
    "A study of two arms with these scores."
    make = lambda name, scores: stored(store, name, [row(i, s) for i, s in enumerate(scores)])
    return study_of(store, {"a": make("a", a), "b": make("b", b)}, *hypotheses, **more)


def verdict(store, a, b, h, **more):
    return verdicts(pair(store, a, b, h, **more))[0]


# failures


def test_failures_are_said_everywhere_and_nothing_is_nan(store):
    "30% of the generations fail: every table counts them, they are wrong, and the bounds are printed."

    def arm(name, faults):
        config = load_config(
            {
                "experiment": {
                    "name": name,
                    "engine": "fake",
                    "max_consecutive_failures": 1000,
                    "method": {"shots": 0},
                    "dataset": {"name": "meridia", "limit": 60},
                }
            }
        )
        return Experiment(
            run_experiment(config, store, FakeEngine(" Sarnivel", faults=faults, name=name), show=False),
            store,
        )

    a, b = arm("whole", []), arm("broken", [Fault(share=0.3)])
    lost = b.result["failed"]
    assert 8 <= lost <= 28 and b.result["answered"] == 60 - lost
    right = sum(r["scores"]["exact_match"] for r in b.rows if not r["error_type"])
    assert b.result["accuracy"]["value"] == pytest.approx(right / 60), "a failure is a wrong answer"
    counts = (
        f"60 attempted, {60 - lost} answered, 0 abstained, {lost} failed; "
        f"accuracy lies between {right / 60:.3f} and {(right + lost) / 60:.3f}"
    )
    study = study_of(
        store,
        {"a": a, "b": b},
        claim(),
        claim("H2", "latency_ms"),
        claim("H3", "groundedness"),
        claim("H4", "failed", direction="lower", margin=0.1),
        exploratory=("f1", "recall@1"),
    )
    pages = {
        "results": results_table(b),
        "kinds": kinds_table(b),
        "retrieval": retrieval_table(b),
        "worst": worst_examples(b),
        "compare": compare(a, b)._repr_markdown_(),
        "diff": diff_table(a, b),
        "verdicts": verdict_table(study),
        "arms": arms_table(study),
        "exploratory": exploratory_table(study),
        "sentences": " ".join(v.sentence() for v in verdicts(study)),
    }
    assert counts in counts_line(b) and all(counts in pages[p] for p in ("results", "compare", "diff"))
    for name, page in pages.items():
        assert not re.search(r"\bnan\b|\bNone\b|\binf\b", page, re.I), (name, page)
    assert (
        f"| 60 | {60 - lost} | 0 | {lost} |" in pages["arms"]
        and f"{(right + lost) / 60:.3f}" in pages["arms"]
    )
    assert (
        f"120 attempted, {120 - lost} answered, 0 abstained, {lost} failed" in pages["verdicts"]
        and f"120 attempted, {120 - lost} answered" in pages["exploratory"]
    )
    v = verdicts(study)[0]
    assert v.n == 60 and v.contrast.failed == (0, lost)
    assert v.contrast.bounds == pytest.approx((v.effect.value, v.effect.value + lost / 60)), (
        "the difference if all failed answers were wrong, and if all were right"
    )
    assert f"{lost} runs failed, so the difference lies between" in v.sentence()
    assert "b − a lies between" in pages["compare"]


def test_a_run_in_which_everything_failed(store):
    "No value at all on one side: a dash and 'inconclusive', never a number out of nothing."
    a, b = (
        stored(store, "a", [row(i, 1.0, groundedness=0.5) for i in range(5)], SCORER),
        stored(store, "b", [row(i, 0.0, failed=True) for i in range(5)], SCORER),
    )
    study = study_of(
        store,
        {"a": a, "b": b},
        claim(),
        claim("H2", "groundedness"),
        claim("H3", "latency_ms", margin=1.0),
        exploratory=("groundedness",),
    )
    judged = verdicts(study)
    assert (
        [v.n for v in judged] == [5, 0, 0]
        and [v.verdict for v in judged][1:] == ["inconclusive"] * 2
        and judged[1].p is None
    )
    assert "No question has a value of groundedness in both b and a; 5 runs failed" in judged[1].sentence()
    for page in (
        verdict_table(study),
        arms_table(study),
        exploratory_table(study),
        compare(a, b)._repr_markdown_(),
        results_table(b),
        diff_table(a, b),
    ):
        assert not re.search(r"\bnan\b|\bNone\b", page, re.I), page


def unanswerable(i, **more):
    "A row of a question without right answers."
    made = row(i, 0.0, **more) | {"correct": None, "scores": {}}
    made["trace"]["attributes"]["expected"] = []
    return made


def test_bounds_of_accuracy_are_over_the_questions_it_is_over(store):
    "Also where some have no right answers: they counted as wrong, and those that failed as if they had."
    known = [row(0, 1.0), row(1, 1.0), row(2, 0.0)]
    rest = [*map(unanswerable, range(4, 8)), unanswerable(8, failed=True)]
    e = stored(store, "a", [*known, row(3, 0.0, failed=True), *rest])
    assert e.estimate("accuracy").value == 0.5
    assert "2 failed; accuracy lies between 0.500 and 0.750" in counts_line(e)
    assert "| 0.750 |" in arms_table(study_of(store, {"a": e, "b": e}))
    assert counts_line(stored(store, "c", [*known, *rest])).endswith("1 failed"), "no failure is scored"


def test_a_question_without_right_answers_on_a_side_is_compared_on_no_score(store):
    both = [row(0, 1.0), row(1, 0.0), unanswerable(2, failed=True)]
    a, b = stored(store, "a", [*both, row(3, 0.0, failed=True)]), stored(store, "b", [*both, row(3, 1.0)])
    assert contrasts.contrast({("", 0): a}, {("", 0): b}, "f1").bounds == pytest.approx((0, 1 / 3))
    a, b = stored(store, "c", [unanswerable(0), row(1, 0.0)]), stored(store, "d", [row(0, 1.0), row(1, 1.0)])
    assert compare(a, b).differences["exact_match"].wins == 1 and "1 improved, 0 reg" in diff_table(a, b)
    assert [f["outcome"] for f in flips(a, b)] == ["improved"]


def test_unknown_is_left_out_and_said(store):
    "A score that failures and abstentions do not have is compared where both have it."
    a = stored(store, "a", [row(i, 0.0, groundedness=0.5) for i in range(10)], SCORER)
    b = stored(
        store,
        "b",
        [
            row(0, 0.0, failed=True),
            row(1, 0.0, abstained=True),
            *(row(i, 0.0, groundedness=0.9) for i in range(2, 10)),
        ],
        SCORER,
    )
    study = study_of(store, {"a": a, "b": b}, claim(metric="groundedness"))
    assert (
        set(values(study, "b", "groundedness")) == {("d", 0, f"q{i}") for i in range(2, 10)}
        and len(values(study, "b", "accuracy")) == 10
    )
    v = verdicts(study)[0]
    assert v.n == 8 and v.contrast.left_out == 2 and "2 pairs left out" in v.sentence()
    assert v.contrast.bounds == pytest.approx(((8 * 0.4 - 0.5) / 9, (8 * 0.4 + 0.5) / 9)), (
        "the failed run is between 0 and 1, the abstention has no claim to judge"
    )


def test_only_fresh_generations_are_timed(store):
    a, b = (
        stored(store, "a", [row(i, 1.0, cached=i < 4) for i in range(10)]),
        stored(store, "b", [row(i, 1.0, cached=i > 7) for i in range(10)]),
    )
    v = verdicts(study_of(store, {"a": a, "b": b}, claim(metric="latency", direction="lower", margin=1.0)))[0]
    assert (v.n, v.contrast.left_out, v.metric) == (4, 6, "latency_ms") and "ms" in v.sentence()


def test_latencies_of_runs_that_overlap_decide_nothing(store):
    rows = lambda ms: [row(i, 1.0) | {"latency_ms": ms + i % 3} for i in range(40)]
    h = claim(metric="latency", direction="lower")
    study = study_of(store, {"a": stored(store, "a", rows(50.0)), "b": stored(store, "b", rows(20.0))}, h)
    alone = verdicts(study)[0]
    assert alone.verdict == "supported" and store.overlapping(study_arm(study, "a").record) == 0
    stored(store, "c", rows(30.0))
    with store.transaction() as c:  # a third was under way all the time
        c.execute(sa.update(EXPERIMENTS).where(EXPERIMENTS.c.name == "c").values(started_at="2000-01-01"))
    v = verdicts(study)[0]
    assert v.verdict == "inconclusive" and v.overlapped and v.effect == alone.effect
    assert "other runs were under way at the same time" in v.sentence()
    assert "another run was under way at the same time" in results_table(study_arm(study, "a"))
    named = {"a": study_arm(study, "a"), "b": study_arm(study, "b")}
    claimed = verdict_on("b < a by 1 on latency", named)
    assert claimed.verdict == "inconclusive" and claimed.overlapped, "so does a claim on the command line"
    assert any("decides nothing" in note for note in compare(*named.values(), ["latency_ms"]).notes)
    right = replace(study, config=study.config.model_copy(update={"hypotheses": (claim(direction="lower"),)}))
    assert not verdicts(right)[0].overlapped, "what is right does not depend on the clock"


def in_batches(i, ms, *names):
    "A row that was answered in these batches."
    made = row(i, 1.0) | {"latency_ms": ms}
    attributes = made["trace"]["attributes"] | {"batches": list(names)}
    return made | {"trace": made["trace"] | {"attributes": attributes}}


def test_latencies_of_one_batch_are_one_draw(store):
    "Forty questions in four batches: by questions the second arm is slower, by batches that is not known."
    slow = {"a": (50.0, 51.0, 52.0, 90.0), "b": (60.0, 95.0, 58.0, 75.0)}
    one_by_one = {
        arm: stored(store, f"{arm}1", [row(i, 1.0) | {"latency_ms": ms[i // 10]} for i in range(40)])
        for arm, ms in slow.items()
    }
    batched = {
        arm: stored(store, f"{arm}2", [in_batches(i, ms[i // 10], f"{arm}-{i // 10}") for i in range(40)])
        for arm, ms in slow.items()
    }
    h = claim(metric="latency", direction="higher")
    plain, v = (verdicts(study_of(store, arms, h))[0] for arms in (one_by_one, batched))
    assert plain.verdict == "supported" and "n = 40)" in plain.sentence()
    assert v.verdict == "inconclusive" and v.effect.value == plain.effect.value and v.contrast.groups == 4
    assert "n = 40 in 4 independent groups" in v.sentence()
    told = "Latencies: 40 questions, answered together in batches, are 4 independent times"
    assert told in results_table(batched["a"]) and "Latencies" not in results_table(one_by_one["a"])
    whole, fine = (e["a"].estimate("latency_p50") for e in (batched, one_by_one))
    assert whole.value == fine.value and whole.high - whole.low > 2 * (fine.high - fine.low)
    assert pooled([batched["a"]], "latency", "p50") == whole
    right = verdicts(study_of(store, batched, claim(direction="higher")))[0]
    assert right.contrast.groups == 40, "what is right does not depend on the batch"


def test_batches_that_overlap_in_turn_decide_nothing(store):
    "Each batch of one arm shares questions with two of the other: all hang together."
    a = stored(store, "a", [in_batches(i, 50.0, f"a-{i // 10}") for i in range(40)])
    b = stored(store, "b", [in_batches(i, 90.0 + i, f"b-{(i + 5) // 10}") for i in range(40)])
    v = verdicts(study_of(store, {"a": a, "b": b}, claim(metric="latency", direction="higher")))[0]
    assert v.verdict == "inconclusive" and "n = 40 in 1 independent group)" in v.sentence()
    e = cost_ratio({("d", 0): a}, {("d", 0): b}, "latency")
    assert (e.low, e.high) == (0.0, math.inf) and "∞" in shown(e, ".2f")


def study_arm(study, arm):
    return Experiment(study.ids[arm, "d", 0], study.store)


def test_p99_of_a_hundred_is_not_shown(store):
    small, large = (stored(store, n, [row(i, 1.0) for i in range(k)]) for n, k in (("a", 299), ("b", 300)))
    assert "latency p95" in results_table(small) and "latency p99" not in results_table(small)
    assert "latency p99" in results_table(large)


# the rule


@pytest.mark.parametrize(
    "name, h, b, expect",
    [
        ("a large gain", claim(min_effect=0.1), binary((80, 1.0), (20, 0.0)), "supported"),
        (
            "a gain that is too small to matter",
            claim(min_effect=0.5),
            binary((80, 1.0), (20, 0.0)),
            "refuted",
        ),
        ("a loss", claim(), binary((20, 1.0), (80, 0.0)), "refuted"),
        ("hardly anything", claim(), binary((52, 1.0), (48, 0.0)), "inconclusive"),
        (
            "hardly anything, where much was claimed",
            claim(min_effect=0.2),
            binary((52, 1.0), (48, 0.0)),
            "refuted",
        ),
        ("the other way round", claim(direction="lower"), binary((20, 1.0), (80, 0.0)), "supported"),
        (
            "a gain where a loss was claimed",
            claim(direction="lower"),
            binary((80, 1.0), (20, 0.0)),
            "refuted",
        ),
        ("no worse", claim(margin=0.1), binary((50, 1.0), (50, 0.0)), "supported"),
        ("much worse", claim(margin=0.1), binary((20, 1.0), (80, 0.0)), "refuted"),
        (
            "no worse, of a cost",
            claim(direction="lower", margin=0.1),
            binary((50, 1.0), (50, 0.0)),
            "supported",
        ),
    ],
)
def test_the_rule(store, name, h, b, expect):
    v = verdict(store, binary((50, 1.0), (50, 0.0)), b, h)
    assert v.verdict == expect, (name, v.sentence())
    assert v.sentence().endswith(f": {expect}")


def test_the_rule_on_intervals():
    "At the edges: an effect of just the least size supports; an interval that touches it does not refute."

    def of(value, low, high, **claimed):
        return decide(Estimate(value, low, high, 100), claim(**claimed))

    assert of(0.1, 0.05, 0.2, min_effect=0.1) == "supported"
    assert of(0.1, -0.01, 0.2, min_effect=0.1) == "inconclusive"
    assert of(0.09, 0.05, 0.2, min_effect=0.1) == "inconclusive"
    assert of(0.05, 0.01, 0.1, min_effect=0.1) == "inconclusive"
    assert of(0.05, 0.01, 0.09, min_effect=0.1) == "refuted"
    assert of(-0.1, -0.2, 0.0) == "inconclusive"
    assert of(-0.1, -0.2, -0.01) == "refuted"
    assert of(-0.1, -0.2, -0.05, direction="lower", min_effect=0.1) == "supported"
    assert of(-0.05, -0.09, 0.0, direction="lower", min_effect=0.1) == "refuted"
    assert of(-0.02, -0.04, 0.0, margin=0.05) == "supported"
    assert of(-0.02, -0.06, 0.02, margin=0.05) == "inconclusive"
    assert of(-0.1, -0.2, -0.06, margin=0.05) == "refuted"
    assert of(0.02, -0.01, 0.04, direction="lower", margin=0.05) == "supported"
    assert of(0.1, 0.06, 0.2, direction="lower", margin=0.05) == "refuted"
    assert decide(Estimate(None, None, None, 0), claim(min_effect=0.1)) == "inconclusive"


def test_ten_ties_refute_nothing(store):
    "Ten questions without a difference do not prove two arms equal; four hundred nearly do."
    small = verdict(store, binary((10, 1.0)), binary((10, 1.0)), claim(min_effect=0.1))
    assert small.verdict == "inconclusive" and small.effect.low < -0.2 and small.effect.high > 0.2
    large = verdict(Store("sqlite://"), binary((400, 1.0)), binary((400, 1.0)), claim(min_effect=0.1))
    assert large.verdict == "refuted" and large.p == 1.0


def test_what_the_sentence_says(store):
    a, b = binary((62, 1.0), (138, 0.0)), binary((40, 1.0), (160, 0.0))
    rows = lambda scores: [
        row(i, 0.0, hallucination_rate=s, faithfulness=1 - s) for i, s in enumerate(scores)
    ]
    scorer = {**SCORER, "name": "faithfulness"}
    study = study_of(
        store,
        {"hybrid": stored(store, "a", rows(a), scorer), "reranked": stored(store, "b", rows(b), scorer)},
        claim(metric="hallucination_rate", treatment="reranked", control="hybrid", direction="lower"),
        claim("H2", "accuracy", "reranked", "hybrid"),
    )
    sentence = verdicts(study)[0].sentence()
    assert re.fullmatch(
        r"reranked − hybrid, the hallucination rate: -11\.0 points \[-\d+\.\d, -\d+\.\d\], claimed below 0 "
        r"\(97\.5% interval, p < \.001, p < \.001 after Holm, n = 200\): supported",
        sentence,
    ), sentence
    assert "accuracy: 0.0 points [" in verdicts(study)[1].sentence()
    one_loss = verdict(Store("sqlite://"), binary((8, 1.0)), binary((7, 1.0), (1, 0.0)), claim())
    assert "-0.0" not in one_loss.sentence()


@pytest.mark.parametrize(
    "h, claimed",
    [
        (dict(min_effect=0.05), "claimed at least +5.0"),
        (dict(min_effect=0.05, direction="lower"), "claimed at most -5.0"),
        (dict(margin=0.05), "claimed at least -5.0"),
        (dict(margin=0.05, direction="lower"), "claimed at most +5.0"),
        (dict(direction="lower"), "claimed below 0"),
    ],
)
def test_a_claim_has_its_sign(store, h, claimed):
    v = verdict(store, binary((50, 1.0), (50, 0.0)), binary((40, 1.0), (60, 0.0)), claim(**h))
    written = v.sentence()
    interval = "[-15.2, -4.4]" if "margin" in h else "[-16.3, -3.3]"
    assert written.startswith(f"b − a, accuracy: -10.0 points {interval}, {claimed} ("), written
    assert v.effect.low < v.effect.value < v.effect.high < 0, "the sign is that of treatment minus control"


@pytest.mark.parametrize("seed", range(8))
def test_interval_corrected_p_and_verdict_agree(store, seed):
    """Whatever the data: the interval excludes 0 (for a margin: lies above it) exactly where the corrected p
    is at most alpha, and no verdict is supported without both."""
    rng = np.random.default_rng(seed)
    arms = {f"a{i}": rng.random(60) < 0.3 + 0.12 * i for i in range(4)}
    ids = {
        arm: stored(store, arm, [row(i, float(x), gold=[f"p{i // 2}"]) for i, x in enumerate(scores)])
        for arm, scores in arms.items()
    }
    claims = [
        claim(f"H{i}", "accuracy", f"a{i}", "a0", **more)
        for i, more in ((1, {}), (2, dict(min_effect=0.1)), (3, dict(margin=0.1)))
    ]
    for v in verdicts(study_of(store, ids, *claims)):
        h, e = v.hypothesis, v.effect
        beyond = e.low > -h.margin if h.margin else e.low > 0 or e.high < 0
        assert beyond == (v.p_adjusted <= 0.05), v.sentence()
        assert v.verdict != "supported" or beyond


def test_holm_over_the_family(store):
    "Every hypothesis counts, also one that cannot be tested; by itself the first would pass."
    a, b = binary((50, 1.0), (50, 0.0)), binary((50, 1.0), (7, 1.0), (1, 0.0), (42, 0.0))
    a[99], b[99] = 1.0, 0.0
    alone = verdicts(pair(store, a, b, claim()))[0]
    many = verdicts(
        pair(
            Store("sqlite://"),
            a,
            b,
            *(claim(f"H{i}", m) for i, m in enumerate(["accuracy", "f1", "groundedness"])),
        )
    )
    assert alone.p_adjusted == alone.p < 0.1
    assert (
        many[0].p_adjusted == pytest.approx(min(1, 3 * alone.p))
        and many[1].p_adjusted == pytest.approx(many[0].p_adjusted)
        and many[2].p_adjusted is None
    )
    loose = verdicts(pair(Store("sqlite://"), a, b, claim(), claim("H2", "f1"), correction="none"))
    assert loose[0].p_adjusted == loose[0].p


def test_a_changed_plan_and_a_late_one(store):
    better = binary((80, 1.0), (20, 0.0))
    study = pair(store, binary((50, 1.0), (50, 0.0)), better, claim(), claim("H2", min_effect=0.5))
    changed = replace(study, tampered=("study.hypotheses.0.min_effect: was 0.1, is 0.0",))
    assert (
        {v.verdict for v in verdicts(changed)} == {"tampered"}
        and "**Tampered" in verdict_table(changed)
        and all(v.sentence().endswith(": tampered") for v in verdicts(changed))
    )
    assert {v.verdict for v in verdicts(replace(study, frozen=replace(FROZEN, plan_hash="0" * 16)))} == {
        "tampered"
    }, "the frozen plan itself was edited"
    late = replace(study, late=(study.ids["b", "d", 0],))
    assert verdicts(late)[0].sentence().endswith(": supported (post hoc)") and "post hoc" in verdict_table(
        late
    )
    assert not any(v.post_hoc for v in verdicts(study))
    assert all(v.post_hoc for v in verdicts(replace(study, frozen=None))) and "never frozen" in verdict_table(
        replace(study, frozen=None)
    )


# what belongs together


def test_questions_on_one_passage_are_one_group(store):
    assert shared_passage(
        {"q1": ["p"], "q2": ["p"], "q3": ["r", "p"], "q4": ["r"], "q5": [], "q6": ["s"]}
    ) == {"q1": "p", "q2": "p", "q3": "p", "q4": "r", "q5": "q5", "q6": "s"}
    rows = lambda scores: [row(i, s, gold=[f"p{i // 10}"]) for i, s in enumerate(scores)]
    a, b = (
        stored(store, "a", rows(binary((50, 1.0), (50, 0.0)))),
        stored(store, "b", rows(binary((70, 1.0), (30, 0.0)))),
    )
    study = study_of(store, {"a": a, "b": b}, claim())
    label = groups(study)
    assert len(label) == 100 and len(set(label.values())) == 10
    v = verdicts(study)[0]
    assert (
        v.contrast.groups == 10 and v.contrast.paired.test == "grouped t" and v.verdict == "inconclusive"
    ), "two passages, not twenty questions, speak for b"


def test_seeds_repeat_questions_and_do_not_multiply_them(store):
    rows = lambda right: [row(i, float(i < right)) for i in range(40)]
    es = {
        (arm, "d", seed): stored(store, f"{arm}{seed}", rows(n))
        for arm, n in [("a", 20), ("b", 23)]
        for seed in range(4)
    }
    study = study_of(store, {a: es[a, "d", 0] for a in "ab"}, claim())
    study = replace(study, ids={k: e.id for k, e in es.items()})
    v = verdicts(study)[0]
    assert (v.n, v.contrast.questions, v.contrast.groups) == (
        160,
        40,
        40,
    ) and "n = 160, 40 questions" in v.sentence()
    assert v.p == pytest.approx(
        verdicts(replace(study, ids={k: i for k, i in study.ids.items() if k[2] == 0}))[0].p, abs=0.03
    ), "four times the same says no more than once"
    assert "| 160 | 160 |" in arms_table(study)


def test_a_question_in_two_data_sets_is_one_question(store):
    "Asked again with other documents, say; it says no more than once about whether b is better."
    rows = lambda right: [row(i, float(i < right)) for i in range(60)]
    es = {(arm, d, 0): stored(store, f"{arm}{d}", rows(n)) for arm, n in [("a", 20), ("b", 33)] for d in "de"}
    once = study_of(store, {a: es[a, "d", 0] for a in "ab"}, claim())
    plan = once.config.model_copy(update={"datasets": {"d": {}, "e": {}}})
    twice = replace(once, config=plan, ids={k: e.id for k, e in es.items()})
    one, two = verdicts(once)[0], verdicts(twice)[0]
    assert (two.n, two.contrast.questions, two.contrast.groups) == (120, 60, 60)
    assert "n = 120, 60 questions" in two.sentence() and two.p == pytest.approx(one.p, abs=0.01)


# what cannot be compared


def test_other_questions_are_refused(store):
    a, b = stored(store, "a", [row(0, 1.0)], data="one"), stored(store, "b", [row(0, 1.0)], data="two")
    for attempt in (
        lambda: compare(a, b),
        lambda: verdicts(study_of(store, {"a": a, "b": b}, claim())),
        lambda: diff_table(a, b),
    ):
        with pytest.raises(StoreError, match="their questions differ"):
            attempt()


@pytest.mark.parametrize("change", [{"version": "2"}, {"name": "faithfulness"}, {"threshold": 0.7}])
def test_other_scorers_are_refused(store, change):
    rows = [row(i, float(i % 2), groundedness=0.5, ungrounded_rate=0.0) for i in range(6)]
    a, b = stored(store, "a", rows, SCORER), stored(store, "b", rows, {**SCORER, **change})
    with pytest.raises(StoreError, match="different scorers"):
        compare(a, b)
    with pytest.raises(StoreError, match="different scorers"):
        verdicts(study_of(store, {"a": a, "b": b}, claim(metric="ungrounded_rate")))
    assert set(compare(a, b, metrics=["exact_match"]).differences) == {"exact_match"}
    assert verdicts(study_of(store, {"a": a, "b": b}, claim()))[0].n == 6, (
        "a hypothesis on accuracy does not mind"
    )
    plain = compare(a, stored(store, "c", [row(i, 1.0) for i in range(6)]))
    assert set(plain.differences) == {"exact_match", "f1", "contains"} and any(
        "only one of the two" in n for n in plain.notes
    )


def test_names_that_are_not_there(store):
    a = stored(store, "a", [row(i, 1.0) for i in range(4)])
    with pytest.raises(StoreError, match="no question with 'exact_mach'.*did you mean 'exact_match'"):
        compare(a, a, metrics=["exact_mach"])
    with pytest.raises(StoreError, match="no experiments of arm 'c'; arms: a, b"):
        values(study_of(store, {"a": a, "b": a}), "c", "accuracy")
    study = study_of(store, {"a": a, "b": a}, claim())
    with pytest.raises(StoreError, match="one arm only"):
        verdicts(replace(study, ids={("a", "d", 0): a.id, ("b", "d", 1): a.id}))
    with pytest.raises(StoreError, match="calls exact_match accuracy"):
        verdicts(
            study_of(
                store,
                {"a": a, "b": stored(store, "g", [row(i, 1.0) for i in range(4)], accuracy="f1")},
                claim(),
            )
        )


def test_what_is_not_done_or_was_normalised_otherwise(store):
    a = stored(store, "a", [row(i, 1.0) for i in range(4)])
    config = a.config.model_dump(mode="json")
    open_ = Experiment(store.create_experiment("open", "open", config, "data"), store)
    for attempt in (
        lambda: compare(a, open_),
        lambda: values(study_of(store, {"a": a, "b": open_}), "b", "f1"),
        lambda: verdict_table(study_of(store, {"a": a, "b": open_}, claim("H1", "f1"))),
    ):
        with pytest.raises(StoreError, match="open is PENDING; only a completed experiment"):
            attempt()
    id = store.create_experiment(
        "other", "other", config | {"metrics": config["metrics"] | {"normalization": "trivia_qa"}}, "data"
    )
    lease = store.claim(id)
    store.add_rows(lease, [row(i, 1.0) for i in range(4)])
    store.complete(lease, result_row(summarise(store.rows(id), a.config)), {})
    with pytest.raises(StoreError, match="normalised differently"):
        compare(a, Experiment(id, store))


# texts from anywhere

HOSTILE = "<script>alert(1)</script> | `x` **b** [l](javascript:x) \n\n# head ![i](x)"


def test_hostile_texts_stay_texts(store):
    "Questions, answers, expectations, passage titles, claims: whatever they hold, a table stays a table."
    bad = row(0, 0.0, text=HOSTILE, answer=HOSTILE)
    bad["trace"]["attributes"]["expected"] = [HOSTILE]
    bad["trace"]["children"] = [
        {"kind": "retriever", "name": HOSTILE, "output": [{"id": HOSTILE, "title": HOSTILE}]},
        {"kind": "llm", "name": "x", "error": HOSTILE},
    ]
    worse = row(1, 0.0, failed=True, text=HOSTILE) | {"error_type": HOSTILE, "error": HOSTILE}
    a, b = (
        stored(store, "a", [row(0, 1.0, text=HOSTILE, answer=HOSTILE), row(1, 1.0)]),
        stored(store, "b", [bad, worse]),
    )
    study = study_of(
        store,
        {"a": a, "b": b},
        Hypothesis(id="H1", claim=HOSTILE, metric="accuracy", treatment="b", control="a"),
        tampered=(HOSTILE,),
        exploratory=("f1",),
    )
    for page in (
        diff_table(a, b),
        worst_examples(b),
        verdict_table(study),
        arms_table(study),
        exploratory_table(study),
    ):
        assert "<script" not in page and "](" not in page and "`x`" not in page and "\n# head" not in page
        for block in re.findall(r"(?:^\|.*\n?)+", page, re.M):
            assert len({line.count("|") for line in block.splitlines()}) == 1, block


def test_what_a_trace_line_shows():
    r = row(0, 0.0, gold=["docs/a"])
    r["trace"]["children"] = [
        {
            "kind": "retriever",
            "name": "hybrid",
            "output": [{"id": "docs/b#0", "title": "B"}, {"id": "docs/a#3", "title": "A"}],
        },
        {"kind": "reranker", "name": "maxsim", "output": [{"id": "docs/a#3", "title": "A"}]},
        {"kind": "llm", "name": "fake"},
    ]
    assert trace_line(r) == "hybrid: B, A ✓ → maxsim: A ✓ → llm"
    assert trace_line(row(0, 0.0, failed=True)) == "✗ EngineError"


def test_diff_table_sorts_the_questions(store):
    a, b = (
        stored(store, "a", [row(i, s) for i, s in enumerate([0, 0, 1, 0, 1, 1])]),
        stored(store, "b", [row(i, s) for i, s in enumerate([1, 1, 0, 0, 1, 1])]),
    )
    page = diff_table(a, b, 1)
    assert (
        "2 improved, 1 regressed, 1 both wrong, 2 both right" in page
        and "| improved |" in page
        and "q0" in page
        and "q1" not in page
    )


# a rate and its card


def test_a_rate_stands_as_the_scorer_gave_it_beside_the_card(store):
    e = Estimate(0.8, 0.7, 0.9, 2000)
    card = Card(
        "groundedness",
        "1",
        0.5,
        "2026-01-01",
        {},
        (Measure("Almanac", "unsupported claim", 2000, 1000, e, e, e, (800, 1000), (800, 1000), (), {}),),
    ).to_dict()
    rows = [row(i, 0.0, groundedness=0.5, ungrounded_rate=float(i < 26)) for i in range(100)]
    e, plain, other = (
        stored(store, "a", rows, {**SCORER, "card": card}),
        stored(store, "b", rows, SCORER),
        stored(store, "c", rows, {**SCORER, "threshold": 0.7, "card": card}),
    )
    page = arms_table(study_of(store, {"a": e, "b": e}))
    assert "0.260 [" in page and page.count("Judged by groundedness, version 1") == 1
    assert "finds 800 of 1000" in page and "finds 800 of 1000" in results_table(e)
    for text in (page, results_table(e)):
        assert "corrected" not in text, "the card's claims are not this experiment's answers"
    assert "no metric card" in results_table(plain)
    assert "no metric card" in arms_table(study_of(store, {"a": plain, "b": e}))
    assert "The card was measured at 0.5." in results_table(other)


# the same rows, the same words


def test_the_same_to_the_last_digit(store):
    "Two stores, rows written in another order: every digit of every table is equal."

    def pages(store, order):
        rows = lambda f: [
            row(i, f(i), gold=[f"p{i // 3}"], groundedness=(i * 7 % 11) / 11 * f(i)) for i in order
        ]
        a, b, c = (
            stored(store, n, rows(f), SCORER)
            for n, f in [
                ("a", lambda i: float(i % 3 == 0)),
                ("b", lambda i: (i % 5) / 4),
                ("c", lambda i: float(i % 2)),
            ]
        )
        study = study_of(
            store,
            {"a": a, "b": b, "c": c},
            claim(),
            claim("H2", "groundedness", "c", "a", margin=0.1),
            exploratory=("f1", "groundedness"),
        )
        return [
            repr(verdicts(study)),
            verdict_table(study),
            arms_table(study),
            exploratory_table(study),
            compare(a, b)._repr_markdown_(),
            diff_table(a, b),
        ]

    assert pages(store, range(60)) == pages(Store("sqlite://"), range(59, -1, -1))


# pictures


def test_pictures_of_what_is_missing(store):
    "An arm of which everything failed, one never timed, a hypothesis with nothing to compare: all drawn."
    from llmforge.plots import ablation_curve, arms_plot, heatmap, pareto, pareto_plot, verdict_plot

    whole, gone, known = (
        [row(i, float(i % 2)) for i in range(9)],
        [row(i, 0.0, failed=True) for i in range(9)],
        [row(i, 1.0, cached=True) for i in range(9)],
    )
    study = study_of(
        store,
        {"a": stored(store, "a", whole), "b": stored(store, "b", gone), "c": stored(store, "c", known)},
        claim(),
        claim("H2", "latency"),
        claim("H3", "latency", "c"),
    )

    def texts(fig):
        return " ".join(t.get_text() for t in fig.findobj(lambda x: hasattr(x, "get_text")))

    figures = [
        verdict_plot(study),
        heatmap(study, "latency"),
        pareto_plot(study),
        arms_plot(study, "tokens_out"),
        ablation_curve(study, "groundedness"),
        ablation_curve(study),
        verdict_plot(replace(study, tampered=("x",))),
    ]
    for fig in figures:
        fig.canvas.draw()
        assert not re.search(r"\bnan\b|\bNone\b", texts(fig))
    assert (
        "nothing to compare" in texts(figures[0])
        and "nothing measured: b, c" in texts(figures[2])
        and "no value" in texts(figures[3])
        and "tampered" in texts(figures[-1])
    )
    assert verdict_plot(study_of(store, {"a": Experiment("a", store), "b": Experiment("c", store)})) is None
    assert pareto({"a": (1, 0.5), "b": (2, 0.5), "c": (2, 0.7), "d": (1, 0.4), "e": (9, 0.6)}) == ["a", "c"]
    assert pareto({"a": (2, 0.5), "b": (1, 0.3), "c": (2, 0.5), "d": (2, 0.4)}) == ["b", "a", "c"], "equal"


def test_a_curve_over_two_settings_has_a_place_for_each_arm(store):
    "Their last numbers repeat, so that arms stood on top of each other."
    from llmforge.plots import ablation_curve

    e = stored(store, "a", [row(i, float(i % 2)) for i in range(4)])
    places = lambda *arms: list(ablation_curve(study_of(store, dict.fromkeys(arms, e))).axes[0].get_xticks())
    assert places("k=1-n=0", "k=1-n=2", "k=8-n=0", "k=8-n=2") == [0, 1, 2, 3]
    assert places("k=1", "k=2", "k=8") == places("1", "2", "8") == [1, 2, 8]


def test_levels_and_counts_as_they_are(store):
    "No interval has a level of 100%, a picture names the level that its table names, and one is no plural."
    from llmforge.plots import score_plot

    assert [percent(x) for x in (0.95, 1 - 0.05 / 3, 0.9999, 1 - 1e-6, 1)] == [
        "95%",
        "98.3%",
        "99.99%",
        "99.9999%",
        "100%",
    ]
    assert [p_text(p) for p in (0.9994, 0.9995)] == ["p = .999", "p = 1"]
    a = stored(store, "a", [row(i, 1.0) for i in range(4)], confidence=0.975)
    assert "97.5% interval" in score_plot(a).axes[0].get_xlabel()
    b = stored(store, "b", [row(i, 1.0, failed=i == 0) for i in range(4)])
    assert "; 1 run failed, so" in verdicts(study_of(store, {"a": a, "b": b}, claim()))[0].sentence()


def test_a_claim_about_two_experiments_names_no_data_set(store):
    a, b = (stored(store, name, [of_kind(i, 0.0, "two_hop") for i in range(4)]) for name in "ab")
    assert verdict_on("b > a", {"a": a, "b": b}).floor.endswith("near 0 on two_hop")
    with pytest.raises(StoreError, match="both experiments are a"):
        choices_between(a, Experiment(a.id, store))
    with pytest.raises(ConfigError, match="b and a are the same answers"):
        verdict_on("b > a", {"a": a, "b": Experiment(a.id, store)})


# agents

AGENT = {
    "agent": {"choice": "calibrated", "tools": ["calculator", "retrieval"]},
    "stop_reasons": {"final": 3, "max_steps": 1},
}


def acted(i, score, calls=0, wrong=0, first=None, forced=0.0, kind="", tokens=(100, 20), **more):
    "A row of an agent."
    known = {} if first is None else {"first_tool": first}
    made = row(
        i, score, steps=calls + 1, tool_calls=calls, failed_calls=wrong, forced=forced, **known, **more
    ) | dict(zip(("tokens_in", "tokens_out"), tokens))
    made["trace"]["attributes"]["kind"] = kind
    return made


def of_kind(i, score, kind, **more):
    made = row(i, score, **more)
    made["trace"]["attributes"]["kind"] = kind
    return made


def lines(page):
    return {
        cells[0].strip(): [c.strip() for c in cells[1:]]
        for line in page.splitlines()
        if line.startswith("|")
        for cells in [line.strip("| ").split(" | ")]
    }


def test_what_an_agent_did(store):
    "Five questions counted by hand: one failed, whose calls are unknown and whose tokens were spent."
    rows = [
        acted(0, 1.0, 2, 1, first=1.0),
        acted(1, 1.0, 1, 0, first=0.0),
        acted(2, 0.0, 3, 1, forced=1.0),
        acted(3, 0.0, 0),
        acted(4, 1.0, 9, 9, first=1.0, failed=True),
    ]
    e = stored(store, "a", rows, more=AGENT)
    numbers = lines(agent_table(e))
    assert numbers["success rate"][0] == "0.400" and numbers["success rate"][3] == "5"
    assert (
        numbers["tool calls a question"][0] == "1.50"
        and numbers["failed calls, of all calls"][0] == "0.333"
        and numbers["failed calls, of all calls"][3] == "6"
    ), "n is calls"
    assert (
        numbers["steps a question"][0] == "2.50"
        and numbers["forced answers"][0] == "0.250"
        and numbers["first tool right"][0::3] == ["0.500", "2"]
    )
    assert numbers["tokens a question"][0::3] == ["120.0", "4"] and numbers["tokens a right answer"][
        0::3
    ] == [
        "300.0",
        "5",
    ], "600 tokens for two right answers, the failed question's among them"
    page = results_table(e)
    assert (
        agent_table(e) in page
        and "calibrated choice among calculator, retrieval" in page
        and "Stopped by: 3 final, 1 max steps." in page
        and "5 attempted, 4 answered, 0 abstained, 1 failed" in page
    )
    assert "\n| steps |" not in page and "\n| tool calls |" not in page, (
        "what the agent's table says is not said twice"
    )
    plain = stored(store, "b", [row(i, 1.0) for i in range(5)])
    assert agent_table(plain) == "" and "gent" not in results_table(plain)


def test_the_choice_is_named_wherever_an_agent_is_listed(store):
    agent, plain = (
        stored(store, "agent", [acted(i, float(i % 2), 1) for i in range(8)], more=AGENT),
        stored(store, "plain", [row(i, float(i % 3 > 0)) for i in range(8)]),
    )
    study = study_of(
        store,
        {"plain": plain, "react": agent},
        claim(treatment="react", control="plain"),
        exploratory=("f1", "tokens"),
    )
    named = "react &#40;calibrated choice&#41;"
    for page in (
        arms_table(study),
        verdict_table(study),
        exploratory_table(study),
        costs_table(study),
        agent_arms_table(study),
        trade_off(study, "react", "plain")._repr_markdown_(),
        interaction(study, "react", "plain")._repr_markdown_(),
    ):
        assert named in page and "plain &#40;" not in page, page
    assert agent_arms_table(study) in arms_table(study) and "plain" not in agent_arms_table(study)
    assert "agent (calibrated choice): 8 attempted" in unescape(compare(plain, agent)._repr_markdown_())
    assert agent_arms_table(study_of(store, {"a": plain, "b": plain})) == ""
    other = stored(store, "other", [acted(i, 0.0, 1) | {"answer": "y"} for i in range(8)], more=AGENT)
    fast = study_of(store, {"react": agent, "fast": other})
    ms = dict.fromkeys(("p50", "p95", "p99"), 9.0)
    timed = [
        Round(arm, "d", 0, "", 8, 0, 1.0, 1.0, None, ms, ms, ms, 0.0, None, None, None, 0.0)
        for arm in fast.config.arms
    ]
    legend = front_plot(fast, timed).axes[0].get_legend().get_texts()
    assert [t.get_text() for t in legend] == [
        "1  react (calibrated choice)",
        "2  fast (calibrated choice) ≠",
    ]
    for name, method in [
        ("r", {"name": "react", "agent": {"choice": "oracle"}}),
        ("n", {"name": "naive", "agent": {"choice": "free"}}),
    ]:
        store.create_experiment(name, name, plain.record.config_json | {"method": method}, "data")
    assert (
        "| react (oracle choice) |" in experiments_table(store)
        and experiments_table(store).count("choice)") == 1
    )


def test_an_agent_of_which_everything_failed(store):
    "No call, no step, no right answer: dashes, and no number out of nothing."
    gone, idle = (
        stored(
            store, "a", [acted(i, 0.0, 1, failed=True) for i in range(5)], more=AGENT | {"stop_reasons": {}}
        ),
        stored(store, "b", [acted(i, 0.0) for i in range(5)], more=AGENT),
    )
    study = study_of(store, {"gone": gone, "idle": idle})
    for page in (
        agent_table(gone),
        agent_table(idle),
        agent_arms_table(study),
        costs_table(study),
        trade_off(study, "gone", "idle")._repr_markdown_(),
        interaction(study, "gone", "idle")._repr_markdown_(),
    ):
        assert not re.search(r"\bnan\b|\bNone\b|\binf\b", page, re.I), page
    assert (
        "failed calls" not in agent_table(idle)
        and lines(agent_table(idle))["tokens a right answer"][0] == "–"
        and "not recorded" in agent_table(gone)
    )
    assert (
        "its tokens were not counted in both" in trade_off(study, "gone", "idle").sentence()
        and "5 runs failed" in trade_off(study, "gone", "idle").sentence()
    )


# what it costs


def test_a_ratio_of_sums():
    over, under = {i: 10.0 + i for i in range(40)}, {i: float(i % 4 == 0) for i in range(40)}
    r = ratio(over, under)
    assert (
        r.value == pytest.approx(sum(over.values()) / 10)
        and r.low < r.value < r.high
        and r.n == 40
        and r == ratio(over, under)
    )
    back = ratio(under, over)
    assert (1 / back.high, 1 / back.low) == pytest.approx((r.low, r.high), rel=0.02), (
        "the interval of the inverse is the inverse of the interval"
    )
    wide = ratio(over, under, {i: i // 5 for i in over})
    assert wide.high - wide.low != r.high - r.low and ratio({0: 5.0}, {0: 2.0}).value == 2.5
    assert ratio(over, dict.fromkeys(over, 0.0)).value is None and ratio({}, {}).n == 0
    rare = ratio(over, {i: float(i == 0) for i in over})
    assert rare.high == float("inf") and shown(rare, ".0f").endswith("∞)")


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_a_ratio_of_few_groups_may_be_anything(groups):
    "The range of k groups misses their median in 1 of 2 ** (k - 1): of two data sets it is no interval."
    over, under = {i: 10.0 + i for i in range(40)}, dict.fromkeys(range(40), 1.0)
    r = ratio(over, under, {i: i % groups for i in over})
    assert r.value == 29.5 and (r.low, r.high) == (0.0, math.inf)
    enough = ratio(over, under, {i: i % 6 for i in over})
    assert 0 < enough.low < 29.5 < enough.high < math.inf
    assert ratio(over, under, {i: i % 5 for i in over}, confidence=0.9).high < math.inf


def test_the_interval_of_a_ratio_holds_the_truth():
    "Tokens a right answer, 60 questions, 300 times: the interval holds the true ratio in about 95%."
    rng = np.random.default_rng(3)

    def holds(seed):
        right = rng.random(60) < 0.4
        tokens = rng.gamma(4, 25, 60) * (1 + right)
        r = ratio(dict(enumerate(tokens)), dict(enumerate(right.astype(float))), resamples=500, seed=seed)
        return r.low <= 100 * 1.4 / 0.4 <= r.high

    assert 0.90 <= np.mean([holds(seed) for seed in range(300)]) <= 0.985


def test_costs_of_every_arm(store):
    "Prices beside accuracy, as multiples of the first arm, over what was measured in both."
    a = stored(store, "a", [row(i, float(i < 5)) for i in range(10)])
    b = stored(store, "b", [row(i, float(i < 2), cached=True) | {"tokens_in": 36} for i in range(10)])
    page = costs_table(study_of(store, {"a": a, "b": b}))
    first, second = lines(page)["a"], lines(page)["b"]
    assert (
        first[:3] == ["d", "10", "0"]
        and first[4:7] == ["12.0 [12.0, 12.0]", "1", first[6]]
        and first[6].startswith("24.0 [")
    )
    assert (
        second[5] == "3.17 [3.17, 3.17]" and second[6].startswith("190.0 [") and second[7:] == ["–", "–"]
    ), "38 of 12 tokens; 380 tokens for 2; nothing timed"
    assert "latency" not in costs_table(study_of(store, {"a": a, "b": b}), latency=False)


def test_tokens_that_were_not_counted(store):
    "The logs of another harness have no tokens: dashes, and the sentence says so."
    bare = [row(i, float(i % 2)) for i in range(6)]
    config = load_config({"experiment": {"name": "log", "engine": "fake", "dataset": {"name": "meridia"}}})
    id = store.create_experiment("log", "log", config.model_dump(mode="json"), "data")
    lease = store.claim(id)
    store.add_rows(lease, [r | {"tokens_in": None, "tokens_out": None} for r in bare])
    store.complete(lease, result_row(summarise(bare, config)), {})
    study = study_of(store, {"a": stored(store, "a", bare), "b": Experiment(id, store)})
    assert (
        lines(costs_table(study))["b"][4:7] == ["–", "–", "–"]
        and "its tokens were not counted in both" in trade_off(study, "b", "a").sentence()
    )


@pytest.mark.parametrize(
    "b, sentence",
    [
        (
            binary((90, 1.0), (10, 0.0)),
            r"b − a, accuracy: \+40\.0 points \[\+\d+\.\d, \+\d+\.\d\]; "
            r"costs 5\.00 \[5\.00, 5\.00\] times the tokens "
            r"\(1\.00 \[1\.00, 1\.00\] times the latency\); 95% intervals, n = 100",
        ),
        (
            binary((20, 1.0), (80, 0.0)),
            r"b − a, accuracy: -30\.0 points \[-\d+\.\d, -\d+\.\d\]; costs 5\.00 .*",
        ),
        (
            binary((48, 1.0), (52, 0.0)),
            r"b − a, accuracy: -2\.0 points \[-\d+\.\d, \+\d+\.\d\]; "
            r"costs 5\.00 .*",
        ),
    ],
)
def test_the_finding_in_one_sentence(store, b, sentence):
    a = [row(i, s) for i, s in enumerate(binary((50, 1.0), (50, 0.0)))]
    study = study_of(
        store,
        {
            "a": stored(store, "a", a),
            "b": stored(
                store, "b", [row(i, s) | {"tokens_in": 50, "tokens_out": 10} for i, s in enumerate(b)]
            ),
        },
    )
    written = trade_off(study, "b", "a").sentence()
    assert re.fullmatch(sentence, written), written
    assert "0.20 [0.20, 0.20] times the tokens" in trade_off(study, "a", "b").sentence()
    assert "×" in trade_off(study, "b", "a")._repr_markdown_() and not trade_off(study, "b", "a").parts
    with pytest.raises(StoreError, match="no experiments of arm 'c'"):
        trade_off(study, "c", "a")


def test_pooled_and_for_each_data_set(store):
    "One failure in one data set: the sentence says how many were timed, and that it counts as wrong."

    def arm(name, **more):
        return {
            d: stored(
                store,
                f"{name}{d}",
                [row(i, float(i % 2), failed=i == 23 and name == "b", **more) for i in asked],
                data=d,
            )
            for d, asked in (("x", range(20)), ("y", range(20, 40)))
        }

    es = {"a": arm("a"), "b": arm("b")}
    study = study_of(store, {"a": es["a"]["x"], "b": es["b"]["x"]})
    study = replace(study, ids={(a, d, 0): e.id for a, by in es.items() for d, e in by.items()})
    t = trade_off(study, "b", "a")
    assert (
        [p.on for p in t.parts] == ["x", "y"]
        and t.on == ""
        and (t.gain.paired.n, t.parts[0].gain.paired.n) == (40, 20)
    )
    assert (
        t.sentence().endswith("; 95% intervals, n = 40; 1 run failed (counted as wrong)")
        and "over the 39 questions timed in both" in t.sentence()
        and "failed" not in t.parts[0].sentence()
    )
    page = t._repr_markdown_()
    assert "| all | 40 |" in page and "| x | 20 |" in page and page.count("- x: ") == 1


# for which questions


@pytest.mark.parametrize(
    "kinds, differ",
    [
        ((4, 40), (0.5, 0.1)),
        ((3, 60), (0.8, 0.05)),
        ((3, 3, 30, 30), (0.6, 0.6, 0.1, 0.1)),
        ((10, 100), (0.5, 0.05)),
        ((40, 40), (0.5, 0.05)),
        ((60, 60), (0.3, 0.3)),
    ],
)
@pytest.mark.parametrize("gain", [0, 0.9])
def test_the_test_of_labels_keeps_its_level(kinds, differ, gain):
    "1,000 studies without any dependence, the arms equal or far apart: at most 5% are called one."
    rng, alarms = np.random.default_rng(11), 0
    labels = np.repeat(np.arange(len(kinds)), kinds)
    for _ in range(1000):
        mean = gain * min(differ)
        d = [
            rng.choice([1, -1, 0], n, p=[(q + mean) / 2, (q - mean) / 2, 1 - q])
            for n, q in zip(kinds, differ)
        ]
        alarms += label_test(np.concatenate(d), labels)[0] <= 0.05
    assert alarms / 1000 <= 0.065


def test_the_test_of_labels_keeps_its_level_in_groups():
    "Questions of a group go together; a group may have questions of several kinds."
    rng, alarms = np.random.default_rng(12), 0
    for _ in range(1000):
        kinds, groups = rng.choice(list("abc"), 120, p=[0.6, 0.3, 0.1]), rng.integers(0, 40, 120)
        d = np.sign(rng.normal(size=120)[groups] + rng.normal(size=120)) * (rng.random(120) < 0.4)
        alarms += label_test(d, kinds, groups)[0] <= 0.05
    assert alarms / 1000 <= 0.065


def test_the_test_of_labels_sees_a_dependence():
    rng, seen = np.random.default_rng(12), 0
    for _ in range(200):
        kinds = rng.choice(list("abc"), 120, p=[0.6, 0.3, 0.1])
        seen += label_test(rng.random(120) < np.where(kinds == "b", 0.4, 0.05), kinds)[0] <= 0.05
    assert seen / 200 > 0.8, "a gain of 40% on one kind in three is found"


def test_welchs_test_is_that_of_statsmodels():
    "With the imagined groups written out, as statsmodels has it for means of unequal variance."
    from statsmodels.stats.oneway import anova_oneway

    rng = np.random.default_rng(13)
    d, labels = rng.choice([-1.0, 0.0, 1.0], 60), np.repeat([0, 1, 2], 20)
    size = np.sqrt(np.mean(d[d != 0] ** 2))
    kinds = [np.r_[d[labels == k] - d.mean(), size, -size] for k in range(3)]
    known = anova_oneway(kinds, use_var="unequal", welch_correction=True)
    assert label_test(d, labels) == (pytest.approx(known.pvalue, rel=1e-6), 60)


def test_the_test_of_labels_at_its_edges():
    d, kinds = [1.0, 0.0, -1.0, 1.0, 0.0, 0.0], list("aabbcc")
    assert label_test(d, kinds)[1] == 6
    assert label_test(d, ["a"] * 6) == (None, 6) and label_test([], []) == (None, 0)
    assert label_test([0.5] * 4, list("aabb")) == (pytest.approx(1.0), 4)
    assert label_test(d, kinds, groups=[0, 0, 1, 1, 2, 2])[1] == 3


def test_interaction_by_kind(store):
    "The treatment gains on two-hop questions, loses on others; no kind: the data set's label."
    kinds = ["two_hop"] * 40 + ["lookup"] * 40 + [""] * 20
    a = stored(store, "a", [of_kind(i, float(i % 2), k) for i, k in enumerate(kinds)])
    b = stored(
        store,
        "b",
        [
            of_kind(i, 1.0 if k == "two_hop" else float(i % 4 == 1), k, failed=i == 99)
            for i, k in enumerate(kinds)
        ],
    )
    study = study_of(store, {"a": a, "b": b}, claim())
    by_kind = interaction(study, "b", "a")
    assert {k: (c.paired.n, c.effect.value) for k, c in by_kind.kinds.items()} == {
        "two_hop": (40, 0.5),
        "lookup": (40, -0.25),
        "d": (20, -0.25),
    } and list(by_kind.kinds)[0] == "two_hop"
    assert (
        by_kind.p < 0.001
        and "b and a depends on the kind of question (p < .001" in by_kind.sentence()
        and "from +50.0 points on two hop (n = 40)" in by_kind.sentence()
    )
    assert by_kind.p == interaction(study, "b", "a").p and by_kind.whole.paired.n == 100
    page = by_kind._repr_markdown_()
    assert (
        "| two hop | 0.500 | 1.000 | +0.500 |" in page
        and "| **all** | 0.500 |" in page
        and page.count("| 0 | 1 |") >= 2
    ), "the failure is said for its kind and for all"
    same = interaction(study, "a", "a")
    assert (
        same.p == 1.0
        and "is not shown to depend" in same.sentence()
        and interaction(study, "b", "a", "tokens").p == 1.0
    )
    alone = stored(store, "c", [row(i, 1.0) for i in range(6)])
    assert "all of one kind" in interaction(study_of(store, {"a": alone, "b": alone}), "b", "a").sentence()
    for one in (
        by_kind,
        interaction(study, "b", "a", "tokens"),
        interaction(study_of(store, {"a": alone, "b": alone}), "b", "a"),
    ):
        from llmforge.plots import interaction_plot

        fig = interaction_plot(one)
        fig.canvas.draw()
        assert not re.search(
            r"\bnan\b|\bNone\b", " ".join(x.get_text() for x in fig.findobj(lambda x: hasattr(x, "get_text")))
        )


def test_kinds_are_those_that_a_side_knows(store):
    "An import may know none; which of the two is the control makes no difference."
    a = stored(store, "a", [of_kind(i, 0.0, "") for i in range(8)])
    b = stored(store, "b", [of_kind(i, float(i % 2), "x" if i % 2 else "y") for i in range(8)])
    study = study_of(store, {"a": a, "b": b})
    there, back = interaction(study, "b", "a"), interaction(study, "a", "b")
    assert list(there.kinds) == ["x", "y"] and there.p == back.p < 1
    for text in ("b > a", "a > b"):
        assert verdict_on(text, {"a": a, "b": b}).floor.endswith(
            "of 8 questions hardly any difference could show: both arms are near 0 on y"
        )


def test_interaction_on_some_data_sets(store):
    def arm(name, gain):
        return {
            d: stored(
                store,
                f"{name}{d}",
                [of_kind(i, float(i < 20 + gain * (d == "y")), "k") for i in range(40)],
                data=d,
            )
            for d in "xy"
        }

    es = {"a": arm("a", 0), "b": arm("b", 20)}
    study = replace(
        study_of(store, {"a": es["a"]["x"], "b": es["b"]["x"]}),
        ids={(a, d, 0): e.id for a, by in es.items() for d, e in by.items()},
    )
    assert (
        interaction(study, "b", "a").kinds["k"].paired.n == 80
        and interaction(study, "b", "a", datasets=["y"]).kinds["k"].effect.value == 0.5
    )
    assert interaction(study, "b", "a", datasets=["x"]).whole.effect.value == 0


def test_every_interval_has_a_level(store):
    "No table or sentence shows an interval without saying of what level it is."
    more = {"agent": {"choice": "free", "tools": ["search"]}, "stop_reasons": {"answer": 4}}
    a = stored(store, "a", [of_kind(i, i % 2, "k") for i in range(8)], confidence=0.9)
    b = stored(store, "b", [acted(i, 1.0, kind="k") for i in range(8)], more=more, confidence=0.9)
    study = study_of(store, {"a": a, "b": b}, alpha=0.1)
    traded, same = trade_off(study, "b", "a"), equivalence_of(study, "b", "a")
    shown = [
        results_table(b),
        kinds_table(b),
        agent_table(b),
        compare(a, b)._repr_markdown_(),
        overview([compare(a, b)]),
    ]
    shown += [
        arms_table(study).removesuffix(agent_arms_table(study)),
        agent_arms_table(study),
        costs_table(study),
    ]
    shown += [
        exploratory_table(study),
        interaction(study, "b", "a")._repr_markdown_(),
    ]
    for text in [*shown, traded.sentence(), traded._repr_markdown_(), same.sentence()]:
        assert "90%" in text and "95%" not in text, text


def test_hostile_kinds_and_tools_stay_texts(store):
    more = {"agent": {"choice": HOSTILE, "tools": [HOSTILE]}, "stop_reasons": {HOSTILE: 2}}
    e, plain = (
        stored(store, "a", [acted(i, 1.0, kind=HOSTILE) for i in range(4)], more=more),
        stored(store, "b", [of_kind(i, 0.0, HOSTILE if i else "k") for i in range(4)]),
    )
    study = study_of(store, {"a": plain, "b": e})
    for page in (
        agent_table(e),
        agent_arms_table(study),
        arms_table(study),
        costs_table(study),
        interaction(study, "b", "a")._repr_markdown_(),
        trade_off(study, "b", "a")._repr_markdown_(),
    ):
        assert "<script" not in page and "](" not in page and "`x`" not in page and "\n# head" not in page


# how the code is laid out


def test_classes_are_whole():
    "No class of the reading modules gets a method from another module: what it shows depends on no import."
    names = ("experiment", "results", "contrasts", "comparison", "tradeoffs", "interaction", "findings")
    for module in (importlib.import_module(f"llmforge.{name}") for name in names):
        for cls in vars(module).values():
            if isinstance(cls, type) and cls.__module__ == module.__name__ and is_dataclass(cls):
                methods = [m for m in vars(cls).values() if inspect.isfunction(m)]
                assert {m.__module__ for m in methods} == {module.__name__}, cls


def test_a_bare_experiment_shows_its_results(store):
    e = stored(store, "a", [row(i, float(i % 2)) for i in range(4)])
    assert e._repr_markdown_() == results_table(e) and "| tokens in / question | 10.0 |" in results_table(e)


def test_the_arms_of_a_study_are_read_once(store):
    "The same objects at every call, and none are kept for a study that is gone."
    study = pair(store, [1.0], [0.0])
    assert arms_of(study) is arms_of(study) and arms_of(replace(study)) is not arms_of(study)
    key = id(study)
    del study
    gc.collect()
    assert key not in contrasts._ARMS
