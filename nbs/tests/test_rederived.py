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
def ours():
    p = published()
    return {name: p.verdicts(name) for name in p.studies}


def test_every_published_verdict_is_derived_again(ours):
    "n, difference, interval, p and verdict of every claim, from the exported rows."
    compared = 0
    for name, verdicts in ours.items():
        again = rederived.rederived(OUTPUTS, name)
        assert list(again) == [v.hypothesis.id for v in verdicts]
        for v in verdicts:
            n, value, low, high, p, word = again[v.hypothesis.id]
            assert (v.n, v.verdict) == (n, word), v
            e = v.effect
            assert (e.value, e.low, e.high, v.p) == pytest.approx((value, low, high, p), abs=1e-9), v
            compared += 1
    assert compared >= 20


def test_the_script_shares_no_code():
    tree = ast.parse(Path(rederived.__file__).read_text())
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not [name for name in imported if name.startswith("llmforge")] and "scipy" in imported
