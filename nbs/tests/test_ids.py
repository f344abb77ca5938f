"Names that survive growth: what was published keeps its id and hash when fields are added or renamed."

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import Field, create_model
from tracked import tracked

from llmforge import config as config_module
from llmforge.caching import generation_key
from llmforge.config import ExperimentConfig, experiment_id, load_config, to_yaml
from llmforge.contents import weights_of
from llmforge.core import fingerprint
from llmforge.engine import Sampling
from llmforge.exports import import_plan
from llmforge.files import project_root
from llmforge.metricsconfig import MetricsConfig
from llmforge.plan import differences, stored_study, study_json
from llmforge.studyconfig import load_study

OUTPUTS = project_root() / "outputs"
EXPERIMENTS, STUDIES = tracked("result.json"), tracked("plan.json")


def published_id(folder: Path, model=ExperimentConfig) -> str:
    "The id that a published config has today."
    about = json.loads((folder / "result.json").read_text())["experiment"]
    config = model.model_validate(load_config(folder / "config.yaml").model_dump(mode="json"))
    known = about["provenance_json"] or {}
    contents = known.get("contents", {})
    data = about["dataset_fingerprint"], about["corpus_fingerprint"], contents.get("alignment")
    return experiment_id(config, *data, known.get("code", {}), weights_of(contents))


def test_there_is_something_published():
    assert len(EXPERIMENTS) >= 78 and len(STUDIES) >= 6


@pytest.mark.parametrize("folder", EXPERIMENTS, ids=lambda p: p.name)
def test_published_ids_stay(folder):
    assert published_id(folder) == folder.name


@pytest.mark.parametrize("folder", STUDIES, ids=lambda p: p.name)
def test_frozen_plans_stay(folder):
    "The file of a published study says what was frozen; the frozen plan still has its hash."
    frozen = json.loads((folder / "plan.json").read_text())
    assert fingerprint(frozen["plan_json"]) == frozen["plan_hash"]
    now = study_json(load_study(f"studies/{folder.name.removeprefix('study-')}.yaml"))
    assert differences(frozen["plan_json"]["study"], now) == ()
    assert fingerprint(json.loads(json.dumps(now))) == fingerprint(frozen["plan_json"]["study"])


def grown(**fields):
    "ExperimentConfig with more fields in its section `metrics`."
    metrics = create_model("Metrics", __base__=MetricsConfig, **fields)
    return create_model("Grown", __base__=ExperimentConfig, metrics=(metrics, metrics()))


@pytest.mark.slow
def test_a_field_that_comes_later_changes_no_name():
    "Neither an id nor the resolved config; away from its default it does."
    later = {"ignore_case": (bool, Field(True, description="…", json_schema_extra={"since": "2026-12-01"}))}
    model = grown(**later)
    assert all(published_id(folder, model) == folder.name for folder in EXPERIMENTS)
    plain, more = load_config("naive.yaml"), model.model_validate(load_config("naive.yaml").model_dump())
    assert to_yaml(more) == to_yaml(plain) and fingerprint(more) == fingerprint(plain)
    other = more.model_copy(update={"metrics": more.metrics.model_copy(update={"ignore_case": False})})
    assert experiment_id(other, "data") != experiment_id(plain, "data") and "ignore_case" in to_yaml(other)


@pytest.mark.slow
def test_the_test_above_can_fail():
    "The same field without `since` changes every id."
    model = grown(ignore_case=(bool, True))
    assert not any(published_id(folder, model) == folder.name for folder in EXPERIMENTS)


def test_cached_generations_keep_their_keys():
    "Keys that the first caches had, and a later field of a dataclass."
    identity = {"engine": "local", "model": "m"}

    @dataclass(frozen=True)
    class Grown(Sampling):
        min_p: float = field(default=0.0, metadata={"since": "2026-12-01"})

    assert fingerprint(Grown()) == fingerprint(Sampling()) != fingerprint(Grown(min_p=0.1))
    first = {
        "identity": identity,
        "prompt": "p",
        "sampling": {"temperature": 0.0, "top_p": 1.0, "max_tokens": 32, "stop": [], "seed": 0},
    }
    assert generation_key(identity, "p", Sampling(seed=7)) == fingerprint(first, n=64)


@pytest.mark.parametrize(
    "section, old, new, value",
    [
        ("metrics", "also", "extra", ["mine"]),
        ("metrics", "faithfulness", "judge", "groundedness"),
        ("dataset", "pool", "exemplars", "meridia"),
        (None, "breaker", "max_consecutive_failures", 3),
    ],
)
def test_a_renamed_field_keeps_its_old_name_in_configs_and_ids(section, old, new, value):
    def made(name):
        change = {section: {name: value}} if section else {name: value}
        return load_config({"experiment": {"name": "demo", "retrieval": "hybrid", **change}})

    assert made(old) == made(new) and f"{new}:" in to_yaml(made(old)) and f"{old}:" not in to_yaml(made(old))
    assert experiment_id(made(old), "data", "corpus") == experiment_id(made(new), "data", "corpus")
    both = {old: value, new: value[:] if isinstance(value, list) else value}
    with pytest.raises(
        config_module.ConfigError, match=f"{old}: is another name of .*{new}; give one of them"
    ):
        load_config({"experiment": {"name": "demo", **({section: both} if section else both)}})


def test_a_stored_plan_is_read_under_its_old_names(outputs):
    "A plan frozen with former names gives the same experiments."
    from llmforge.store import Store

    store = Store()
    import_plan(store, OUTPUTS / "study-retrieval")
    study = stored_study("retrieval", store)
    assert all(id.startswith("retrieval-") for id in study.ids.values()) and not study.tampered
