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
    "n, difference, interval, p by itself and corrected, and verdict of every claim, from the exported rows."
    compared = 0
    for name in p.studies:
        verdicts = p.verdicts(name)
        again = rederived.rederived(OUTPUTS, name)
        assert list(again) == [v.hypothesis.id for v in verdicts]
        for v in verdicts:
            n, *numbers, word = again[v.hypothesis.id]
            assert (v.n, v.verdict) == (n, word), v
            found = (v.effect.value, v.effect.low, v.effect.high, v.p, v.p_adjusted)
            assert found == pytest.approx(tuple(numbers), abs=1e-9), v
            compared += 1
    assert compared >= 20


def test_every_verdict_on_speed_is_derived_again(p):
    "Rounds, ratio, interval, both p and verdict of every claim about speed, from exported rounds and texts."
    compared = 0
    for name in p.studies:
        again = rederived.rederived_speed(OUTPUTS, name)
        assert list(again) == [v.claim.id for v in p.speed_verdicts(name)]
        for v in p.speed_verdicts(name):
            n, *numbers, word = again[v.claim.id]
            s = v.found.speed
            assert (s.n, v.verdict) == (n, word), v
            found = (s.value, s.low, s.high, v.p, v.p_adjusted)
            assert found == pytest.approx(tuple(numbers), rel=1e-9), v
            compared += 1
    assert compared >= 8


def test_the_script_shares_no_code():
    tree = ast.parse(Path(rederived.__file__).read_text())
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not [name for name in imported if name.startswith("llmforge")] and "scipy" in imported
