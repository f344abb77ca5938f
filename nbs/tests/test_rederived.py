"Published verdicts against a script that shares no code with LlmForge."

import ast
from pathlib import Path

import pytest
import rederived

from llmforge.files import project_root
from llmforge.published import published

pytestmark = pytest.mark.slow
OUTPUTS = project_root() / "outputs"


@pytest.fixture(scope="module")
def p():
    return published()


def test_every_published_verdict_is_derived_again(p):
    "n, difference, interval, p and verdict of every claim, from the exported rows."
    compared = 0
    for name in p.studies:
        verdicts = p.verdicts(name)
        again = rederived.rederived(OUTPUTS, name)
        assert list(again) == [v.hypothesis.id for v in verdicts]
        for v in verdicts:
            n, value, low, high, chance, word = again[v.hypothesis.id]
            assert (v.n, v.verdict) == (n, word), v
            e = v.effect
            assert (e.value, e.low, e.high, v.p) == pytest.approx((value, low, high, chance), abs=1e-9), v
            compared += 1
    assert compared >= 20


def test_every_verdict_on_speed_is_derived_again(p):
    "Rounds, ratio, interval and verdict of every claim about speed, from the exported rounds and texts."
    compared = 0
    for name in p.studies:
        again = rederived.rederived_speed(OUTPUTS, name)
        assert list(again) == [v.claim.id for v in p.speed_verdicts(name)]
        for v in p.speed_verdicts(name):
            n, ratio, low, high, word = again[v.claim.id]
            s = v.found.speed
            assert (s.n, v.verdict) == (n, word), v
            assert (s.value, s.low, s.high) == pytest.approx((ratio, low, high), rel=1e-9), v
            compared += 1
    assert compared >= 8


def test_the_script_shares_no_code():
    tree = ast.parse(Path(rederived.__file__).read_text())
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not [name for name in imported if name.startswith("llmforge")] and "scipy" in imported
