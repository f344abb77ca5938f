"Every test gets an outputs folder of its own; caches of public parts (model, indexes) are shared."
import os
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")       # tests never reach for a hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    "The test's own outputs folder: store, generation cache, exports."
    folder = tmp_path/"outputs"
    monkeypatch.setenv("LLMFORGE_OUTPUTS", str(folder))
    return folder
