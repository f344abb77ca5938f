"What ten times the questions cost, and what is loaded before the first of them."

import subprocess
import sys

import pytest

from llmforge.batching import FakeEngine, Fault
from llmforge.core import EngineError
from llmforge.engine import Message, Sampling

HEAVY = {
    "numpy",
    "pandas",
    "scipy",
    "seaborn",
    "matplotlib",
    "torch",
    "statsmodels",
    "filelock",
    "llmforge.config",
}


def loaded(code):
    "Which of the heavy modules a piece of code loads."
    code += f"; import sys; print(*sorted({HEAVY!r} & set(sys.modules)))"
    p = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(p.stdout.split())


@pytest.mark.slow
def test_the_list_loads_what_it_uses():
    assert loaded("import llmforge.cli, llmforge.listing") == set()


@pytest.mark.slow
def test_results_load_no_pandas_and_plots_nothing_before_one_is_drawn():
    assert loaded("import llmforge.results, llmforge.plots, llmforge.findings") <= {
        "numpy",
        "llmforge.config",
    }


@pytest.mark.slow
def test_intervals_and_tests_load_no_statistics_package():
    code = "from llmforge.paired import paired_difference as p, holm; p([0, .5, 1] * 9, [0, 1, .5] * 9)"
    assert loaded(f"{code}; holm([.1]); assert 'scipy.stats' not in __import__('sys').modules") == {
        "numpy",
        "scipy",
    }


@pytest.mark.slow
def test_notebooks_are_read_without_the_parsers_of_addresses():
    "They take longer to build than all else; whoever wants them later has them."
    code = """
import importlib.util, sys
from llmforge.notebooks import import_nbformat
nbformat = import_nbformat()
nbformat.validate(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]))
assert "jsonschema" in sys.modules and "rfc3987_syntax" not in sys.modules
assert importlib.util.find_spec("rfc3987_syntax")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_fault_counts_each_prompt_apart():
    "The count of a prompt's calls is kept, not made again from all calls."
    engine = FakeEngine("yes", faults=[Fault("hard", times=2)])
    prompts = ["hard", (Message("user", "hard"),), (Message("user", "hard?"),)]
    given = [engine._answer(p, Sampling()) for p in prompts * 3]
    assert [isinstance(g, EngineError) for g in given] == [True] * 6 + [False] * 3


@pytest.mark.slow
def test_the_peak_of_memory_is_the_programs_own():
    "A program that a large one started was given the large one's peak."
    held = b"x" * (400 * 2**20)
    code = "from llmforge.caching import peak_memory_mb; print(peak_memory_mb())"
    p = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 10 < float(p.stdout) < len(held) / 2**20
