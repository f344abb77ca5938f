"Rates by prediction-powered inference hold the truth as often as they say, whatever the judge is worth."

import numpy as np
import pytest

from llmforge.core import DataError
from llmforge.ppi import ppi_mean

JUDGES = {  # unsupported answers found, others accused
    "coin": (0.5, 0.5),
    "always": (1.0, 1.0),
    "never": (0.0, 0.0),
    "finds few": (0.4, 0.1),
    "fair": (0.79, 0.08),
    "good": (0.95, 0.05),
    "errs rarely": (0.98, 0.0),
    "accuses rarely": (1.0, 0.02),
    "never errs": (1.0, 0.0),
    "the opposite": (0.1, 0.9),
}
DRAWS = 800  # the standard error of a coverage of 0.95 is 0.008


def drawn(rng, n, rate, found, accused):
    label = rng.random(n) < rate
    return label.astype(float), (rng.random(n) < np.where(label, found, accused)).astype(float)


def coverage(judge, n, rate, others, seed=0):
    "How often the interval holds the rate."
    rng, held = np.random.default_rng(seed), 0
    for _ in range(DRAWS):
        y, f = drawn(rng, n + others, rate, *JUDGES[judge])
        e = ppi_mean(y[:n], f[:n], f[n:]).estimate
        held += e.low <= rate <= e.high
    return held / DRAWS


@pytest.mark.slow
@pytest.mark.parametrize("judge", JUDGES)
def test_the_interval_holds_whatever_the_judge_is_worth(judge):
    """0.93 to 0.97, but for simulation noise; more only where the labels cannot show a judge's rare errors.

    Errors too rare to be seen in n labels may not be there at all, and the interval allows for both."""
    found, accused = JUDGES[judge]
    errors = 0.3 * (1 - found) + 0.7 * accused  # share of answers judged wrongly
    for n in (30, 100, 300):
        held = coverage(judge, n, 0.3, 300)
        assert held >= 0.93, (judge, n, held)
        assert held <= 0.975 or n * errors < 10, (judge, n, held)


@pytest.mark.slow
@pytest.mark.parametrize("judge", ["coin", "finds few", "accuses rarely", "never errs"])
@pytest.mark.parametrize("rate, others", [(0.05, 300), (0.6, 60), (0.9, 1000)])
def test_it_holds_for_other_rates_and_sizes(judge, rate, others):
    for n in (30, 100):
        assert coverage(judge, n, rate, others, seed=1) >= 0.93, (judge, n)


def test_scores_between_0_and_1_are_judgements_too():
    "A judge that gives probabilities, and labels that are shares of claims."
    rng, held = np.random.default_rng(2), 0
    for _ in range(DRAWS):
        y = rng.beta(2, 3, 340)
        f = np.clip(y + rng.normal(0.2, 0.15, 340), 0, 1)
        e = ppi_mean(y[:40], f[:40], f[40:]).estimate
        held += e.low <= 0.4 <= e.high
    assert 0.93 <= held / DRAWS <= 0.995


def test_the_judge_alone_is_wrong_where_the_rate_is_right():
    "The test above can fail: the judge's own rate, and the plain formula without the added answers."
    rng = np.random.default_rng(3)
    y, f = drawn(rng, 3100, 0.3, *JUDGES["finds few"])
    rate = ppi_mean(y[:100], f[:100], f[100:])
    assert rate.judge_says < rate.estimate.low <= 0.3 <= rate.estimate.high
    held = 0
    for _ in range(DRAWS):
        y, f = drawn(rng, 3030, 0.05, *JUDGES["accuses rarely"])
        errors = (y - f)[:30]
        middle = f[30:].mean() + errors.mean()
        half = 1.96 * (errors.var(ddof=1) / 30 + f[30:].var() / 3000) ** 0.5
        held += abs(middle - 0.05) <= half
    assert held / DRAWS < 0.7


def test_a_good_judge_makes_the_interval_shorter_and_a_useless_one_no_longer():
    def width(judge, others):
        rng = np.random.default_rng(4)
        pairs = [drawn(rng, 50 + others, 0.4, *JUDGES[judge]) for _ in range(50)]
        found = [ppi_mean(y[:50], f[:50], f[50:]).estimate for y, f in pairs]
        return np.mean([e.high - e.low for e in found])

    alone = width("coin", 0)
    assert width("good", 500) < 0.75 * alone and width("coin", 500) == pytest.approx(alone, rel=0.03)


def test_without_unlabelled_answers_it_is_the_mean_of_the_labels():
    rate = ppi_mean([1, 0, 1, 1], [0, 0, 0, 0], [])
    assert rate.estimate.value == 0.75 and (rate.weight, rate.labelled, rate.estimate.n) == (0, 4, 4)
    assert 0 <= rate.estimate.low < 0.75 < rate.estimate.high <= 1


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_alike_is_not_certainty(share):
    e = ppi_mean([share] * 30, [share] * 30, [share] * 500).estimate
    assert e.value == share and 0.02 < e.high - e.low < 0.2


@pytest.mark.parametrize(
    "labels, judged, others, told",
    [
        ([], [], [0.0], "at least one label"),
        ([1.0], [], [0.0], "a judgement for each"),
        ([1.0], [2.0], [], "between 0 and 1"),
        ([1.0], [1.0], [-0.1], "between 0 and 1"),
        ([None], [1.0], [], "missing"),
    ],
)
def test_what_is_no_rate_is_refused(labels, judged, others, told):
    with pytest.raises(DataError, match=told):
        ppi_mean(labels, judged, others)
