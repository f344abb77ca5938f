"""Intervals and tests against textbook and hand-computed values; coverage and false positives by
simulation."""

import json
import math
import subprocess
import sys
import warnings
from dataclasses import asdict
from functools import partial
from itertools import product

import grouped_intervals
import numpy as np
import pytest
from intervals import GRADED, cases, coverage
from statsmodels.stats.inter_rater import cohens_kappa

from llmforge.core import ConfigError, DataError
from llmforge.metrics import percentiles
from llmforge.paired import (
    PairedDifference,
    benjamini_hochberg,
    discordant_sd,
    holm,
    holm_levels,
    non_inferiority,
    paired_difference,
    pairs_needed,
    smallest_effect,
    spread_of,
)
from llmforge.preference import kappa
from llmforge.stats import Estimate, bootstrap_interval, bounds, estimate, hang_together, wilson

pytestmark = pytest.mark.slow


def finds(wins, losses, n):
    "The share of these studies of n questions that have p <= 0.05."
    return np.mean(
        [paired_difference(*scores(w, lost, n - w - lost)).p <= 0.05 for w, lost in zip(wins, losses)]
    )


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def ends(e):
    return e.low, e.high


def test_what_hangs_together_through_others_is_one_group():
    shared = {"a": ["x"], "b": ["y"], "c": ["x", "y"], "d": [], "e": ["z"], "f": ["z"]}
    groups = hang_together(shared)
    assert {frozenset(k for k in shared if groups[k] == g) for g in groups.values()} == {
        frozenset("abc"),
        frozenset("d"),
        frozenset("ef"),
    }
    chain = hang_together(
        {i: [i, i + 1] for i in range(20_000)}
    )  # a long run of batches that overlap in turn
    assert len(set(chain.values())) == 1


def test_nothing_to_average_is_none_and_valid_json():
    for q in ("mean", "p50", "p99"):
        assert estimate([], q) == Estimate(None, None, None, 0, 0.95)
    d = paired_difference([], [])
    assert (d.a, d.b, d.p, d.n, d.ties) == (None, None, None, 0, 0)
    json.dumps([asdict(estimate([])), asdict(d)], allow_nan=False)
    assert str(estimate([])) == "–" and "–" in d._repr_markdown_()


def test_values_are_plain_python_for_json():
    json.dumps(asdict(estimate(np.array([1, 0, 1]))))
    json.dumps(asdict(paired_difference(np.array([1, 0, 1]), np.array([1, 1, 1]))))


@pytest.mark.parametrize("bad", [[1.0, None], [math.nan], [1.0, math.inf]])
def test_missing_values_are_refused_and_never_dropped(bad):
    with pytest.raises(DataError, match="missing or not finite"):
        estimate(bad)
    with pytest.raises(DataError, match="missing or not finite"):
        paired_difference(bad, bad)


@pytest.mark.parametrize("name", ["median", "p101", "p", "p-5", "p9.5", ""])
def test_unknown_statistics_are_refused(name):
    with pytest.raises(ConfigError, match="'mean', or a percentile"):
        estimate([1.0], name)


def test_the_value_is_the_statistic():
    x = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    assert estimate(x).value == pytest.approx(31 / 8) and estimate(x, "p50").value == 3.5
    assert {q: estimate(x, q).value for q in ("p50", "p95", "p99")} == pytest.approx(percentiles(x)), (
        "metrics and stats mean the same percentile"
    )


def test_all_zero_and_all_one_use_wilson():
    z2 = 1.959963985**2
    assert ends(estimate([0.0] * 10)) == pytest.approx((0, z2 / (10 + z2)))  # 0 of n: upper end z²/(n+z²)
    assert ends(estimate([1] * 10)) == pytest.approx((10 / (10 + z2), 1))
    assert ends(estimate([1])) == pytest.approx((1 / (1 + z2), 1))


def test_other_equal_values_collapse():
    assert ends(estimate([42.0] * 7)) == (42, 42) and ends(estimate([0.3])) == (0.3, 0.3)
    assert ends(estimate([0.0] * 7, "p95")) == (0, 0)
    x = [0.9 - 0.6, 0.5 - 0.2, 0.1 + 0.2]  # equal but for rounding
    e = estimate(x)
    assert e.low == e.value == e.high == pytest.approx(0.3)


def test_two_values_by_hand():
    """Resampled means of (0, 1) are 0, 1/2, 1 with chances 1/4, 1/2, 1/4: any 95% interval must be all of
    [0, 1]."""
    assert ends(estimate([0, 1])) == (0, 1)


def test_mean_interval_agrees_with_student_t_on_normal_data():
    x = np.random.default_rng(3).normal(10, 2, 400)
    half = 1.966 * x.std(ddof=1) / math.sqrt(400)
    assert ends(estimate(x, resamples=5000)) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.03)


def test_share_interval_agrees_with_wilson_by_hand():
    "37 of 100: Wilson (0.2818, 0.4678)."
    assert ends(estimate([1] * 37 + [0] * 63, resamples=5000)) == pytest.approx((0.2818, 0.4678), abs=0.015)


def test_mouse_data_of_efron_and_tibshirani():
    "Treated mice (1993, table 2.1): mean 86.86, bootstrap standard error 23.4."
    e = estimate([94, 197, 16, 38, 99, 141, 23], confidence=0.6827, resamples=5000)
    assert e.value == pytest.approx(86.857, abs=0.001) and (e.high - e.low) / 2 == pytest.approx(23.4, abs=2)


def test_median_interval_agrees_with_order_statistics():
    "For n = 101 the exact 95% interval of the median is that of ranks 41 and 61."
    low, high = ends(estimate(np.arange(1, 102), "p50", resamples=5000))
    assert abs(low - 41) <= 1.5 and abs(high - 61) <= 1.5


def test_more_confidence_is_wider_and_more_data_narrower():
    x = np.random.default_rng(0).random(50)
    width = lambda e: e.high - e.low
    assert width(estimate(x, confidence=0.8)) < width(estimate(x)) < width(estimate(x, confidence=0.99))
    assert width(estimate(np.tile(x, 4))) == pytest.approx(width(estimate(x)) / 2, rel=0.1)


def test_the_seed_decides_and_batches_do_not_matter():
    x = np.random.default_rng(0).random(3000)  # 3000 x 2000 is made in several batches
    assert estimate(x) == estimate(list(x)) and estimate(x, seed=1) != estimate(x)


@pytest.mark.parametrize("p, n", [(0.5, 30), (0.85, 100), (0.04, 100), (0.02, 25), (0.97, 50)])
def test_intervals_of_shares_hold_the_truth(p, n):
    rng, hits = np.random.default_rng(7), 0
    for _ in range(200):
        low, high = ends(estimate(rng.random(n) < p, resamples=400))
        hits += low <= p <= high
    assert hits / 200 >= 0.91


def test_intervals_of_skewed_means_and_medians_hold_the_truth():
    rng, mean, median = np.random.default_rng(8), 0, 0
    for _ in range(200):
        x = rng.exponential(1, 60)
        a, b = ends(estimate(x, resamples=400)), ends(estimate(x, "p50", resamples=400))
        mean += a[0] <= 1 <= a[1]
        median += b[0] <= math.log(2) <= b[1]
    assert mean / 200 >= 0.90 and median / 200 >= 0.90


def test_every_small_sample_has_a_finite_ordered_interval():
    rng = np.random.default_rng(0)
    for t in range(150):
        n = int(rng.integers(1, 12))
        x = [
            rng.integers(0, 2, n),
            rng.lognormal(0, 3, n),
            0.1 + rng.choice([0, 1e-17, 1e-16], n),
            np.r_[np.zeros(n), 1],
            rng.choice([1 / 3, 2 / 3, 1], n),
        ][t % 5]
        for q in ("mean", "p50", "p99"):
            e = estimate(x, q, resamples=100)
            assert e.low <= e.value + 1e-12 and e.value <= e.high + 1e-12 and math.isfinite(e.low + e.high)


# --- paired comparisons


def scores(wins, losses, both=0, neither=0):
    return [0] * wins + [1] * losses + [1] * both + [0] * neither, [1] * wins + [0] * losses + [1] * both + [
        0
    ] * neither


@pytest.mark.parametrize("wins, losses", [(9, 1), (1, 9), (12, 3), (5, 0), (5, 5), (30, 14), (0, 0), (0, 1)])
@pytest.mark.parametrize("ties", [3, 27, 400])
def test_p_stays_near_the_exact_one_of_mcnemar(wins, losses, ties):
    from scipy.stats import binomtest

    d = paired_difference(*scores(wins, losses, ties))
    exact = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert d.test == "paired t" and (d.p == pytest.approx(exact, abs=0.02) or exact > 0.3 and d.p > 0.2)
    assert (d.wins, d.losses, d.ties, d.n) == (wins, losses, ties, wins + losses + ties)
    assert d.difference.value == pytest.approx((wins - losses) / d.n) == pytest.approx(d.b - d.a)


def test_bonett_and_price_by_hand():
    """Bonett & Price, Journal of Educational and Behavioral Statistics 37:479 (2012): w + 1 and l + 1
    of n + 2; here with Student's t and n - 1 below the line."""
    from scipy.stats import t

    w, lost, n = 86, 150, 1600
    p, q = (w + 1) / (n + 2), (lost + 1) / (n + 2)
    error = math.sqrt((p + q - (p - q) ** 2) / (n + 1))
    half = t.ppf(0.975, n + 1) * error
    d = paired_difference(*scores(w, lost, 794, n - w - lost - 794))
    assert ends(d.difference) == pytest.approx((p - q - half, p - q + half), rel=1e-9)
    assert d.p == pytest.approx(2 * t.sf(abs(p - q) / error, n + 1), rel=1e-9)


def test_one_loss_and_three_pairs_prove_nothing():
    "0 wins against 1 loss of 8 is no refutation, and 3 differing pairs do not exclude 0."
    one = paired_difference(*scores(0, 1, 7))
    assert one.difference.low < -0.3 and one.difference.high > 0.2 and one.p > 0.5
    three = paired_difference(*scores(3, 0, 27))
    assert three.difference.low < 0 < three.difference.value and three.p > 0.1


def test_the_difference_is_b_minus_a_and_swapping_mirrors_it():
    a, b = scores(12, 3, 5, 5)
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert (
        there.difference.value > 0 > back.difference.value
        and there.p == pytest.approx(back.p)
        and (there.wins, there.losses) == (back.losses, back.wins)
    )
    assert ends(there.difference) == pytest.approx((-back.difference.high, -back.difference.low), abs=0.05)


def test_darwins_maize():
    """Fisher 1935: fifteen pairs (in eighths of an inch): Student's t = 2.148, p = 0.0497; of 2^15 sign
    patterns 1726 are as extreme, p = 0.0527. Two imagined pairs make it a little more careful."""
    d = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    r = paired_difference([0] * 15, d)
    assert r.test == "paired t" and 0.05 < r.p < 0.08 and (r.wins, r.losses) == (13, 2)
    assert r.difference.value == pytest.approx(314 / 15)


def test_rounding_errors_are_no_wins():
    d = paired_difference([0.1 + 0.2, 0.5], [0.3, 0.7])
    assert (d.wins, d.losses, d.ties) == (1, 0, 1)


def test_mappings_are_aligned_by_id_and_never_by_position():
    a, b = {"q1": 1, "q2": 0, "q3": 0}, {"q3": 0, "q2": 1, "q1": 1}
    assert (r := paired_difference(a, b)).wins == 1 and r.losses == 0
    with pytest.raises(DataError, match="1 are on one only, e.g. 'q3'"):
        paired_difference(a, {"q1": 1, "q2": 1})
    with pytest.raises(DataError, match="received 3 and 2"):
        paired_difference([1, 0, 0], [1, 1])


def test_no_difference_at_all():
    d = paired_difference([1, 0, 1], [1, 0, 1])
    assert d.p == 1 and d.difference.low == -d.difference.high < -0.5, (
        "three ties leave nearly everything open"
    )
    times = paired_difference([41.0, 42.0], [41.0, 42.0])
    assert times.p == 1 and ends(times.difference) == (0, 0), "without limits there is no size to imagine"


def test_paired_sees_what_unpaired_means_hide():
    nested, crossed = (
        paired_difference([1] * 50 + [0] * 50, [1] * 60 + [0] * 40),
        paired_difference([1] * 50 + [0] * 50, [1] * 30 + [0] * 20 + [1] * 30 + [0] * 20),
    )
    assert (nested.a, nested.b) == (crossed.a, crossed.b) and nested.p < 0.01 < 0.1 < crossed.p


def test_shown():
    assert (
        f"{Estimate(1.23456, 1, 2, 9):.1f}" == "1.2 [1.0, 2.0]"
        and str(Estimate(0.5, 0.4, 0.6, 9)) == "0.500 [0.400, 0.600]"
    )
    assert Estimate(0.5, 0.4, 0.6, 9)._repr_markdown_() == "0.500 [0.400, 0.600] (n = 9, 95%)"
    assert (
        isinstance(r := paired_difference([0, 1], [1, 1]), PairedDifference)
        and "| 0.500 | 1.000 | +0.500 [" in r._repr_markdown_()
    )


def test_importing_needs_no_scipy():
    code = (
        "import sys, llmforge.metrics, llmforge.stats, llmforge.paired; "
        "assert not {'scipy', 'statsmodels', 'torch', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the same draws as SciPy's


def some_values(kind, n, rng):
    "Scores of right or wrong, graded ones, times, counts: n of them."
    return {
        "shares": lambda: rng.integers(0, 2, n).astype(float),
        "graded": lambda: np.round(rng.choice([0, 1 / 3, 0.4, 0.5, 2 / 3, 1], n), 12),
        "times": lambda: rng.gamma(2, 200, n),
        "counts": lambda: rng.integers(0, 300, n).astype(float),
    }[kind]()


def scipys_interval(data, statistic, method, **how):
    from scipy.stats import bootstrap

    found = bootstrap(data, statistic, method=method, n_resamples=999, rng=np.random.default_rng(7), **how)
    return pytest.approx(tuple(found.confidence_interval), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("kind", ["shares", "graded", "times", "counts"])
@pytest.mark.parametrize("n", [5, 20, 137, 1300])
def test_intervals_are_scipys_draw_by_draw(kind, n):
    rng = np.random.default_rng(n)
    x = np.append(some_values(kind, n, rng), [0, 1])
    how = {"resamples": 999, "seed": 7}
    assert bootstrap_interval(x, **how) == scipys_interval((x,), np.mean, "BCa")
    p95 = partial(np.percentile, q=95)
    assert bootstrap_interval(x, "p95", **how) == scipys_interval((x,), p95, "percentile")
    codes = np.append(rng.integers(0, n // 3 + 1, n), [0, 1])
    codes = np.unique(codes, return_inverse=True)[1]
    groups = np.bincount(codes, x), np.bincount(codes).astype(float)
    mean = lambda sums, sizes, axis: sums.sum(axis) / sizes.sum(axis)
    expected = scipys_interval(groups, mean, "BCa", paired=True, vectorized=True)
    assert bootstrap_interval(x, codes=codes, **how) == expected


@pytest.mark.parametrize(
    "hits, n", [(0, 1), (1, 1), (0, 20), (20, 20), (3, 7), (999, 1000), (50_000, 100_000)]
)
def test_wilson_is_scipys(hits, n):
    from scipy.stats import binomtest

    expected = binomtest(hits, n).proportion_ci(0.9, method="wilson")
    assert wilson(hits, n, 0.9) == pytest.approx(tuple(expected), abs=1e-14)


def test_wilson_of_none_and_all_reaches_the_end():
    assert wilson(0, 7)[0] == 0 and wilson(7, 7)[1] == 1
    for n in range(1, 300):
        assert 0 == wilson(0, n)[0] < wilson(0, n)[1] < 1 and 0 < wilson(n, n)[0] < wilson(n, n)[1] == 1


@pytest.mark.parametrize("hits, n", [(1, 0), (-1, 5), (6, 5)])
def test_a_share_of_nothing_is_refused(hits, n):
    with pytest.raises(DataError, match=f"received {hits} of {n}"):
        wilson(hits, n)


def test_adjusted_p_values_are_those_of_statsmodels():
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 40):
        ps = np.round(rng.random(n) ** 3, 2).tolist()  # with equal ones among them
        assert holm(ps) == multipletests(ps, method="holm")[1].tolist()
        assert benjamini_hochberg(ps) == multipletests(ps, method="fdr_bh")[1].tolist()


# --- many values


@pytest.mark.parametrize("kind", ["shares", "graded", "times", "counts"])
@pytest.mark.parametrize("statistic", ["mean", "p50", "p95", "p100"])
def test_intervals_of_many_values_are_those_of_single_draws(kind, statistic, monkeypatch):
    "Above 10,000 units equal ones are drawn together; the distribution is the same."
    x = some_values(kind, 10_000, np.random.default_rng(2))
    codes = np.arange(10_000) // 2 if statistic == "mean" else None
    for groups in (None, codes):
        quick = bootstrap_interval(x, statistic, codes=groups)
        with monkeypatch.context() as m:
            m.setattr("llmforge.stats._MANY", math.inf)
            slow = bootstrap_interval(x, statistic, codes=groups)
        assert quick == pytest.approx(slow, abs=0.2 * (slow[1] - slow[0]) + 1e-9)


@pytest.mark.timeout(60)  # with the square of the questions it would take hours
def test_a_hundred_thousand_questions_are_compared():
    rng, passages = np.random.default_rng(1), np.arange(100_000) // 5
    a, b = some_values("graded", 100_000, rng), some_values("graded", 100_000, rng)
    alone, grouped = paired_difference(a, b), paired_difference(a, b, groups=passages)
    assert alone.n == grouped.n == 100_000 and alone.difference.value == grouped.difference.value


# --- published values


@pytest.mark.parametrize(
    "hits, n, low, high",
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_in_newcombe(hits, n, low, high):
    "Newcombe, Statistics in Medicine 17:857 (1998), table I, method 3."
    assert wilson(hits, n, 0.95) == pytest.approx((low, high), abs=5e-5)


def test_approval_ratings_of_agresti():
    """Categorical Data Analysis (2002), section 10.1: 86 and 150 of 1600 changed their mind; difference
    -0.04, interval -0.06 to -0.02, z² = 17.36."""
    d = paired_difference(*scores(86, 150, 794, 570))
    assert (
        d.difference.value == pytest.approx(-0.04)
        and ends(d.difference) == pytest.approx((-0.0587, -0.0213), abs=0.002)
        and d.p < 1e-4
    )


def test_results_published_before_groups_came_are_as_they_were():
    x = np.random.default_rng(42)
    a, b, c = (x.random(60) < 0.6).astype(int), (x.random(60) < 0.7).astype(int), x.random(60)
    assert ends(estimate(a)) == pytest.approx((0.41666666666666674, 0.6666666666666666), rel=1e-12)
    assert ends(estimate(c, "p95")) == pytest.approx((0.893349408861008, 0.9602500307821649), rel=1e-12)
    assert repr(paired_difference(a, b)).endswith("wins=20, losses=6)"), "stored outputs keep their form"


def test_one_example_is_no_evidence():
    d = paired_difference([0.2], [0.9])
    assert d.p > 0.5 and d.difference.low < 0 and d.sd is None and d.d_z is None


# --- groups


def families(seed=0, groups=25):
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), rng.choice([1, 2, 3, 6], groups))
    return rng, g, (rng.random(groups)[g] > rng.random(len(g)) * 0.5).astype(int)


def test_groups_of_one_change_nothing():
    rng, _, _ = families()
    a, b = rng.integers(0, 2, 40), rng.integers(0, 2, 40)
    for alone in (range(40), [None] * 40, [f"q{i}" for i in range(40)]):
        assert estimate(a, groups=alone) == estimate(a) and paired_difference(
            a, b, groups=alone
        ) == paired_difference(a, b)
        assert non_inferiority(a, b, 0.1, groups=alone) == non_inferiority(a, b, 0.1)


def test_groups_by_id_and_by_position_are_the_same():
    rng, g, a = families()
    b, ids = rng.integers(0, 2, len(g)), [f"q{i}" for i in range(len(g))]
    by_id = dict(zip(ids, g.tolist()))
    A, B = dict(zip(ids, a)), dict(zip(reversed(ids), b[::-1]))
    assert paired_difference(A, B, groups=by_id) == paired_difference(a, b, groups=g) and estimate(
        A, groups=by_id
    ) == estimate(a, groups=g)
    assert estimate(A, groups={**by_id, "other": 3}) == estimate(a, groups=[f"passage {k}" for k in g]), (
        "names of groups and examples of others do not matter"
    )
    with pytest.raises(DataError, match="1 of .* have no group, e.g. 'q0'"):
        estimate(A, groups={i: k for i, k in by_id.items() if i != "q0"})
    with pytest.raises(DataError, match="by example id"):
        paired_difference(a, b, groups=by_id)
    with pytest.raises(DataError, match="values and 3 groups"):
        paired_difference(a, b, groups=[1, 2, 3])


def test_copies_add_nothing():
    "Each question five times over: the interval is that of the questions, and so is p."
    rng = np.random.default_rng(2)
    a, b = rng.random(30).round(2), rng.random(30).round(2)
    one, five = (
        paired_difference(a, b),
        paired_difference(np.repeat(a, 5), np.repeat(b, 5), groups=np.repeat(np.arange(30), 5)),
    )
    assert (
        ends(five.difference) == pytest.approx(ends(one.difference), abs=0.01)
        and five.p == pytest.approx(one.p, abs=0.01)
        and five.groups == 30
    )
    assert ends(estimate(np.repeat(a, 5), groups=np.repeat(np.arange(30), 5))) == pytest.approx(
        ends(estimate(a)), abs=0.01
    )
    assert ends(estimate(np.repeat(a, 5), "p50", groups=np.repeat(np.arange(30), 5))) == pytest.approx(
        ends(estimate(a, "p50")), abs=0.06
    )


def test_the_mean_of_a_resample_is_a_ratio_of_sums():
    "Groups of 1 and 3: drawn (A, A), (A, B), (B, B) the means are 1, 1/4 and 0, never the mean of means 1/2."
    e = estimate([1, 0, 0, 0], groups="ABBB")
    assert e.value == 0.25 and ends(e) == (0, 1)
    rng, g, x = families(3)
    standard = math.sqrt(25 / 24 * ((np.bincount(g, x) - x.mean() * np.bincount(g)) ** 2).sum()) / len(x)
    e = estimate(x, groups=g, resamples=5000)
    assert (e.high - e.low) / (2 * 1.96) == pytest.approx(standard, rel=0.12), (
        "the linearised standard error of a ratio (Cochran 1977)"
    )


def test_groups_are_the_units():
    "Six wins in three groups are three, and the same as three questions."
    d = paired_difference([0] * 6, [1] * 6, groups="AABBCC")
    three = paired_difference([0] * 3, [1] * 3)
    assert d.test == "grouped t" and (d.wins, d.groups, d.n) == (6, 3, 6)
    assert d.p == pytest.approx(three.p) and ends(d.difference) == pytest.approx(ends(three.difference))


def test_darwins_maize_counted_twice():
    "The fifteen pairs again, each measured twice: the same p."
    d = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    twice = paired_difference([0] * 30, d * 2, groups=list(range(15)) * 2)
    assert twice.p == pytest.approx(paired_difference([0] * 15, d).p)


def test_the_standard_error_is_that_of_a_ratio():
    "Cochran 1977, with two imagined groups of ordinary size; statsmodels' cluster-robust error of a mean."
    import statsmodels.api as sm

    rng, g, a = families(3, groups=60)
    d = (rng.integers(0, 2, len(g)) - a).astype(float)
    size = len(g) / 60
    lengths, values = [*np.ones(len(g)), size, size], [*d, size, -size]
    codes = [*g, 60, 61]
    # a regression through the origin of sums on sizes, by group
    sums, sizes = np.bincount(codes, values), np.bincount(codes, lengths)
    mean = sums.sum() / sizes.sum()
    robust = sm.WLS(sums / sizes, np.ones(62), weights=sizes).fit(cov_type="HC0")
    spread = paired_difference(a, a + d, groups=g).spread
    assert spread.mean == pytest.approx(mean) and robust.params[0] == pytest.approx(mean)
    assert spread.error == pytest.approx(robust.bse[0] * math.sqrt(62 / 61), rel=1e-9)


def test_degenerate_groups_have_finite_ordered_intervals():
    assert ends(estimate([1, 0, 1], groups="AAA")) == (0, 1), "one group: nothing is known"
    one = paired_difference([0, 0, 1], [1, 1, 1], groups="AAA")
    assert one.p > 0.5 and one.difference.low < -0.9
    assert ends(estimate([1, 0, 0, 1], groups="AABB")) == ends(estimate([1, 0, 0, 1])), (
        "equal means of groups: the values are resampled"
    )
    assert ends(estimate([0] * 40, groups=[i // 4 for i in range(40)])) == ends(estimate([0] * 10)), (
        "Wilson counts groups"
    )
    assert ends(estimate([7.0] * 4, groups="AABB")) == (7, 7)
    assert estimate([], groups=[]) == estimate([]) and paired_difference({}, {}, groups={}).p is None


def test_every_small_grouped_sample_has_a_finite_ordered_interval():
    rng = np.random.default_rng(0)
    for t in range(100):
        n = int(rng.integers(2, 14))
        x, g = (
            [
                rng.integers(0, 2, n),
                rng.lognormal(0, 3, n),
                np.r_[np.zeros(n - 1), 1],
                rng.choice([1 / 3, 2 / 3, 1], n),
            ][t % 4],
            rng.integers(0, max(2, n // 2), n),
        )
        for q in ("mean", "p50"):
            e = estimate(x, q, resamples=100, groups=g)
            assert e.low <= e.value + 1e-12 and e.value <= e.high + 1e-12 and math.isfinite(e.low + e.high)
        d = paired_difference(np.zeros(n), x, groups=g)
        assert d.difference.low <= d.difference.value + 1e-12 <= d.difference.high + 2e-12 and 0 < d.p <= 1


def test_grouped_results_are_plain_python_and_seeded():
    rng, g, a = families()
    b = rng.integers(0, 2, len(g))
    json.dumps(
        [
            asdict(paired_difference(a, b, groups=g)),
            asdict(estimate(a, groups=g)),
            asdict(estimate(a, "p95", groups=g)),
        ],
        allow_nan=False,
    )
    assert paired_difference(a, b, groups=g) == paired_difference(a, b, groups=list(g))


# --- effect sizes


def test_effect_sizes():
    assert (
        paired_difference(*scores(12, 3, 9)).odds_ratio == 4
        and paired_difference(*scores(12, 3)).effect_size == "odds ratio 4.00"
    )
    assert (
        paired_difference(*scores(5, 0)).odds_ratio == 11
        and paired_difference(*scores(0, 5)).odds_ratio == 1 / 11
    ), "Haldane's halves"
    assert paired_difference(*scores(0, 0, 4)).odds_ratio is None and paired_difference(
        [], []
    ).effect_size in ("odds ratio –", "d_z –")
    graded = paired_difference([0.0, 0.0, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4])
    assert (
        graded.odds_ratio is None
        and graded.d_z == pytest.approx(0.25 / math.sqrt(0.05 / 3))
        and graded.effect_size == "d_z +1.94"
    )
    assert paired_difference([0.1, 0.2], [0.1, 0.2]).d_z is None


def test_darwins_effect_size():
    """20.93 eighths of an inch with a standard deviation of 37.74: Student's t = 2.148 (Fisher 1935) is
    d_z times the root of 15."""
    d = paired_difference([0] * 15, [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48])
    assert d.sd == pytest.approx(37.74, abs=0.01) and d.d_z * math.sqrt(15) == pytest.approx(2.148, abs=0.001)


# --- not worse by more than a margin


@pytest.mark.parametrize(
    "wins, losses, n, margin, p", [(28, 25, 618, 0.0148, 0.05), (20, 60, 1000, 0.0584, 0.025)]
)
def test_the_margin_test_ends_where_tangos_interval_does(wins, losses, n, margin, p):
    """R's PropCIs::scoreci.mp(25, 28, 618) at 90% begins at -0.0148, scoreci.mp(60, 20, 1000) at 95% at
    -0.0584 (Tango 1998): another way to the same interval."""
    assert non_inferiority(*scores(wins, losses, n - wins - losses), margin) == pytest.approx(p, abs=6e-3)


def test_no_difference_seen_proves_little_of_little():
    same = [1] * 100
    assert non_inferiority(same, same, 0.02) > 0.05 > non_inferiority(same, same, 0.05)
    assert non_inferiority([0.5] * 100, [0.5] * 100, 0.02) > 0.05, "nor where scores are graded"
    assert non_inferiority(same, same, 0.05) < non_inferiority(
        same, same, 0.05, groups=[i // 5 for i in range(100)]
    ), "twenty groups prove less"


def test_non_inferiority_at_the_edges():
    assert non_inferiority([], [], 0.1) is None and non_inferiority([1, 1], [0, 0], 0) > 0.8
    assert non_inferiority([0.5], [0.6], 0.1) > 0.05 < non_inferiority([0, 0], [1, 1], 0.1, groups="AA")
    assert non_inferiority([1, 0], [1, 0], 0) == 0.5, "no difference speaks neither for nor against a loss"
    assert non_inferiority([40.0] * 3, [40.0] * 3, 5) == 0 and non_inferiority([40.0] * 3, [40.0] * 3, 0) == 1
    for bad in (-0.1, 1, math.nan):
        with pytest.raises(ConfigError, match="a margin is the loss"):
            non_inferiority([0, 1], [1, 1], bad)


def test_a_margin_is_ruled_out_where_the_interval_ends_above_it():
    rng = np.random.default_rng(11)
    for _ in range(100):
        a, b = rng.integers(0, 2, (2, 40))
        g, margin = rng.integers(0, 12, 40), rng.choice([0.05, 0.1, 0.3])
        d = paired_difference(a, b, confidence=0.9, groups=g)
        assert (non_inferiority(a, b, margin, groups=g) < 0.05) == (d.difference.low > -margin)


# --- many comparisons


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1] and holm([0.03]) == [0.03] and holm([]) == []


def test_holms_levels_say_what_his_p_values_say(monkeypatch):
    monkeypatch.setattr("gc.collect", lambda: 0)  # multipletests sweeps memory at every call: 50 ms
    rng = np.random.default_rng(1)
    for _ in range(300):
        ps = list(rng.choice([0.001, 0.004, 0.011, 0.02, 0.03, 0.049, 0.3], int(rng.integers(1, 7))))
        levels = holm_levels(ps, 0.05)
        assert [p <= level for p, level in zip(ps, levels)] == [q <= 0.05 for q in holm(ps)], ps
    assert holm_levels([0.001, None, 0.03]) == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2])
    assert holm_levels([]) == []


def test_the_fifteen_p_values_of_benjamini_and_hochberg():
    "JRSS B 57:289 (1995), section 3: at 0.05 their method rejects four hypotheses, Bonferroni's kind three."
    ps = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
        1.0,
    ]
    assert sum(p <= 0.05 for p in benjamini_hochberg(ps)) == 4 and sum(p <= 0.05 for p in holm(ps)) == 3
    assert benjamini_hochberg(ps)[3] == pytest.approx(0.0095 * 15 / 4) and holm(ps)[2] == pytest.approx(
        0.0019 * 13
    )


def test_adjusted_p_values_keep_their_places_and_count_the_missing():
    ps = list(np.random.default_rng(0).random(9))
    order = np.argsort(ps)
    for f in (holm, benjamini_hochberg):
        q = f(ps)
        assert (
            all(q[i] >= ps[i] for i in range(9))
            and [q[i] for i in order] == sorted(q)
            and q == f(ps[::-1])[::-1]
        )
        assert f([0.01, None, None])[1:] == [None, None] and f([0.01, None, None])[0] == pytest.approx(0.03)
        json.dumps(f(ps))
        for bad in (math.nan, -0.1, 1.1):
            with pytest.raises(DataError, match="between 0 and 1"):
                f([0.5, bad])


def test_holm_holds_the_family_and_hochberg_the_share(monkeypatch):
    """2,000 families of ten: with five true effects Holm errs at all in at most 5%; the share of false
    claims is at most 5% by either."""
    from scipy.stats import norm

    monkeypatch.setattr("gc.collect", lambda: 0)  # multipletests sweeps memory at every call: 50 ms
    z = np.random.default_rng(4).normal(size=(2000, 10)) + np.r_[np.zeros(5), np.full(5, 3.0)]
    ps, family, share = 2 * norm.sf(abs(z)), 0, 0.0
    for row in ps:
        family += any(p <= 0.05 for p in holm(row)[:5])
        claims = np.array(benjamini_hochberg(row)) <= 0.05
        share += claims[:5].sum() / max(1, claims.sum())
    assert family / 2000 <= 0.065 and share / 2000 <= 0.03, "Benjamini & Hochberg hold it at 5/10 of 5% here"


# --- power


@pytest.mark.parametrize("d, n", [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_paired_t_power_as_in_g_power(d, n):
    """G*Power 3.1, means of two dependent groups, two-sided, alpha 0.05, power 0.80: small, medium and
    large effects of Cohen."""
    assert pairs_needed(d) == n and smallest_effect(n) <= d < smallest_effect(n - 1)


@pytest.mark.parametrize("n, alpha", [(5, 0.01), (100, 0.05 / 7)])
def test_t_tests_find_the_smallest_effect_as_often_as_planned(n, alpha):
    from scipy.stats import ttest_1samp

    x = np.random.default_rng(0).normal(smallest_effect(n, alpha), 1, (20_000, n))
    assert (ttest_1samp(x, 0, axis=1).pvalue <= alpha).mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("share, effect", [(0.3, 0.1), (0.2, 0.05), (0.15, 0.1), (0.5, 0.2)])
def test_pairs_for_right_or_wrong_scores_as_connor_has_it(share, effect):
    """Connor, Biometrics 43:207 (1987): n = (1.96 √share + 0.8416 √(share - effect²))² / effect² lies
    between our count with and without the effect in the spread."""
    connor = (1.959964 * math.sqrt(share) + 0.841621 * math.sqrt(share - effect**2)) ** 2 / effect**2
    assert (
        pairs_needed(effect, sd=discordant_sd(share, effect)) - 3
        <= connor
        <= pairs_needed(effect, sd=discordant_sd(share))
    )


def test_planned_studies_find_what_they_were_planned_for():
    for share, effect in ((0.3, 0.1), (0.2, 0.08)):
        n = pairs_needed(effect, sd=discordant_sd(share))
        wins, losses, _ = (
            np.random.default_rng(0)
            .multinomial(n, [(share + effect) / 2, (share - effect) / 2, 1 - share], 2000)
            .T
        )
        assert finds(wins, losses, n) == pytest.approx(0.8, abs=0.05)


def test_a_margin_planned_for_is_shown():
    n = pairs_needed(0.1, sd=discordant_sd(0.3), sides=1)
    wins, losses, rest = np.random.default_rng(1).multinomial(n, [0.15, 0.15, 0.7], 1000).T
    shown = np.mean(
        [
            non_inferiority(*scores(int(w), int(lost), int(r)), 0.1) <= 0.05
            for w, lost, r in zip(wins, losses, rest)
        ]
    )
    assert shown == pytest.approx(0.8, abs=0.05)


def test_power_at_the_edges():
    assert (
        smallest_effect(1) == math.inf == smallest_effect(0)
        and smallest_effect(2) > 5
        and pairs_needed(1000) == 2 == pairs_needed(-1000)
    )
    assert smallest_effect(10**6, sd=0.5) == pytest.approx(0.5 * 2.8016 / 1000, rel=1e-3) and pairs_needed(
        -0.5
    ) == pairs_needed(0.5)
    assert smallest_effect(100, alpha=0.05 / 7) > smallest_effect(100) > smallest_effect(
        100, sides=1
    ) and smallest_effect(100, power=0.9) > smallest_effect(100)
    for alpha in (0.05, 0.05 / 7, 0.001):  # where statsmodels' own search goes astray
        for n in (2, 3, 5, 10, 100, 1000, 10**5):
            assert pairs_needed(smallest_effect(n, alpha), alpha) == n
    assert discordant_sd(1) == 1 and discordant_sd(0.3, 0.3) == pytest.approx(math.sqrt(0.21))
    for bad in (dict(alpha=0), dict(power=1), dict(alpha=0.9), dict(sd=0), dict(sides=3)):
        with pytest.raises(ConfigError, match="a power calculation needs"):
            smallest_effect(50, **bad)
    for bad in ((0, 0), (1.1, 0), (0.2, -0.3)):
        with pytest.raises(ConfigError, match="discordant pairs"):
            discordant_sd(*bad)
    with pytest.raises(ConfigError, match="effect of 0"):
        pairs_needed(0)


# --- answers that never came


def test_bounds():
    assert (
        bounds([1, 0, 0.5], 1) == (0.375, 0.625)
        and bounds([1, 0], 0) == (0.5, 0.5)
        and bounds([], 3) == (0, 1)
        and bounds([], 0) == (None, None)
    )
    for values, missing in (([1.2], 0), ([-0.1], 1), ([1], -1)):
        with pytest.raises(DataError, match="bounds are for scores"):
            bounds(values, missing)
    with pytest.raises(DataError, match="missing or not finite"):
        bounds([None], 1)


# --- false positives over 2,000 draws without any difference (three standard errors of 5%: 1.5 points),
# and coverage


def test_p_cries_wolf_as_promised():
    for n, share in ((8, 0.3), (40, 0.5), (200, 0.3), (500, 0.02)):
        wins, losses, _ = np.random.default_rng(0).multinomial(n, [share / 2, share / 2, 1 - share], 2000).T
        assert finds(wins, losses, n) <= 0.065, "at most 5%; less where there is little to see"


def test_graded_p_cries_wolf_as_promised():
    rng = np.random.default_rng(1)
    f1 = lambda: rng.choice([0, 0.4, 2 / 3, 1], 40)
    assert np.mean([paired_difference(f1(), f1()).p <= 0.05 for _ in range(2000)]) == pytest.approx(
        0.05, abs=0.015
    )


def test_grouped_p_cries_wolf_as_promised():
    """Questions of a passage stand or fall together, one to six a passage: without groups p errs several
    times as often as it says."""
    rng, grouped, alone = np.random.default_rng(2), 0, 0
    for _ in range(2000):
        g = np.repeat(np.arange(25), rng.choice([1, 2, 4, 6], 25))
        a, b = (((rng.random(25) < 0.5)[g] ^ (rng.random(len(g)) < 0.1)).astype(int) for _ in range(2))
        grouped += paired_difference(a, b, groups=g).p <= 0.05
        alone += paired_difference(a, b).p <= 0.05
    assert grouped / 2000 <= 0.065 and alone / 2000 > 0.15


@pytest.mark.parametrize("sizes", [(1.0,), GRADED], ids=["right or wrong", "graded"])
@pytest.mark.parametrize("n", [8, 30, 120, 500])
def test_intervals_of_differences_hold_the_truth(n, sizes):
    """0 to 30% of the questions differ, in one direction or both, in groups of 1 to 10 that go together or
    not. Of 400 draws four standard errors are 4.4 points."""
    grid = {case: coverage(n, *case, sizes=sizes) for case in cases(n)}
    assert min(grid.values()) >= 0.906, min(grid, key=grid.get)
    assert np.mean(list(grid.values())) >= 0.945


def test_the_table_of_grouped_intervals_is_about_the_one_in_use():
    "Its own formula, for many studies at once, gives the intervals of the package."
    found = np.random.default_rng(0).integers(-3, 4, (20, 30))
    for row, *own in zip(found, *grouped_intervals.ends(found, 5, 5)):
        assert own == pytest.approx(spread_of(row.astype(float), np.full(30, 5), 1.0, 1.0).interval(0.95))
    present, narrower, *widths = grouped_intervals.cell(50, 10, 0.1, 0, 0, draws=1000)[1:]
    assert 0.93 <= narrower <= present and widths[1] < 0.65 * widths[0]


def test_non_inferiority_cries_wolf_at_most_as_promised():
    "Truly worse by the margin: right-or-wrong, rare complete losses of graded scores, and groups."
    rng = np.random.default_rng(3)
    for n, margin, share in ((100, 0.05, 0.3), (200, 0.05, 0.1), (100, 0.02, 0.02)):
        wins, losses, rest = rng.multinomial(
            n, [(share - margin) / 2, (share + margin) / 2, 1 - share], 2000
        ).T
        assert (
            np.mean(
                [
                    non_inferiority(*scores(int(w), int(lost), int(r)), margin) <= 0.05
                    for w, lost, r in zip(wins, losses, rest)
                ]
            )
            <= 0.068
        )
    f1 = rng.choice([0, 0.4, 2 / 3, 1], (1000, 100))
    assert (
        np.mean(
            [non_inferiority(a, np.where(rng.random(100) < 0.05 / 0.5167, 0, a), 0.05) <= 0.05 for a in f1]
        )
        <= 0.07
    )
    false = 0
    for _ in range(1000):
        g = np.repeat(np.arange(40), rng.choice([1, 2, 3, 5], 40))
        d = rng.choice([1, 0, -1], 40, p=[0.1, 0.7, 0.2])[g]
        a = np.where(d == 0, rng.random(len(g)) < 0.5, d < 0).astype(int)
        false += non_inferiority(a, a + d, 0.1, groups=g) <= 0.05
    assert false / 1000 <= 0.075


@pytest.mark.parametrize("groups, least", [(15, 0.88), (40, 0.91)])
def test_clustered_intervals_hold_the_truth(groups, least):
    "Passages of one to six questions; plain intervals miss the truth two to six times as often as they say."
    rng, kept, plain = np.random.default_rng(5), 0, 0
    for t in range(400):
        g = np.repeat(np.arange(groups), rng.choice([1, 2, 4, 6], groups))
        x = (rng.random(len(g)) < rng.beta(0.6, 0.4, groups)[g]).astype(int)
        low, high = ends(estimate(x, resamples=400, seed=t, groups=g))
        kept += low <= 0.6 <= high
        low, high = ends(estimate(x, resamples=400, seed=t))
        plain += low <= 0.6 <= high
    assert kept / 400 >= least and plain / 400 < kept / 400 - 0.05


def test_clustered_intervals_of_rare_scores_hold_the_truth():
    rng, kept, rare = np.random.default_rng(6), 0, 0
    for t in range(400):
        g = np.repeat(np.arange(40), rng.choice([1, 2, 3, 5], 40))
        a, b = ((rng.random(len(g)) < rng.beta(1, 1, 40)[g]).astype(int) for _ in range(2))
        low, high = bootstrap_interval((b - a).astype(float), resamples=400, seed=t, codes=g)
        kept += low <= 0 <= high
        x = (rng.random(len(g)) < rng.beta(0.3, 2.7, 40)[g]).astype(int)
        low, high = ends(estimate(x, resamples=400, seed=t, groups=g))
        rare += low <= 0.1 <= high
    assert kept / 400 >= 0.91 and rare / 400 >= 0.88


@pytest.mark.parametrize("scale", [1, 1000, 1e9])
@pytest.mark.parametrize("gain", [0.2, 1 / 3, 0.1])
def test_a_constant_difference_has_no_d_z(scale, gain):
    "What rounding leaves of a difference that is everywhere the same is no standard deviation."
    rng = np.random.default_rng(0)
    for a in ([0.1 * scale] * 50, list(rng.random(50) * scale)):
        p = paired_difference(a, [x + gain * scale for x in a])
        assert p.sd == 0 and p.d_z is None and p.effect_size == "d_z –", (p.sd, p.d_z)
    assert paired_difference([0.1, 0.2, 0.3], [0.3, 0.4, 0.5 + 1e-9]).d_z > 1e6


# --- what callers get wrong


@pytest.mark.parametrize("level", [0, 1, 95, -0.5, float("nan")])
def test_a_level_is_a_share(level):
    for call in (
        lambda: estimate([0, 1, 1], confidence=level),
        lambda: wilson(1, 2, level),
        lambda: paired_difference([0, 1], [1, 1], level),
    ):
        with pytest.raises(ConfigError, match="confidence: must be a share above 0 and below 1, e.g. 0.95"):
            call()


def test_a_group_that_pandas_calls_missing_is_none():
    scores, nan = [0, 1, 1, 0, 1, 0], float("nan")
    assert estimate(scores, groups=[nan] * 6) == estimate(scores, groups=[None] * 6) == estimate(scores)


def test_ids_on_one_side_are_never_scores():
    "The keys of a mapping were taken for numbers."
    with pytest.raises(DataError, match="one side has ids and the other has none"):
        paired_difference({0: 1, 1: 0}, [1, 0])
    with pytest.raises(DataError, match="2 are on one only, e.g. 1"):
        paired_difference({1: 1}, {"1": 1})


@pytest.mark.parametrize("n", [1, 8, 50])
def test_p_is_the_same_whichever_side_is_called_the_second(n):
    "A p of 1e-30 was 0 the other way round."
    a, b = [0.1] * n, [0.3] * n
    forth, back = paired_difference(a, b), paired_difference(b, a)
    assert forth.p == back.p > 0
    assert forth.spread.p_above(0.1) == pytest.approx(back.spread.p_below(-0.1), rel=1e-12)


@pytest.mark.parametrize("effect", [0, float("nan"), float("inf")])
def test_an_effect_to_plan_for_is_a_number(effect):
    with pytest.raises(ConfigError, match="no number of pairs shows an effect of"):
        pairs_needed(effect)


def test_kappa_and_its_interval():
    "The value is statsmodels'; the interval holds the true one, also where few people's votes all agree."
    rng = np.random.default_rng(0)
    shares = np.array([[0.45, 0.05], [0.05, 0.45]])  # kappa 0.8
    held = defined = 0
    for n in (8, 20, 50) * 200:
        counts = rng.multinomial(n, shares.ravel())
        pairs = [pair for pair, k in zip(product("ab", "ab"), counts) for _ in range(k)]
        if found := kappa(pairs):
            value, low, high = found
            known = cohens_kappa(counts.reshape(2, 2), return_results=False)
            assert value == pytest.approx(known) and low < high
            defined, held = defined + 1, held + (low <= 0.8 <= high)
    assert 0.93 <= held / defined <= 0.97
    assert kappa([("a", "a")] * 2 + [("b", "b")])[1] < 0.1, "three votes alike show little"
