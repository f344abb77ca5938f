"Configs of any shape, made from a seed: each is read, or refused with a sentence, never with a traceback."

import random

import pytest
import yaml

from llmforge.config import load_config, parse_overrides
from llmforge.core import ConfigError
from llmforge.files import project_root
from llmforge.studyconfig import load_study
from llmforge.text import visible

pytestmark = pytest.mark.slow

SHIPPED = sorted((project_root() / "configs").rglob("*.yaml"))
SCRAPS = """yes|no|~|null|none|0123|1:30|-0b1|0x1F|1_000|.inf|.nan|1e999|2024-13-45|2024-01-01|<<|=|*x|&x|!x
!!int ""|!!int x|!!float ""|!!bool x|!!timestamp x|!!binary é|!!set {a}|!!omap [a]|!!str [a]|!!null x|? [a]
!!python/name:os.system|{}|[]|[[[|{{{|"\\ud800"|"\\0"|'|"|- |: |#|%|@|`|\t|\x07|\x85|\ufeff|\u2028|é漢🙂
../../x|? {a: b}|extends: x|study: {}|experiment: {}|<<: {a: 1}|<<: [1]|<<: 3|{question.__class__}|{0}
{question!z}|{question:>1000000000}""".replace("\n", "|").split("|")
KEYS = ["", "name", "study", "experiment", "extends", "a\0b", "\ud800", None, True, 3, 0.5, (1, 2)]
VALUES = [
    *(
        None,
        True,
        False,
        0,
        -1,
        10**400,
        0.5,
        float("inf"),
        float("nan"),
        "",
        "none",
        "x" * 5000,
        "a\0b",
        "\ud800",
    ),
    *(
        [],
        {},
        [[]],
        {"": None},
        {None: 1},
        {True: 1},
        {3: 4},
        {(1, 2): 3},
        {"name": {}},
        [None, 1],
        ("a",),
        b"x",
    ),
    *(
        {"name": []},
        "{question:>1000000000}",
        "\\n",
        "../" * 9,
        "/",
        "x.jsonl",
        {"a": {"b": {"c": []}}},
        {1},
        object(),
    ),
]


def read(source):
    "Read a config as an experiment and as a study; anything but our own error is a fault."
    for load in (load_config, load_study):
        try:
            load(source)
        except ConfigError as e:
            visible(str(e)).encode()


def mutated(node, rng, share):
    "A document in which that share of the values and keys is something else."
    if rng.random() < share:
        return rng.choice(VALUES)
    if isinstance(node, dict):
        keys = [rng.choice(KEYS) if rng.random() < share / 2 else key for key in node]
        return {key: mutated(value, rng, share) for key, value in zip(keys, node.values())}
    return [mutated(value, rng, share) for value in node] if isinstance(node, list) else node


@pytest.mark.parametrize("seed", range(4))
def test_config_texts_of_any_shape(seed, tmp_path):
    rng, path = random.Random(seed), tmp_path / "x.yaml"
    for _ in range(60):
        text = rng.choice(SHIPPED).read_text()
        for _ in range(rng.randint(1, 4)):
            at, scrap = rng.randrange(len(text) + 1), rng.choice(SCRAPS)
            text = text[:at] + scrap + text[at + rng.choice((0, 1, len(scrap), 40)) :]
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        read(path)


@pytest.mark.parametrize("seed", range(4))
def test_config_values_of_any_type(seed):
    rng = random.Random(seed)
    for _ in range(60):
        document = yaml.safe_load(rng.choice(SHIPPED).read_text())
        share = rng.choice((0.02, 0.1, 0.3))
        read({key: mutated(value, rng, share) for key, value in document.items()})


def test_overrides_of_any_shape():
    rng = random.Random(0)
    for _ in range(400):
        key = rng.choice(
            ("seed", "method.prompt.stop", "a.b.c", "", ".", "dataset", "experiment.name", "a[0]")
        )
        try:
            load_config({"experiment": {"name": "x"}}, [f"{key}={''.join(rng.choices(SCRAPS, k=2))}"])
        except ConfigError as e:
            visible(str(e)).encode()
    with pytest.raises(ConfigError, match="No closing quotation"):
        parse_overrides("name='x")


@pytest.mark.parametrize(
    "section", [{"plugins": {"a.py", "b.py"}}, {"dataset": {"name": "almanac", "kinds": frozenset("ab")}}]
)
def test_a_set_is_refused(section):
    "Its order differs between processes, and with it the id would."
    with pytest.raises(ConfigError, match="(plugins|kinds): a set has no order; write a list"):
        load_config({"experiment": {"name": "x", **section}})


def test_a_set_in_yaml_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text("experiment: {name: x, plugins: !!set {a.py, b.py}}")
    with pytest.raises(ConfigError, match="plugins: a set has no order; write a list"):
        load_config(tmp_path / "x.yaml")
