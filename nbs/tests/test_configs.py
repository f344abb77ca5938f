"Bad input: one clear error with the field's path, exit code 2, nothing written, no traceback."

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmforge.aggregate import summarise
from llmforge.cli import app
from llmforge.config import ExperimentConfig, experiment_id, load_config, to_yaml
from llmforge.configfiles import read_yaml
from llmforge.core import ConfigError
from llmforge.files import project_root
from llmforge.metrics import ALIASES, UNITS
from llmforge.sections import DatasetConfig, RetrievalConfig
from llmforge.studyconfig import KNOWN, load_study

OK = "name: t, engine: fake, dataset: {name: meridia, limit: 4}, method: {shots: 0}"
BOMB = (
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{c}: &{c} [{', '.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi"))
    + "experiment: {name: t}\n"
)

BAD = {  # name: (file content, words that the message must hold)
    "empty_file": ("", ["must be a mapping", "empty"]),
    "only_comment": ("# nothing\n", ["empty"]),
    "a_list": ("- 1\n- 2\n", ["must be a mapping", "list"]),
    "not_yaml": ("experiment: {name: t\n", ["not valid YAML"]),
    "tab_indent": ("experiment:\n\tname: t\n", ["not valid YAML"]),
    "no_experiment": ("{}", ["experiment: is missing"]),
    "experiment_text": ("experiment: hello\n", ["experiment: must be a mapping"]),
    "unknown_top_key": ("experimnt: {name: t}\n", ["experimnt", "did you mean 'experiment'"]),
    "duplicate_keys": ("experiment: {name: t, seed: 1, seed: 2}\n", ["'seed' is given twice"]),
    "yaml_bomb": (BOMB, ["aliases"]),
    "python_object": (
        "experiment: {name: !!python/object/apply:os.system ['touch pwned']}\n",
        ["python/object"],
    ),
    "python_name": ("experiment: {name: !!python/name:os.system }\n", ["python/name"]),
    "deep_nesting": ("experiment: " + "[" * 5000 + "]" * 5000, ["nested too deeply"]),
    "not_utf8": (b"experiment: {name: \xff\xfe}\n", ["UTF-8"]),
    "no_name": ("experiment: {engine: fake}\n", ["experiment.name", "is missing"]),
    "bad_name": ("experiment: {name: ../../etc}\n", ["experiment.name"]),
    "unknown_key": (
        f"experiment: {{{OK}, sampling: {{temprature: 1}}}}\n",
        ["experiment.sampling.temprature", "did you mean 'temperature'"],
    ),
    "unknown_section": (
        f"experiment: {{{OK}, retreival: hybrid}}\n",
        ["experiment.retreival", "did you mean 'retrieval'"],
    ),
    "wrong_type": (f"experiment: {{{OK}, seed: many}}\n", ["experiment.seed", "'many'"]),
    "bool_for_int": (
        f"experiment: {{{OK}, retrieval: {{name: dense, top_k: true}}}}\n",
        ["experiment.retrieval.top_k"],
    ),
    "float_for_int": (
        f"experiment: {{{OK}, retrieval: {{name: dense, top_k: 2.5}}}}\n",
        ["experiment.retrieval.top_k", "2.5"],
    ),
    "negative_top_k": (
        f"experiment: {{{OK}, retrieval: {{name: dense, top_k: -3}}}}\n",
        ["experiment.retrieval.top_k", "-3"],
    ),
    "unknown_method": (
        "experiment: {name: t, method: chain_of_tought}\n",
        ["experiment.method", "did you mean 'chain_of_thought'"],
    ),
    "unknown_retrieval": (
        f"experiment: {{{OK}, retrieval: hybird}}\n",
        ["experiment.retrieval.name", "did you mean 'hybrid'"],
    ),
    "unknown_engine": (
        "experiment: {name: t, engine: locale}\n",
        ["experiment.engine", "did you mean 'local'"],
    ),
    "unknown_dataset": (
        "experiment: {name: t, dataset: triviaqa}\n",
        ["experiment.dataset.name", "did you mean 'trivia_qa'"],
    ),
    "missing_file": (
        "experiment: {name: t, engine: fake, dataset: no/such.jsonl}\n",
        ["no/such.jsonl", "does not exist"],
    ),
    "path_outside": (
        "experiment: {name: t, engine: fake, dataset: ../../etc/hosts.jsonl}\n",
        ["outside the project"],
    ),
    "absolute_path": (
        "experiment: {name: t, engine: fake, dataset: /etc/hosts.jsonl}\n",
        ["outside the project"],
    ),
    "a_study": ("study: {name: t}\n", ["is a study", "llmforge study"]),
    "rerank_too_few": (
        f"experiment: {{{OK}, retrieval: {{name: reranked, top_k: 9, rerank: 5}}}}\n",
        ["experiment.retrieval", "rerank (5)"],
    ),
    "password_in_url": (
        f"experiment: {{{OK}, retrieval: {{name: dense, url: 'http://anna:hunter2@host:6333'}}}}\n",
        ["experiment.retrieval.url", "QDRANT_API_KEY"],
    ),
    "threshold": (f"experiment: {{{OK}, metrics: {{threshold: 1.5}}}}\n", ["experiment.metrics.threshold"]),
    "missing_parent": (
        "extends: no_such_base.yaml\nexperiment: {name: t}\n",
        ["no_such_base.yaml", "does not exist"],
    ),
    "parent_outside": (
        "extends: ../../../../../../etc/hostname\nexperiment: {name: t}\n",
        ["extends", "outside the project"],
    ),
    "top_p_zero": (f"experiment: {{{OK}, sampling: {{top_p: 0}}}}\n", ["experiment.sampling.top_p"]),
    "temperature_nan": (
        f"experiment: {{{OK}, sampling: {{temperature: .nan}}}}\n",
        ["experiment.sampling.temperature"],
    ),
    "overlap_too_big": (
        f"experiment: {{{OK}, retrieval: {{name: dense, chunk_overlap: 256}}}}\n",
        ["experiment.retrieval", "chunk_overlap"],
    ),
    "template_field": (
        "experiment: {name: t, method: {prompt: {template: '{question.__class__}'}}}\n",
        ["experiment.method.prompt.template", "unknown field"],
    ),
    "template_without_question": (
        "experiment: {name: t, method: {prompt: {template: 'hello'}}}\n",
        ["experiment.method.prompt.template", "{question}"],
    ),
    "rag_without_retrieval": (
        "experiment: {name: t, method: rag, retrieval: none}\n",
        ["experiment.retrieval.name"],
    ),
    "no_corpus": ("experiment: {name: t, dataset: squad, retrieval: dense}\n", ["experiment.corpus"]),
    "both_words": (
        "experiment: {name: t, sampling: {top_p: 1}, hyperparameters: {top_p: 1}}\n",
        ["experiment.hyperparameters"],
    ),
    "also_built_in": (
        f"experiment: {{{OK}, metrics: {{extra: [f1]}}}}\n",
        ["experiment.metrics.extra", "'f1' is always reported"],
    ),
    "also_taken": (
        f"experiment: {{{OK}, metrics: {{extra: [tokens_saved]}}}}\n",
        ["experiment.metrics.extra", "'tokens_saved' is the name of another measure"],
    ),
    "also_twice": (
        f"experiment: {{{OK}, metrics: {{extra: [mine, mine]}}}}\n",
        ["experiment.metrics.extra", "'mine' is named twice"],
    ),
    "also_not_a_name": (
        f"experiment: {{{OK}, metrics: {{extra: ['../Mine']}}}}\n",
        ["experiment.metrics.extra.0", "'../Mine'"],
    ),
    "also_not_registered": (
        f"experiment: {{{OK}, metrics: {{extra: [no_such_metric]}}}}\n",
        ["experiment.metrics.extra", "'no_such_metric' is not registered", "import the module"],
    ),
    "too_many_shots": (
        "experiment: {name: t, engine: fake, dataset: meridia, method: {shots: 64}}\n",
        ["experiment.method.shots", "64"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_config(name, tmp_path, outputs):
    text, words = BAD[name]
    path = tmp_path / f"{name}.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    result = CliRunner().invoke(app, ["run", "--no-notebook", str(path)])
    assert result.exit_code == 2, result.output
    assert result.output.startswith("error: ") and "Traceback" not in result.output
    for word in words:
        assert word in result.output, result.output
    assert not outputs.exists() or not list(outputs.iterdir())
    assert not Path("pwned").exists()


def test_every_problem_is_named_at_once(tmp_path):
    path = tmp_path / "many.yaml"
    path.write_text("experiment: {seed: x, method: cott, sampling: {top_p: 2, foo: 1}}")
    output = CliRunner().invoke(app, ["validate", str(path)]).output
    for word in [
        "5 problems",
        "experiment.name",
        "experiment.seed",
        "experiment.method",
        "experiment.sampling.top_p",
        "experiment.sampling.foo",
    ]:
        assert word in output


def test_extends_cycle(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\nexperiment: {name: a}")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\nexperiment: {name: b}")
    with pytest.raises(ConfigError, match="extends itself: a.yaml → b.yaml → a.yaml"):
        load_config(tmp_path / "a.yaml")


def test_ambiguous_name_lists_candidates(tmp_path, monkeypatch):
    for folder in ("one", "two"):
        (tmp_path / "configs" / folder).mkdir(parents=True)
        (tmp_path / "configs" / folder / "x.yaml").write_text("experiment: {name: x}")
    monkeypatch.setenv("LLMFORGE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="ambiguous.*one/x.yaml, two/x.yaml"):
        load_config("x.yaml")


def test_shell_sees_the_exit_code(tmp_path):
    (tmp_path / "bad.yaml").write_text("experiment: {name: t, method: nope}")
    p = subprocess.run(
        [str(Path(sys.executable).parent / "llmforge"), "validate", str(tmp_path / "bad.yaml")],
        capture_output=True,
        text=True,
    )
    assert p.returncode == 2 and "experiment.method" in p.stderr and "Traceback" not in p.stderr


@pytest.mark.parametrize(
    "path",
    sorted(
        p.relative_to(project_root() / "configs")
        for p in (project_root() / "configs").rglob("*.yaml")
        if p.parent.name != "studies"
    ),
    ids=str,
)
def test_shipped_configs(path):
    text = (project_root() / "configs" / path).read_text()
    assert text.startswith("# ") and len(text.splitlines()) <= 25
    assert load_config(str(path))


def test_own_metrics_take_no_name_that_means_something():
    "Every word for a score or measure of any module is refused; other names pass, registered or not."
    words = {
        *KNOWN,
        *UNITS,
        *ALIASES,
        "mrr",
        *summarise([], load_config({"experiment": {"name": "t", "engine": "fake"}}))["metrics"],
    }
    for word in words:
        with pytest.raises(ConfigError, match="experiment.metrics.extra"):
            load_config({"experiment": {"name": "t", "metrics": {"extra": [word]}}})
    assert load_config(
        {"experiment": {"name": "t", "metrics": {"extra": ["recalled", "first_words"]}}}
    ).metrics.extra == ("recalled", "first_words")


def test_own_metrics_are_a_part_of_the_id_and_their_absence_is_not():
    plain = load_config({"experiment": {"name": "t"}})
    own = load_config({"experiment": {"name": "t", "metrics": {"extra": ["first_words"]}}})
    assert (
        "extra" not in to_yaml(plain)
        and "extra" not in str(plain.model_dump(mode="json"))
        and experiment_id(plain, "d") != experiment_id(own, "d")
    )
    assert load_config(read_yaml(to_yaml(own))) == own and load_config(read_yaml(to_yaml(plain))) == plain


def test_the_blueprint_example(tmp_path):
    path = tmp_path / "blueprint.yaml"
    path.write_text(
        'experiment: {id: "exp_001", name: "naive_vs_cot_trivia", model: "microsoft/phi-2", '
        'method: "chain_of_thought", dataset: "trivia_qa", '
        "hyperparameters: {temperature: 0.7, max_tokens: 256, top_p: 0.9}, seed: 42}"
    )
    c = load_config(path)
    assert (
        c.id,
        c.model.name,
        c.method.name,
        c.dataset.name,
        c.sampling.temperature,
        c.sampling.max_tokens,
        c.seed,
    ) == ("exp_001", "microsoft/phi-2", "chain_of_thought", "trivia_qa", 0.7, 256, 42)


def test_a_mapping_may_use_one_object_twice():
    "In a notebook one list may serve in two places; only YAML text is refused its aliases."
    both, section = ["two_hop"], {"limit": 4, "kinds": ["two_hop"]}
    made = load_config(
        {"experiment": {"name": "x", "metrics": {"also": both}, "dataset": {"kinds": both}, "corpus": None}}
    )
    assert made.metrics.extra == made.dataset.kinds == ("two_hop",)
    base = {"engine": "fake", "dataset": section}
    study = {"name": "x", "question": "?", "base": base, "arms": {"a": {"dataset": section}, "b": {}}}
    assert load_study({"study": study}).arms["a"] == {"dataset": section}
    assert experiment_id(made, "d") == experiment_id(load_config(read_yaml(to_yaml(made))), "d")


def test_a_mapping_may_hold_tuples_and_sections():
    "They count as what they are in a file, and the rules about several sections hold for them as well."
    written = {"name": "x", "dataset": {"name": "meridia", "kinds": ["two_hop"]}, "retrieval": "dense"}
    built = {
        **written,
        "dataset": DatasetConfig(name="meridia", kinds=("two_hop",)),
        "retrieval": RetrievalConfig(name="dense"),
    }
    assert load_config({"experiment": written}) == load_config({"experiment": built})
    assert ExperimentConfig(**built).corpus.name == "almanac"
    with pytest.raises(ConfigError, match="experiment.corpus: is missing"):
        load_config({"experiment": {**built, "dataset": DatasetConfig(name="squad")}})


def test_values_that_no_file_could_hold_are_named():
    "Objects and endless nesting are refused with a path, never with a traceback."
    with pytest.raises(ConfigError, match="experiment.model.revision.*received Path"):
        load_config({"experiment": {"name": "x", "model": {"revision": Path("main")}}})
    endless: list = []
    endless.append(endless)
    with pytest.raises(ConfigError, match="nested too deeply"):
        load_config({"experiment": {"name": "x", "dataset": {"kinds": endless}}})


ODD = [
    "yes",
    "no",
    "null",
    "1e3",
    "0x1f",
    "2026-12-01",
    "1:30",
    "=",
    "<<",
    "~",
    "*x",
    "&x",
    "!x",
    "- x",
    "a: b",
]
ODD += [
    "# x",
    " x ",
    "\tx",
    "x\n",
    "\n",
    "it's",
    '"',
    "\x07",
    "\x85",
    "\u2028",
    "\ufeff",
    "é 漢 🙂",
    "{",
    "%",
    "@",
    "`",
]


@pytest.mark.parametrize("text", ODD)
def test_the_resolved_config_is_a_config(text):
    "What `to_yaml` writes means the same when it is read back, whatever stands in its texts."
    prompt = {"system": text, "template": text.replace("{", "{{") + "{question}", "stop": [text, text]}
    changes = {
        "id": text,
        "method": {"prompt": prompt},
        "model": {"name": text},
        "dataset": {"kinds": [text]},
    }
    config = load_config({"experiment": {"name": "x", **changes}})
    assert load_config(read_yaml(to_yaml(config))) == config


def test_every_shipped_config_is_read_back():
    for path in sorted((project_root() / "configs").rglob("*.yaml")):
        if path.parent.name != "studies":
            config = load_config(path)
            assert load_config(read_yaml(to_yaml(config))) == config
