"Bad input: one clear error with the field's path, exit code 2, nothing written, no traceback."

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmforge.aggregate import summarise
from llmforge.batching import FakeEngine
from llmforge.cli import app
from llmforge.complaints import section_of
from llmforge.config import ExperimentConfig, experiment_id, load_config, to_yaml
from llmforge.configfiles import find_config, read_yaml, refuse_secrets
from llmforge.core import ConfigError
from llmforge.data import load_corpus, load_dataset
from llmforge.experiment import Experiment
from llmforge.files import project_root, shipped
from llmforge.metrics import ALIASES, UNITS
from llmforge.runner import run_experiment
from llmforge.sections import DatasetConfig, RetrievalConfig
from llmforge.store import Store
from llmforge.studyconfig import KNOWN, Hypothesis, load_study
from llmforge.text import fill_template

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


def test_fields_that_stand_outside(tmp_path):
    "Of a config without its first line."
    (tmp_path / "c.yaml").write_text("name: first\ndataset: meridia\n")
    with pytest.raises(ConfigError, match="what describes an experiment goes below the key experiment"):
        load_config(tmp_path / "c.yaml")


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


def test_a_name_that_is_near_is_all_that_a_missing_config_says(tmp_path, monkeypatch):
    "It came last, behind the names of all configs."
    monkeypatch.setenv("LLMFORGE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"a name below configs/ \(did you mean 'rag_hybrid.yaml'\?\)$"):
        find_config("configs/rag_hybird.yml")
    with pytest.raises(ConfigError, match="a name below configs/: .*naive.yaml"):
        find_config("xyzxyz")


@pytest.mark.slow
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
    study = {
        "name": "x",
        "question": "?",
        "base": base,
        "arms": {"a": {"dataset": section}, "b": {"method": {"shots": 1}}},
    }
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


@pytest.mark.parametrize(
    "document",
    (
        {"name": "x\ud83d"},
        {"model": "x\ud83d"},
        {"method": {"name": "naive", "prompt": {"system": "x\ud83d"}}},
        {"x\ud83d": 1},
    ),
)
def test_half_of_a_character_is_refused_when_a_config_is_read(tmp_path, document):
    "Also in fields that take any text: `validate` said ok, and the run ended in a traceback."
    path = tmp_path / "x.yaml"
    path.write_text(json.dumps({"experiment": document}))  # JSON is YAML, and escapes the half
    with pytest.raises(ConfigError, match="line 1: '.*ud83d' has half of a character in it"):
        load_config(path)
    with pytest.raises(ConfigError, match="config: '.*ud83d' has half of a character in it"):
        load_config({"experiment": document})


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


NOTHING = ("null", "~")  # a name that may be left out is none of these


@pytest.mark.parametrize("text", ODD)
def test_the_resolved_config_is_a_config(text):
    "What `to_yaml` writes means the same when it is read back, whatever stands in its texts."
    prompt = {
        "system": "" if text in NOTHING else text,
        "template": text.replace("{", "{{") + "{question}",
        "stop": [text, text],
    }
    changes = {
        "id": text,
        "method": {"prompt": prompt},
        "model": {"name": "x" if text in NOTHING else text},
        "dataset": {"kinds": [text]},
    }
    config = load_config({"experiment": {"name": "x", **changes}})
    assert load_config(read_yaml(to_yaml(config))) == config


@pytest.mark.slow
def test_every_shipped_config_is_read_back():
    for path in sorted((project_root() / "configs").rglob("*.yaml")):
        if path.parent.name != "studies":
            config = load_config(path)
            assert load_config(read_yaml(to_yaml(config))) == config


# --- values that YAML takes otherwise than meant


def written(tmp_path, lines):
    path = tmp_path / "w.yaml"
    path.write_text("experiment:\n  name: x\n" + lines)
    return path


@pytest.mark.parametrize(
    "number", ["0123", "-0755", "+012", "00", "0_17", "1:30", "-1:30", "10:59:59", "1:30.5"]
)
@pytest.mark.parametrize("field", ["seed", "sampling", "model", "dataset"])
def test_numbers_in_base_8_and_60_are_refused_with_line_and_field(tmp_path, number, field):
    lines = {
        "seed": f"  seed: {number}\n",
        "sampling": f"  sampling:\n    temperature: {number}\n",
        "model": f"  model: {{name: a/b, revision: {number}}}\n",
        "dataset": f"  dataset: {{name: meridia, kinds: [{number}]}}\n",
    }[field]
    with pytest.raises(ConfigError, match=r"w.yaml.*line [34]:.*in base 8 or 60.*in quotes") as e:
        load_config(written(tmp_path, lines))
    last = {"sampling": "temperature: ", "model": "revision: ", "seed": "seed: ", "dataset": ""}[field]
    assert f"{last}{number} is" in str(e.value)


def test_numbers_that_are_what_they_seem(tmp_path):
    for text, seed in (("123", 123), ("0", 0), ("1_000", 1000), ("0x1F", 31)):
        assert load_config(written(tmp_path, f"  seed: {text}\n")).seed == seed
    quoted = "  model: {name: a/b, revision: '0123'}\n  sampling: {temperature: 5e-1}\n"
    config = load_config(written(tmp_path, quoted))
    assert config.model.revision == "0123" and config.sampling.temperature == 0.5


def float_fields(model, path=()):
    "The paths of the numbers that a section, or one below it, may have."
    for name, field in model.model_fields.items():
        if section := section_of(field):
            yield from float_fields(section, (*path, name))
        elif re.search(r"\bfloat\b(?!\d)", str(field.annotation)):
            yield (*path, name)


@pytest.mark.parametrize("word", ["yes", "no", "true", "off"])
@pytest.mark.parametrize("path", [*float_fields(ExperimentConfig)], ids=".".join)
def test_no_number_is_yes_or_no(path, word):
    value = read_yaml(word)
    nested = {"dense": value} if path[-1] == "weights" else value
    for part in reversed(path):
        nested = {part: nested}
    with pytest.raises(ConfigError, match=f"experiment.{'.'.join(path)}.*must be a number; received {value}"):
        load_config({"experiment": {"name": "x", **nested}})


def test_no_number_of_a_study_is_yes_or_no():
    study = {
        "name": "x",
        "question": "?",
        "base": {"engine": "fake"},
        "arms": {"a": {}, "b": {"method": {"shots": 1}}},
    }
    h = {"id": "H", "claim": "c", "treatment": "a", "control": "b"}
    for more in ({"alpha": True}, {"power": True}, {"hypotheses": [{**h, "min_effect": True}]}):
        with pytest.raises(ConfigError, match="must be a number; received True"):
            load_study({"study": {**study, **more}})


@pytest.mark.parametrize("word", ["none", "None", "NONE", "'null'", "'~'", "nil", "' none '"])
@pytest.mark.parametrize(
    "field",
    [
        *("model.name", "model.revision", "retrieval.url", "retrieval.embedding", "retrieval.reranker"),
        *("metrics.judge", "engine.bill_to", "dataset.split", "dataset.revision"),
        *("method.prompt.system", "corpus.revision"),
    ],
)
def test_none_is_no_name(word, field):
    with pytest.raises(ConfigError, match=f"experiment.{field}: .*"):
        load_config({"experiment": {"name": "x"}}, [f"{field}={word}"])


def test_none_is_no_name_in_an_arm_of_a_study():
    arms = {"a": {}, "b": {"model": {"name": "a/b", "revision": "none"}}}
    with pytest.raises(ConfigError, match="1 problem\n  experiment.model.revision: is the text 'none'"):
        load_study({"study": {"name": "x", "question": "?", "base": {"engine": "fake"}, "arms": arms}})


def test_none_is_no_metric():
    with pytest.raises(ConfigError, match=r"metrics.extra.0: is the text 'none'; .* write \[\] or leave"):
        load_config({"experiment": {"name": "x", "metrics": {"extra": ["none"]}}})


def test_where_none_is_a_name_it_stays():
    config = load_config({"experiment": {"name": "none", "id": "none", "retrieval": "none"}})
    assert (config.name, config.id, config.retrieval.name) == ("none", "none", "none")


@pytest.mark.parametrize(
    "stop", ["'\\n'", "'\\n\\n'", "'\\nQuestion:'", "'\\nquestion:'", "\\n", "'\\t'", "'\\r\\n'"]
)
def test_a_backslash_and_a_letter_are_no_line_break(tmp_path, stop):
    lines = f"  method: {{name: naive, prompt: {{stop: [{stop}]}}}}\n"
    with pytest.raises(ConfigError, match="experiment.method.prompt.stop.0: .*in double quotes"):
        load_config(written(tmp_path, lines))
    in_template = "  method: {prompt: {template: 'Q: {question}\\nA:'}}\n"
    with pytest.raises(ConfigError, match="experiment.method.prompt.template: .*in double quotes"):
        load_config(written(tmp_path, in_template))


@pytest.mark.parametrize("template", ["q: {question}\\na:", "Be brief.\\nanswer {question}"])
def test_a_line_break_before_a_small_letter(tmp_path, template):
    with pytest.raises(ConfigError, match="experiment.method.prompt.template: .*in double quotes"):
        load_config(written(tmp_path, f"  method: {{prompt: {{template: '{template}'}}}}\n"))


def test_no_agent_is_not_the_usual_agent(tmp_path):
    with pytest.raises(ConfigError, match="experiment.method.agent: must be a mapping"):
        load_config(written(tmp_path, "  method: {name: react, agent: no}\n"))


def test_backslashes_that_are_meant(tmp_path):
    lines = "  method: {prompt: {system: 'Write \\boxed{}, \\neq or \\text{}.', stop: [\"\\n\", '\\end']}}\n"
    prompt = load_config(written(tmp_path, lines)).method.prompt
    assert prompt.stop == ("\n", "\\end") and "\\neq" in prompt.system


def test_what_was_run_with_such_values_is_still_shown(outputs):
    "They are refused where a config is read; a stored one says what was run."
    store = Store()
    config = load_config({"experiment": {"name": "x", "engine": "fake"}}).model_dump(mode="json")
    config["model"]["revision"] = "none"
    config["method"]["prompt"]["stop"] = ["\\n"]
    store.create_experiment("x-12345678", "x", config, "d")
    assert Experiment("x-12345678", store).config.method.prompt.stop == ("\\n",)


@pytest.mark.parametrize("value, received", [("yes", "True"), ("12", "12"), ("2026-01-01", "datetime.date")])
def test_what_yaml_takes_for_no_text_is_to_be_quoted(tmp_path, value, received):
    message = f"experiment.model.revision: must be a text; received {received}.*; put it in quotes"
    with pytest.raises(ConfigError, match=message):
        load_config(written(tmp_path, f"  model: {{name: a/b, revision: {value}}}\n"))


@pytest.mark.parametrize("what", ["a\0b", "x" * 300, "a/" * 3000])
def test_names_that_can_be_no_path(what, tmp_path):
    for data in ({"dataset": f"{what}.jsonl"}, {"corpus": f"{what}/", "retrieval": "sparse"}):
        config = load_config({"experiment": {"name": "x", **data}})
        with pytest.raises(ConfigError, match="can be no path"):
            load_dataset(config.dataset) if "dataset" in data else load_corpus(config.corpus)
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(what)


# --- templates are filled by replacing


@pytest.mark.parametrize(
    "written",
    [
        *("{question!z}", "{question!r}", "{question:>1000000000}", "{question:.5}", "{question:{passages}}"),
        *(
            "{question.__class__}",
            "{question[0]}",
            "{question!s:>9}",
            "{}",
            "{0}",
            "{question!}",
            "{question",
        ),
        *("}", "{question }", "{ question}", "{question:}{question:d}"),
    ],
)
def test_templates_have_bare_fields_only(written):
    for field, also in (("template", "{question}"), ("reply", "{answer}"), ("passage", "{text}")):
        prompt = {field: also + written.replace("question", also.strip("{}"))}
        with pytest.raises(ConfigError, match=f"experiment.method.prompt.{field}: "):
            load_config({"experiment": {"name": "x", "method": {"prompt": prompt}}})


def test_what_is_filled_in_is_no_template():
    assert fill_template("{{{a}}} {b}", a="{b} {0}", b="%s {a.__class__}") == "{{b} {0}} %s {a.__class__}"


# --- what the system refuses


@pytest.mark.parametrize("variable", ["LLMFORGE_OUTPUTS", "LLMFORGE_HOME"])
@pytest.mark.parametrize("place", ["f", "f/below", "n" * 300])
def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path, monkeypatch, variable, place):
    (tmp_path / "f").write_text("x")
    monkeypatch.setenv(variable, str(tmp_path / place))
    monkeypatch.delenv("LLMFORGE_STORE", raising=False)
    if variable == "LLMFORGE_HOME":
        monkeypatch.delenv("LLMFORGE_OUTPUTS", raising=False)
    for command in (["list"], ["show", "x"], ["export", "x"], ["import", str(tmp_path)]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2 and result.output.startswith("error: the folder "), result.output
        assert "LLMFORGE_OUTPUTS may name another" in result.output and result.output.count("\n") == 1


@pytest.mark.slow
def test_a_place_that_cannot_be_written_is_one_sentence(outputs, tmp_path):
    (tmp_path / "f").write_text("x")
    store = Store()
    config = load_config(read_yaml(f"experiment: {{{OK}}}"))
    run_experiment(config, store, FakeEngine(" x"), show=False)
    for place in ("f", "f/below"):
        result = CliRunner().invoke(app, ["export", "t", str(tmp_path / place)])
        said = re.match("error: (Not a directory|File exists): ", result.output)
        assert result.exit_code == 1 and said, result.output
        assert result.output.count("\n") == 1


# --- keys in configs


@pytest.mark.parametrize(
    "secret", ["it's-a-secret", 'say"cheese"', "back\\slash-1", "both'and\"too", "12345678901"]
)
@pytest.mark.parametrize("around", ["{}", "a ' and a \" and {}", "\\n{}\n", "'{}'", '"{}"'])
def test_a_secret_is_found_whatever_stands_around_it(monkeypatch, secret, around):
    monkeypatch.setenv("SOME_API_KEY", secret)
    text = around.format(secret)
    digits = [{"seed": int(secret)}] if secret.isdigit() else []
    for data in (
        {"method": {"prompt": {"system": text}}},
        {"x": [{"y": (text,)}]},
        {"z": {text: 1}},
        *digits,
    ):
        with pytest.raises(ConfigError, match="the value of the environment variable SOME_API_KEY") as e:
            refuse_secrets(data, "x.yaml")
        assert secret not in str(e.value)


@pytest.mark.parametrize(
    "line, words",
    [
        ("sampling:", "sampling: must be a mapping with temperature, .*; received None; leave it out"),
        ("sampling: greedy", "sampling: must be a mapping with temperature, top_p, .*; received 'greedy'$"),
        ("dataset: [almanac]", r"dataset: must be a mapping with name, .*; received \['almanac'\]$"),
        ("retrieval: off", "retrieval: must be a mapping with name, .*; received False; YAML reads yes, no"),
        ("retrieval: {name: sparse, weights: 3}", "retrieval.weights: must be a mapping; received 3"),
        ("dataset: {name: almanac, kinds: single}", "dataset.kinds: must be a list, e.g. .*'single'$"),
    ],
)
def test_a_value_in_the_place_of_another_says_what_belongs_there(tmp_path, line, words):
    (tmp_path / "x.yaml").write_text(f"experiment:\n  name: t\n  {line}\n")
    with pytest.raises(ConfigError, match=rf"x.yaml: 1 problem\n  experiment.{words}"):
        load_config(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    "override, words",
    [
        ("retrieval.top_k=0", "must be at least 1; received 0"),
        ("sampling.top_p=0", "must be above 0; received 0"),
        ("sampling.temperature=9", "must be at most 5.0; received 9"),
        ("metrics.confidence=1", "must be below 1.0; received 1"),
        ("sampling.temperature=.inf", "must be a finite number; received inf"),
        ("sampling.max_tokens=1e3", "must be a whole number; received '1e3'"),
        ("seed=1.5", "must be a whole number; received 1.5"),
        ("retrieval.weights={dense: x}", "must be a number; received 'x'"),
        ("engine.cache=2", "must be true or false; received 2"),
        ("engine.cache=maybe", "must be true or false; received 'maybe'"),
        ("model.name=''", "must not be empty; received ''"),
        ("metrics.extra=[A]", "must be at most 40 letters (a to z), digits or any of _; received 'A'"),
    ],
)
def test_what_a_field_must_be_is_said_in_words(override, words):
    "None of pydantic's: a valid dictionary, greater than or equal to, unable to parse string."
    with pytest.raises(ConfigError, match=f": {re.escape(words)}$"):
        load_config({"experiment": {"name": "x"}}, [override])


def test_a_study_of_one_arm_says_what_is_missing():
    study = {"name": "s", "question": "q", "base": {}, "arms": {"a": {}}}
    with pytest.raises(ConfigError, match="study.arms: must have at least 2 entries, and has 1; received"):
        load_study({"study": study})


@pytest.mark.parametrize("field", ["min_effect", "margin"])
def test_an_effect_of_a_share_is_a_share(field):
    "Five points are 0.05; a difference of 5 could only be refuted."
    h = {"id": "H1", "claim": "b is better", "treatment": "b", "control": "a"}
    for metric in ("accuracy", "f1", "ungrounded_rate", "recall@5"):
        with pytest.raises(ValueError, match=f"{metric} is a share, so that 5 points are 0.05; received 5"):
            Hypothesis.model_validate({**h, "metric": metric, field: 5})
    for metric, least in (("latency_ms", 50), ("steps", 2), ("accuracy", 1)):
        assert getattr(Hypothesis.model_validate({**h, "metric": metric, field: least}), field) == least


@pytest.mark.parametrize(
    "text, received", [("study:\n", r"study \(NoneType\)"), ("study: []\n", r"study \(list\)")]
)
def test_a_study_is_a_mapping(tmp_path, text, received):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"the one key 'study', a mapping; received {received}"):
        load_study(tmp_path / "s.yaml")


@pytest.mark.parametrize("text", ["experiment: {name: x}\n", "extends: naive\n"])
def test_an_experiment_is_no_study(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match="x.yaml: is an experiment, not a study; run it with llmforge run"):
        load_study(tmp_path / "x.yaml")
    (tmp_path / "s.yaml").write_text("study: {name: s}\n")
    with pytest.raises(
        ConfigError, match="s.yaml: is a study, not an experiment; run it with llmforge study"
    ):
        load_config(tmp_path / "s.yaml")


def test_a_mapping_extends_nothing():
    "It was left out without a word."
    with pytest.raises(ConfigError, match="config: extends: is for files"):
        load_config({"extends": "cot", "experiment": {"name": "x"}})


def test_a_folder_where_a_file_is_meant_is_called_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    with pytest.raises(ConfigError, match="config 'docs' is a folder; name a file in it"):
        find_config("docs")
    for field, words in (("corpus", "or of a folder of documents, which ends with /"), ("dataset", "csv")):
        with pytest.raises(
            ConfigError, match=f"{field}.name: 'docs' is a folder; allowed: the path of .*{words}"
        ):
            load_config({"experiment": {"name": "x", field: "docs"}})


def test_a_name_that_cannot_be_is_refused_in_words():
    with pytest.raises(
        ConfigError, match=r"name: must be at most 64 letters \(A to Z\), digits or any of _-;.*'a b'"
    ):
        load_config({"experiment": {"name": "a b"}})


def test_a_config_of_another_project_is_run_there(tmp_path, monkeypatch):
    "Its questions would be looked for here: `../b/configs/own.yaml` was run on the questions of a."
    monkeypatch.delenv("LLMFORGE_HOME", raising=False)
    for name in ("a", "b"):
        (tmp_path / name / "configs").mkdir(parents=True)
        (tmp_path / name / "llmforge-project.txt").write_text("")
        (tmp_path / name / "configs" / "own.yaml").write_text(f"experiment: {{name: {name}}}\n")
        (tmp_path / name / "configs" / "s.yaml").write_text("study: {name: s}\n")
    (tmp_path / "loose.yaml").write_text("experiment: {name: loose}\n")
    for here, load in ((tmp_path / "a", load_config), (tmp_path, load_study)):
        monkeypatch.chdir(here)
        file = "own" if load is load_config else "s"
        with pytest.raises(ConfigError, match=f"{file}.yaml: belongs to the project .*b, .*: cd .*b$"):
            load(tmp_path / "b" / "configs" / f"{file}.yaml")
    monkeypatch.chdir(tmp_path / "a")
    assert load_config("own.yaml").name == load_config(tmp_path / "a" / "configs" / "own.yaml").name == "a"
    assert load_config("../loose.yaml").name == "loose"
    assert load_config(shipped("configs") / "reasoning" / "naive.yaml").name
    monkeypatch.setenv("LLMFORGE_HOME", str(tmp_path / "a"))  # whoever chose it means it
    assert load_config("../b/configs/own.yaml").name == "b"


@pytest.mark.parametrize(
    "override, words",
    [
        (
            "temperature=0.5",
            r"experiment.temperature: unknown key; .* \(there is experiment.sampling.temperature\)",
        ),
        ("sampling.seed=3", r"\(there is experiment.seed\)"),
        ("method.tools=[calculator]", r"\(there is experiment.method.agent.tools\)"),
        ("limit=5", r"\(there is experiment.dataset.limit or experiment.corpus.limit\)"),
        ("retrieval.topk=3", r"\(did you mean 'top_k'\?\)"),
        ("foo=3", "max_consecutive_failures"),
    ],
)
def test_the_right_word_in_the_wrong_place_is_told_where_it_belongs(override, words):
    with pytest.raises(ConfigError, match=f"{words}$"):
        load_config({"experiment": {"name": "x"}}, [override])


def test_a_key_of_a_claim_beside_the_claims_is_told_where_it_belongs():
    study = {"name": "s", "question": "q", "base": {}, "arms": {"a": {}, "b": {}}, "control": "a"}
    with pytest.raises(ConfigError, match=r"study.control: .* \(there is study.*hypotheses.control\)$"):
        load_study({"study": study})
