"""Intervals and tests against textbook and hand-computed values; coverage and false positives by
simulation."""

import json
import math
import subprocess
import sys
import warnings
from dataclasses import asdict
from functools import cache, partial
from math import comb

import numpy as np
import pytest

from llmforge import paired
from llmforge.core import ConfigError, DataError
from llmforge.metrics import percentiles
from llmforge.paired import (
    PairedDifference,
    benjamini_hochberg,
    discordant_sd,
    exact_mcnemar,
    holm,
    non_inferiority,
    paired_difference,
    paired_permutation,
    pairs_needed,
    smallest_effect,
)
from llmforge.stats import Estimate, bootstrap_interval, bounds, corrected_rate, estimate, wilson

pytestmark = pytest.mark.slow

mcnemar = cache(exact_mcnemar)  # simulations draw the same few hundred pairs of counts again and again


def mcnemar_finds(wins, losses):
    "The share of these studies that have p <= 0.05."
    return np.mean([mcnemar(int(w), int(lost)) <= 0.05 for w, lost in zip(wins, losses)])


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def ends(e):
    return e.low, e.high


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


@pytest.mark.parametrize("wins, losses", [(9, 1), (1, 9), (12, 3), (5, 0), (5, 5), (30, 14)])
def test_mcnemar_is_the_binomial_sum(wins, losses):
    d = paired_difference(*scores(wins, losses, 20, 7))
    n = wins + losses
    by_hand = min(1.0, 2 * sum(comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n)
    assert d.p == pytest.approx(by_hand) and d.test == "exact McNemar"
    assert (d.wins, d.losses, d.ties, d.n) == (wins, losses, 27, n + 27)
    assert d.difference.value == pytest.approx((wins - losses) / (n + 27)) == pytest.approx(d.b - d.a)


def test_known_mcnemar_values():
    assert paired_difference(*scores(9, 1)).p == pytest.approx(22 / 1024)
    assert paired_difference(*scores(12, 3)).p == pytest.approx(1152 / 32768)
    assert paired_difference(*scores(0, 0, 10, 10)).p == 1


def test_ties_do_not_change_mcnemar_but_narrow_the_interval():
    few, many = paired_difference(*scores(9, 1)), paired_difference(*scores(9, 1, 100, 100))
    assert few.p == many.p and many.difference.value < few.difference.value


def test_the_difference_is_b_minus_a_and_swapping_mirrors_it():
    a, b = scores(12, 3, 5, 5)
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert (
        there.difference.value > 0 > back.difference.value
        and there.p == back.p
        and (there.wins, there.losses) == (back.losses, back.wins)
    )
    assert ends(there.difference) == pytest.approx((-back.difference.high, -back.difference.low), abs=0.05)


def test_permutation_small_and_exact():
    assert paired_difference([0, 0, 0], [1, 2, 3]).p == 2 / 8
    assert paired_difference([0, 0, 0, 0], [1, 2, 3, -4]).p == pytest.approx(
        14 / 16
    )  # |sum| >= 2: all but the two with sum 0
    assert paired_difference([0.5, 0.5], [0.5, 0.5]).p == 1


def test_darwins_maize():
    """Fisher 1935: fifteen pairs (in eighths of an inch), 1726 of 2^15 sign patterns are as extreme: p =
    0.0527."""
    d = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    r = paired_difference([0] * 15, d)
    assert (
        r.test == "paired permutation"
        and r.p == pytest.approx(1726 / 2**15, abs=0.008)
        and (r.wins, r.losses) == (13, 2)
    )
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
    assert ends(d.difference) == (0, 0), "Wilson's rule is for shares, not for differences"
    assert d.p == 1


def test_under_no_difference_p_is_rarely_small():
    rng, small = np.random.default_rng(5), 0
    for _ in range(300):
        small += paired_difference(rng.random(40) < 0.5, rng.random(40) < 0.5, resamples=100).p <= 0.05
    assert small / 300 <= 0.07


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


# --- published values


@pytest.mark.parametrize(
    "hits, n, low, high",
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_in_newcombe(hits, n, low, high):
    "Newcombe, Statistics in Medicine 17:857 (1998), table I, method 3."
    assert wilson(hits, n, 0.95) == pytest.approx((low, high), abs=5e-5)


def test_mcnemar_of_published_tables():
    """Fagerland, Lydersen & Laake, BMC Medical Research Methodology 13:91 (2013), exact conditional test:
    Bentur et al. 1 and 7, Cavo et al. 6 and 16."""
    assert paired_difference(*scores(1, 7, 1, 12)).p == pytest.approx(0.0703, abs=5e-5)
    assert paired_difference(*scores(6, 16, 59, 80)).p == pytest.approx(0.0525, abs=5e-5)


def test_approval_ratings_of_agresti():
    """Categorical Data Analysis (2002), section 10.1: 86 and 150 of 1600 changed their mind; difference
    -0.04, interval -0.06 to -0.02, z² = 17.36."""
    d = paired_difference(*scores(86, 150, 794, 570))
    assert (
        d.difference.value == pytest.approx(-0.04)
        and ends(d.difference) == pytest.approx((-0.0587, -0.0213), abs=0.002)
        and d.p < 1e-4
    )
    assert 2 * 64 / paired._null_variance(86, 150, 1600, 0) == pytest.approx(2 * 64 / 236), (
        "without a margin the variance is McNemar's"
    )


def test_results_published_before_groups_came_are_as_they_were():
    x = np.random.default_rng(42)
    a, b, c, d = (
        (x.random(60) < 0.6).astype(int),
        (x.random(60) < 0.7).astype(int),
        x.random(60),
        x.random(60),
    )
    binary, graded = paired_difference(a, b), paired_difference(c, d)
    assert (*ends(binary.difference), binary.p) == pytest.approx(
        (0.06666666666666667, 0.381164615794512, 0.009355306625366211), rel=1e-12
    )
    assert (*ends(graded.difference), graded.p) == pytest.approx(
        (-0.09916527190497486, 0.12896580355170467, 0.863), rel=1e-12
    )
    assert ends(estimate(a)) == pytest.approx((0.41666666666666674, 0.6666666666666666), rel=1e-12)
    assert ends(estimate(c, "p95")) == pytest.approx((0.893349408861008, 0.9602500307821649), rel=1e-12)
    assert repr(binary).endswith("wins=20, losses=6)"), "stored outputs keep their form"


def test_one_example_is_no_evidence():
    d = paired_difference([0.2], [0.9])
    assert d.p == 1 and d.sd is None and d.d_z is None


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


def test_clustered_p_flips_whole_groups():
    d = paired_difference([0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], groups="AABBCC")
    assert d.p == 2 / 8 and d.test == "clustered permutation" and (d.wins, d.groups, d.n) == (6, 3, 6)
    d = paired_difference(
        [0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1], groups=["x", "x", None, None, "y", "y"]
    )  # sums 2, 1, 0, 0
    assert d.p == 0.5 and d.groups == 4


def test_darwins_maize_counted_twice():
    "The fifteen pairs again, each measured twice: still p = 0.0527 (Fisher 1935)."
    d = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert paired_difference([0] * 30, d * 2, groups=list(range(15)) * 2).p == pytest.approx(
        1726 / 2**15, abs=0.008
    )


def test_degenerate_groups_have_finite_ordered_intervals():
    assert ends(estimate([1, 0, 1], groups="AAA")) == (0, 1), "one group: nothing is known"
    assert paired_difference([0, 0, 1], [1, 1, 1], groups="AAA").p == 1 and ends(
        paired_difference([0, 0, 1], [1, 1, 1], groups="AAA").difference
    ) == (0, 1)
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
        d = paired_difference(np.zeros(n), x, resamples=100, groups=g)
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
    assert (
        paired_difference(a, b, groups=g)
        == paired_difference(a, b, groups=list(g))
        != paired_difference(a, b, groups=g, seed=1)
    )


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
def test_tangos_interval_ends_where_the_test_does(wins, losses, n, margin, p):
    """R's PropCIs::scoreci.mp(25, 28, 618) at 90% begins at -0.0148, scoreci.mp(60, 20, 1000) at 95% at
    -0.0584."""
    assert non_inferiority(*scores(wins, losses, n - wins - losses), margin) == pytest.approx(p, abs=5e-4)


@pytest.mark.parametrize(
    "wins, losses, n, margin", [(9, 12, 200, 0.05), (0, 3, 60, 0.1), (4, 0, 50, 0.02), (30, 45, 300, 0.1)]
)
def test_the_null_variance_is_that_of_the_most_likely_null(wins, losses, n, margin):
    "The likelihood on a fine grid, by brute force."
    q = np.linspace(margin, (1 + margin) / 2, 200_001)[1:-1]  # chance of a loss; of a win: q - margin
    likelihood = (
        wins * np.log(q - margin) + losses * np.log(q) + (n - wins - losses) * np.log(1 - 2 * q + margin)
    )
    best = q[likelihood.argmax()]
    assert paired._null_variance(wins, losses, n, margin) == pytest.approx(
        n * (2 * best - margin - margin**2), rel=1e-3
    )


def test_no_difference_seen_proves_little_of_little():
    same = [1] * 100
    assert non_inferiority(same, same, 0.02) > 0.05 > non_inferiority(same, same, 0.05)
    assert non_inferiority([0.5] * 100, [0.5] * 100, 0.02) > 0.05, "nor where scores are graded"
    assert non_inferiority(same, same, 0.05) < non_inferiority(
        same, same, 0.05, groups=[i // 5 for i in range(100)]
    ), "twenty groups prove less"


def test_non_inferiority_at_the_edges():
    assert non_inferiority([], [], 0.1) is None and non_inferiority([1, 1], [0, 0], 0) == pytest.approx(
        0.9214, abs=1e-4
    )
    assert non_inferiority([0.5], [0.6], 0.1) == 1 == non_inferiority([0, 0], [1, 1], 0.1, groups="AA")
    assert (
        non_inferiority([40.0] * 3, [41.0] * 3, 5) == 1 / 8
        and non_inferiority([41.0] * 3, [40.0] * 3, 1) == 1
    )
    assert non_inferiority([1, 0], [1, 0], 0) == 1 and non_inferiority([0.3, 0.4], [0.3, 0.4], 0) == 1
    for bad in (-0.1, 1, math.nan):
        with pytest.raises(ConfigError, match="a margin is the loss"):
            non_inferiority([0, 1], [1, 1], bad)


# --- many comparisons


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1] and holm([0.03]) == [0.03] and holm([]) == []


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


def test_exact_mcnemar_has_the_power_g_power_says():
    """G*Power 3.1 manual, exact McNemar (after O'Brien 2002): odds ratio 0.25, 40% discordant, 50 pairs,
    one-sided 0.05: power 0.8393, true alpha 0.0326."""
    from scipy.stats import binom

    power = alpha = 0.0
    for n in range(51):
        wins = np.arange(n + 1)
        found = np.array([2 * w > n and exact_mcnemar(int(w), int(n - w)) <= 0.1 for w in wins])
        power += binom.pmf(n, 50, 0.4) * binom.pmf(wins, n, 0.8)[found].sum()
        alpha += binom.pmf(n, 50, 0.4) * binom.pmf(wins, n, 0.5)[found].sum()
    assert (power, alpha) == pytest.approx((0.8393, 0.0326), abs=1e-4)


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
        assert mcnemar_finds(wins, losses) == pytest.approx(0.8, abs=0.05)


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


# --- an imperfect judge, and answers that never came


def test_brucellosis_of_the_epir_manual():
    """epiR's epi.prev: 23 of 150 cows positive, sensitivity 0.96, specificity 0.89: 5.1 in 100, 0 to 13. A
    card of 10,000 is as good as certain."""
    e = corrected_rate(23, 150, 9600, 10000, 8900, 10000)
    assert e.value == pytest.approx(0.051, abs=5e-4) and ends(e) == pytest.approx((0, 0.13), abs=0.005)


def test_a_perfect_judge_needs_no_correction():
    e = corrected_rate(37, 100, 10**6, 10**6, 10**6, 10**6)
    assert e.value == pytest.approx(0.37) and ends(e) == pytest.approx((0.2818, 0.4678), abs=1e-3), (
        "Wilson's interval"
    )


def test_the_card_carries_its_uncertainty():
    width = lambda e: e.high - e.low
    assert (
        width(corrected_rate(60, 200, 16, 20, 18, 20))
        > width(corrected_rate(60, 200, 80, 100, 90, 100))
        > width(corrected_rate(60, 200, 8000, 10000, 9000, 10000))
    )


def test_a_judge_that_knows_nothing_gives_no_rate():
    for counts in ((5, 10, 5, 10), (0, 10, 10, 10), (0, 0, 9, 10), (9, 10, 0, 0)):
        e = corrected_rate(3, 10, *counts)
        assert (e.value, e.low, e.high, e.n) == (None, None, None, 10) and str(e) == "–"
        json.dumps(asdict(e), allow_nan=False)
    assert corrected_rate(0, 0, 9, 10, 9, 10).value is None
    assert ends(corrected_rate(3, 10, 1, 1, 10, 1000)) == (0, 1), (
        "one hallucinated claim on the card: anything may be true"
    )
    with pytest.raises(DataError, match="received 11 of 10"):
        corrected_rate(11, 10, 9, 10, 9, 10)


def test_corrected_rates_are_ordered_and_hold_the_truth():
    rng = np.random.default_rng(0)
    for true, sensitivity, specificity, n, card in (
        (0.02, 0.8, 0.9, 200, 50),
        (0.1, 0.95, 0.95, 50, 30),
        (0.3, 0.8, 0.9, 200, 50),
        (0.3, 0.65, 0.75, 200, 100),
        (0.7, 0.8, 0.9, 100, 50),
    ):
        flagged, found, passed = (
            rng.binomial(n, true * sensitivity + (1 - true) * (1 - specificity), 1000),
            rng.binomial(card, sensitivity, 1000),
            rng.binomial(card, specificity, 1000),
        )
        es = [
            e
            for e in (
                corrected_rate(int(f), n, int(s), card, int(p), card)
                for f, s, p in zip(flagged, found, passed)
            )
            if e.value is not None
        ]
        assert len(es) > 990 and all(0 <= e.low <= e.value <= e.high <= 1 for e in es)
        assert 0.935 <= np.mean([e.low <= true <= e.high for e in es]) <= 0.995


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


def test_mcnemar_cries_wolf_at_most_as_promised():
    for n, share in ((40, 0.5), (200, 0.3)):
        wins, losses, _ = np.random.default_rng(0).multinomial(n, [share / 2, share / 2, 1 - share], 2000).T
        assert 0.01 <= mcnemar_finds(wins, losses) <= 0.065, "exact: at most 5%, for p comes in steps"


def test_permutation_cries_wolf_as_promised():
    rng = np.random.default_rng(1)
    f1 = lambda: rng.choice([0, 0.4, 2 / 3, 1], 40)
    false = np.mean(
        [paired_permutation(np.round(f1() - f1(), 12), 0, resamples=199) <= 0.05 for _ in range(2000)]
    )
    assert false == pytest.approx(0.05, abs=0.015)


def test_clustered_permutation_cries_wolf_as_promised(monkeypatch):
    """Questions of a passage stand or fall together, one to six a passage: McNemar errs several times as
    often as it says."""
    monkeypatch.setattr(paired, "paired_permutation", partial(paired_permutation, resamples=199))
    monkeypatch.setattr(paired, "bootstrap_interval", lambda *args: (0.0, 0.0))  # p is what is tested
    rng, clustered, naive = np.random.default_rng(2), 0, 0
    for _ in range(2000):
        g = np.repeat(np.arange(25), rng.choice([1, 2, 4, 6], 25))
        a, b = (((rng.random(25) < 0.5)[g] ^ (rng.random(len(g)) < 0.1)).astype(int) for _ in range(2))
        r = paired_difference(a, b, groups=g)
        clustered += r.p <= 0.05
        naive += mcnemar(r.wins, r.losses) <= 0.05
    assert clustered / 2000 == pytest.approx(0.05, abs=0.015) and naive / 2000 > 0.15


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


def test_clustered_intervals_of_differences_and_of_rare_scores_hold_the_truth():
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
        p = paired_difference(a, [x + gain * scale for x in a], resamples=100)
        assert p.sd == 0 and p.d_z is None and p.effect_size == "d_z –", (p.sd, p.d_z)
    assert paired_difference([0.1, 0.2, 0.3], [0.3, 0.4, 0.5 + 1e-9], resamples=100).d_z > 1e6
