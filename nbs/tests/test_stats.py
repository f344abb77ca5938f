"""Intervals and tests against textbook and hand-computed values, and the coverage of the intervals by simulation."""
import json, math, subprocess, sys, warnings
from dataclasses import asdict
from math import comb
import numpy as np, pytest
from llmforge.core import ConfigError, DataError
from llmforge.metrics import percentiles
from llmforge.stats import Estimate, PairedDifference, estimate, paired_difference

@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield

def ends(e): return e.low, e.high

def test_nothing_to_average_is_none_and_valid_json():
    for q in ("mean", "p50", "p99"): assert estimate([], q) == Estimate(None, None, None, 0, 0.95)
    d = paired_difference([], [])
    assert (d.a, d.b, d.p, d.n, d.ties) == (None, None, None, 0, 0)
    json.dumps([asdict(estimate([])), asdict(d)], allow_nan=False)
    assert str(estimate([])) == "–" and "–" in d._repr_markdown_()

def test_values_are_plain_python_for_json():
    json.dumps(asdict(estimate(np.array([1, 0, 1])))); json.dumps(asdict(paired_difference(np.array([1, 0, 1]), np.array([1, 1, 1]))))

@pytest.mark.parametrize("bad", [[1.0, None], [math.nan], [1.0, math.inf]])
def test_missing_values_are_refused_and_never_dropped(bad):
    with pytest.raises(DataError, match="missing or not finite"): estimate(bad)
    with pytest.raises(DataError, match="missing or not finite"): paired_difference(bad, bad)

@pytest.mark.parametrize("name", ["median", "p101", "p", "p-5", "p9.5", ""])
def test_unknown_statistics_are_refused(name):
    with pytest.raises(ConfigError, match="'mean', or a percentile"): estimate([1.0], name)

def test_the_value_is_the_statistic():
    x = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    assert estimate(x).value == pytest.approx(31 / 8) and estimate(x, "p50").value == 3.5
    assert {q: estimate(x, q).value for q in ("p50", "p95", "p99")} == pytest.approx(percentiles(x)), "metrics and stats mean the same percentile"

def test_all_zero_and_all_one_use_wilson():
    z2 = 1.959963985 ** 2
    assert ends(estimate([0.0] * 10)) == pytest.approx((0, z2 / (10 + z2)))       # 0 of n: upper end z²/(n+z²)
    assert ends(estimate([1] * 10)) == pytest.approx((10 / (10 + z2), 1))
    assert ends(estimate([1])) == pytest.approx((1 / (1 + z2), 1))

def test_other_equal_values_collapse():
    assert ends(estimate([42.0] * 7)) == (42, 42) and ends(estimate([0.3])) == (.3, .3)
    assert ends(estimate([0.0] * 7, "p95")) == (0, 0)
    x = [0.9 - 0.6, 0.5 - 0.2, 0.1 + 0.2]                                         # equal but for rounding
    e = estimate(x); assert e.low == e.value == e.high == pytest.approx(.3)

def test_two_values_by_hand():
    "Resampled means of (0, 1) are 0, 1/2, 1 with chances 1/4, 1/2, 1/4: any 95% interval must be all of [0, 1]."
    assert ends(estimate([0, 1])) == (0, 1)

def test_mean_interval_agrees_with_student_t_on_normal_data():
    x = np.random.default_rng(3).normal(10, 2, 400)
    half = 1.966 * x.std(ddof=1) / math.sqrt(400)
    assert ends(estimate(x, resamples=5000)) == pytest.approx((x.mean() - half, x.mean() + half), abs=.03)

def test_share_interval_agrees_with_wilson_by_hand():
    "37 of 100: Wilson (0.2818, 0.4678)."
    assert ends(estimate([1] * 37 + [0] * 63, resamples=5000)) == pytest.approx((.2818, .4678), abs=.015)

def test_mouse_data_of_efron_and_tibshirani():
    "Treated mice (1993, table 2.1): mean 86.86, bootstrap standard error 23.4."
    e = estimate([94, 197, 16, 38, 99, 141, 23], confidence=.6827, resamples=5000)
    assert e.value == pytest.approx(86.857, abs=.001) and (e.high - e.low) / 2 == pytest.approx(23.4, abs=2)

def test_median_interval_agrees_with_order_statistics():
    "For n = 101 the exact 95% interval of the median is that of ranks 41 and 61."
    low, high = ends(estimate(np.arange(1, 102), "p50", resamples=5000))
    assert abs(low - 41) <= 1.5 and abs(high - 61) <= 1.5

def test_more_confidence_is_wider_and_more_data_narrower():
    x = np.random.default_rng(0).random(50)
    width = lambda e: e.high - e.low
    assert width(estimate(x, confidence=.8)) < width(estimate(x)) < width(estimate(x, confidence=.99))
    assert width(estimate(np.tile(x, 4))) == pytest.approx(width(estimate(x)) / 2, rel=.1)

def test_the_seed_decides_and_batches_do_not_matter():
    x = np.random.default_rng(0).random(3000)                                     # 3000 x 2000 is made in several batches
    assert estimate(x) == estimate(list(x)) and estimate(x, seed=1) != estimate(x)

@pytest.mark.parametrize("p, n", [(.5, 30), (.85, 100), (.04, 100), (.02, 25), (.97, 50)])
def test_intervals_of_shares_hold_the_truth(p, n):
    rng, hits = np.random.default_rng(7), 0
    for _ in range(200):
        low, high = ends(estimate(rng.random(n) < p, resamples=400))
        hits += low <= p <= high
    assert hits / 200 >= .91

def test_intervals_of_skewed_means_and_medians_hold_the_truth():
    rng, mean, median = np.random.default_rng(8), 0, 0
    for _ in range(200):
        x = rng.exponential(1, 60)
        a, b = ends(estimate(x, resamples=400)), ends(estimate(x, "p50", resamples=400))
        mean += a[0] <= 1 <= a[1]; median += b[0] <= math.log(2) <= b[1]
    assert mean / 200 >= .90 and median / 200 >= .90

def test_every_small_sample_has_a_finite_ordered_interval():
    rng = np.random.default_rng(0)
    for t in range(300):
        n = int(rng.integers(1, 12))
        x = [rng.integers(0, 2, n), rng.lognormal(0, 3, n), .1 + rng.choice([0, 1e-17, 1e-16], n), np.r_[np.zeros(n), 1], rng.choice([1/3, 2/3, 1], n)][t % 5]
        for q in ("mean", "p50", "p99"):
            e = estimate(x, q, resamples=100)
            assert e.low <= e.value + 1e-12 and e.value <= e.high + 1e-12 and math.isfinite(e.low + e.high)

# --- paired comparisons

def scores(wins, losses, both=0, neither=0):
    return [0] * wins + [1] * losses + [1] * both + [0] * neither, [1] * wins + [0] * losses + [1] * both + [0] * neither

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
    a, b = scores(12, 3, 5, 5); there, back = paired_difference(a, b), paired_difference(b, a)
    assert there.difference.value > 0 > back.difference.value and there.p == back.p and (there.wins, there.losses) == (back.losses, back.wins)
    assert ends(there.difference) == pytest.approx((-back.difference.high, -back.difference.low), abs=.05)

def test_permutation_small_and_exact():
    assert paired_difference([0, 0, 0], [1, 2, 3]).p == 2 / 8
    assert paired_difference([0, 0, 0, 0], [1, 2, 3, -4]).p == pytest.approx(14 / 16)  # |sum| >= 2: all but the two with sum 0
    assert paired_difference([.5, .5], [.5, .5]).p == 1

def test_darwins_maize():
    "Fisher 1935: fifteen pairs (in eighths of an inch), 1726 of 2^15 sign patterns are as extreme: p = 0.0527."
    d = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    r = paired_difference([0] * 15, d)
    assert r.test == "paired permutation" and r.p == pytest.approx(1726 / 2**15, abs=.008) and (r.wins, r.losses) == (13, 2)
    assert r.difference.value == pytest.approx(314 / 15)

def test_rounding_errors_are_no_wins():
    d = paired_difference([0.1 + 0.2, 0.5], [0.3, 0.7])
    assert (d.wins, d.losses, d.ties) == (1, 0, 1)

def test_mappings_are_aligned_by_id_and_never_by_position():
    a, b = {"q1": 1, "q2": 0, "q3": 0}, {"q3": 0, "q2": 1, "q1": 1}
    assert (r := paired_difference(a, b)).wins == 1 and r.losses == 0
    with pytest.raises(DataError, match="1 are on one only, e.g. 'q3'"): paired_difference(a, {"q1": 1, "q2": 1})
    with pytest.raises(DataError, match="received 3 and 2"): paired_difference([1, 0, 0], [1, 1])

def test_no_difference_at_all():
    d = paired_difference([1, 0, 1], [1, 0, 1])
    assert ends(d.difference) == (0, 0), "Wilson's rule is for shares, not for differences"
    assert d.p == 1

def test_under_no_difference_p_is_rarely_small():
    rng, small = np.random.default_rng(5), 0
    for _ in range(300): small += paired_difference(rng.random(40) < .5, rng.random(40) < .5, resamples=100).p <= .05
    assert small / 300 <= .07

def test_paired_sees_what_unpaired_means_hide():
    nested, crossed = paired_difference([1]*50 + [0]*50, [1]*60 + [0]*40), paired_difference([1]*50 + [0]*50, [1]*30 + [0]*20 + [1]*30 + [0]*20)
    assert (nested.a, nested.b) == (crossed.a, crossed.b) and nested.p < .01 < .1 < crossed.p

def test_shown():
    assert f"{Estimate(1.23456, 1, 2, 9):.1f}" == "1.2 [1.0, 2.0]" and str(Estimate(.5, .4, .6, 9)) == "0.500 [0.400, 0.600]"
    assert Estimate(.5, .4, .6, 9)._repr_markdown_() == "0.500 [0.400, 0.600] (n = 9, 95%)"
    assert isinstance(r := paired_difference([0, 1], [1, 1]), PairedDifference) and "| 0.500 | 1.000 | +0.500 [" in r._repr_markdown_()

def test_importing_needs_no_scipy():
    code = "import sys, llmforge.metrics, llmforge.stats; assert not {'scipy', 'torch', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
