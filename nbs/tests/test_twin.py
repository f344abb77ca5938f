"The statistics of the site's Compare page, in a real browser, against the module whose twin they are."

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from llmforge.files import project_root
from llmforge.paired import holm, paired_difference
from llmforge.wording import number

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def twin(chromium):
    "Evaluate an expression on a page that has the script."
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.add_script_tag(path=project_root() / "llmforge" / "assets" / "paired.js")
        yield page.evaluate
        browser.close()


def scores(rng, kind, n):
    "Two systems' scores of n questions."
    x, y = rng.integers(0, 2, (2, n)).astype(float)
    if kind == "rare":
        y = x.copy()
        y[: rng.integers(0, 3)] = 1
    elif kind == "graded":
        x, y = rng.integers(0, 7, (2, n)) / rng.integers(1, 7, (2, n))
    elif kind == "decimals":
        x, y = rng.random((2, n)).round(int(rng.integers(1, 17)))
    elif kind == "costs":
        x, y = rng.lognormal(5, 1, (2, n))
    return x.tolist(), y.tolist()


def test_the_numbers_are_those_of_python(twin):
    "300 random pairs of all kinds, alone and in groups: means to the last bit, the rest to 11 digits."
    rng, cases = np.random.default_rng(0), []
    for i in range(300):
        n = int(rng.choice([0, 1, 2, 3, 7, 8, 9, 16, 40, 100, 128, 129, 200, 1000, 3000])) if i else 20_001
        x, y = scores(rng, ("binary", "rare", "graded", "decimals", "costs")[i % 5], n)
        groups = range(n) if i % 2 else rng.integers(0, max(1, n // 3), n)
        cases.append((x, y, [f"g{g}" for g in groups], float(rng.choice([0.9, 0.95, 0.99]))))
    found = twin("cases => cases.map(c => llmforge.statistics.paired(...c))", cases)
    for (x, y, groups, confidence), got in zip(cases, found):
        d = paired_difference(x, y, confidence, groups)
        e = d.difference
        assert (got["a"], got["b"], got["value"]) == (d.a, d.b, e.value)
        assert (got["test"], got["wins"], got["losses"], got["n"]) == (d.test, d.wins, d.losses, d.n)
        if d.n:
            close = pytest.approx((e.low, e.high, d.p), rel=1e-11, abs=1e-13)
            assert (got["low"], got["high"], got["p"]) == close


def test_numbers_are_written_alike(twin):
    "Halves, negative zeros and tiny p, too."
    rng = np.random.default_rng(1)
    xs = [
        0.0625,
        0.1875,
        -0.0625,
        -1e-9,
        -0.00049999,
        1 / 3,
        *(rng.integers(-2000, 2000, 500) / 1600).tolist(),
    ]
    for digits, metric in ((3, "f1"), (1, "latency_ms")):
        shown = twin(f"xs => xs.map(x => llmforge.statistics.fixed(x, {digits}))", xs)
        assert [text.replace("−", "-") for text in shown] == [number(x, metric) for x in xs]
    ps = [0, 1, 0.05, 0.0995, 0.995, 0.0001, 0.125, 0.0625, *(10.0 ** rng.uniform(-14, 0, 500)).tolist()]
    assert twin("ps => ps.map(llmforge.statistics.brief)", ps) == [f"{p:.2g}" for p in ps]
    for n in (1, 2, 9):
        family = rng.random(n).tolist()
        assert twin("ps => llmforge.statistics.holm(ps)", family) == pytest.approx(holm(family), rel=1e-15)
