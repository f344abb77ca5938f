"Preference pairs, training, adapters: what is refused before anything is trained; what is the same twice."

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from executing import start
from typer.testing import CliRunner

from llmforge.cli import app
from llmforge.config import experiment_id, load_config, to_yaml
from llmforge.contents import NUMBERS, SETTINGS, adapter_content
from llmforge.core import ConfigError, DataError, EngineError, engines
from llmforge.engine import Sampling
from llmforge.engineconfig import EngineConfig
from llmforge.pairfiles import to_pair
from llmforge.pairs import almanac_pairs, load_pairs, split_pairs
from llmforge.plan import study_json
from llmforge.studyconfig import experiments, load_study
from llmforge.trainings import read_training
from llmforge.verification import verify_study

ASKED, SYSTEM = {"role": "user", "content": "Is it late?"}, {"role": "system", "content": "Be brief."}
SAID, NO = {"role": "assistant", "content": "It is."}, {"role": "assistant", "content": "No."}
TALK = "\n\nHuman: Is it late?\n\nAssistant:"


def pair(i=0, **more):
    prompt = [{"role": "user", "content": f"What is {i} and {i}?"}]
    return {"id": f"p{i}", "prompt": prompt, "chosen": f"It is {2 * i}.", "rejected": "Who knows?", **more}


def write(path, records):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
    return path.name


def config(**more):
    alignment = {"name": "dpo", **more.pop("alignment", {})}
    return load_config({"experiment": {"name": "demo", "alignment": alignment, **more}})


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A folder in which configs may name files, and a cache of its own for adapters."
    monkeypatch.setenv("LLMFORGE_DATA", str(tmp_path))
    return tmp_path


def small_model(folder, width=64):
    "A language model of two thin layers and 400 tokens, with the embedded model's chat template."
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from llmforge.model import embedded_model

    whole = AutoTokenizer.from_pretrained(embedded_model())
    texts = [whole.apply_chat_template(pair(i)["prompt"], tokenize=False) for i in range(100)]
    tokenizer = whole.train_new_from_iterator([*texts, "It is 4. Who knows?"], 400)
    torch.manual_seed(0)
    shape = {"hidden_size": width, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    made = LlamaConfig(
        vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=512, **shape, **ends
    )
    LlamaForCausalLM(made).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "The folder of a model so small that a step of training takes milliseconds."
    pytest.importorskip("trl")
    return small_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def training(tiny, tmp_path_factory):
    "A training that several tests look at: its config, and its adapter's folder."
    from llmforge.align import dpo_adapter

    work = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as m:
        m.setenv("LLMFORGE_DATA", str(work))
        m.setenv("LLMFORGE_CACHE", str(work / "cache"))
        asked = config_of(tiny, work, epochs=4)
        return asked, dpo_adapter(asked)


@pytest.fixture
def shared(training, monkeypatch):
    "The same, with the folders in which its pairs and its adapter are found."
    work = training[1].parents[2]
    monkeypatch.setenv("LLMFORGE_DATA", str(work))
    monkeypatch.setenv("LLMFORGE_CACHE", str(work / "cache"))
    return training


WRONG = {
    "nothing in it": ([], "0 pairs, at least 10 are needed"),
    "too few": ([pair(i) for i in range(9)], "9 pairs, at least 10 are needed"),
    "one prompt": ([pair(0, id=str(i), chosen=f"{i}") for i in range(40)], "with several prompts"),
    "equal replies": ([pair(0), pair(1, rejected=" It is 2. ")], "line 2: 'chosen' and 'rejected' are equal"),
    "no rejected": ([{"prompt": "a", "chosen": "b"}], "line 1: field 'rejected' is missing"),
    "empty prompt": ([pair(0, prompt=" ")], "field 'prompt' is empty"),
    "empty conversation": ([pair(0, prompt=[])], "must end with a turn of the user; its last turn: none"),
    "empty reply": ([pair(0, rejected="")], "field 'rejected' is empty"),
    "a number": ([pair(0, chosen=4)], "must be a text or a list of messages; received int"),
    "null": ([pair(0, chosen=None)], "must be a text or a list of messages; received NoneType"),
    "ends with assistant": (
        [pair(0, prompt=[ASKED, {"role": "assistant", "content": "No."}])],
        "its last turn: assistant",
    ),
    "unknown role": ([pair(0, prompt=[{"role": "bot", "content": "x"}])], "received 'bot'; allowed: system"),
    "no content": ([pair(0, prompt=[{"role": "user"}])], "must be a message with role and content"),
    "a question as reply": (
        [pair(0, chosen=[ASKED, ASKED])],
        "'chosen' must end with a turn of the assistant",
    ),
    "a call of a tool": (
        [pair(0, chosen=[{**SAID, "tool_calls": [{"name": "clock"}]}])],
        "'chosen.0.tool_calls': calls of tools cannot be trained on",
    ),
    "a result of a tool": ([pair(0, prompt=[{"role": "tool", "content": "5"}])], "received 'tool'; allowed"),
    "half a character": ([pair(0, chosen="a\ud800")], "has half of a character"),
    "half a character in an id": ([pair(0, id="a\ud800")], "field 'id' has half of a character"),
    "an id that is a list": ([pair(0, id=[1])], "id must be a text or a number; received [1]"),
    "invisible": ([pair(0, rejected="\u200b\xa0\ufeff")], "field 'rejected' is empty"),
    "equal, but for the form": ([pair(0, chosen="caf\u00e9", rejected="cafe\u0301")], "are equal"),
    "white space asked": ([pair(0, prompt=[SYSTEM, {"role": "user", "content": " "}])], "'prompt' is empty"),
    "a system prompt beside": ([pair(0, system="Be brief.")], "field 'system' is not read"),
    "texts without a prompt": ([{"chosen": "a b", "rejected": "a c"}], "field 'prompt' is missing"),
    "dialogues that part": (
        [{"chosen": f"{TALK} No.\n\nHuman: So?\n\nAssistant: x", "rejected": f"{TALK} Yes."}],
        "'chosen' and 'rejected' differ before the last reply",
    ),
    "dialogues that end with a question": (
        [{"chosen": f"{TALK} No.\n\nHuman: So?", "rejected": f"{TALK} Yes."}],
        "'chosen' must end with a turn of the assistant; its last turn: user",
    ),
    "of another prompt": (
        [{"prompt": "Is it early?", "chosen": [ASKED, SAID], "rejected": [ASKED, NO]}],
        "'chosen' and 'rejected' are conversations that do not begin with 'prompt'",
    ),
    "replies to nothing": ([{"chosen": [SAID], "rejected": [NO]}], "field 'prompt' is missing"),
    "as NumPy prints them": (
        [{"chosen": "[{'role': 'user'}\n {'role': 'assistant'}]", "rejected": "x"}],
        "are messages as NumPy prints them, or cut; write a JSON list",
    ),
    "twice": ([pair(0), *(pair(i) for i in range(20))], "the pair 'p0' occurs twice"),
    "the same without ids": (
        [{**pair(i % 19), "id": None} for i in range(20)],
        "occurs twice (preferred: 'It is 0.'); leave one out",
    ),
    "not JSON": (["{"], "line 1: not JSON"),
    "a list": (["[]"], "line 1: must be an object; received list"),
}


@pytest.mark.parametrize("records, message", WRONG.values(), ids=WRONG)
def test_wrong_pairs_are_refused_with_their_line(records, message, project):
    write(project / "mine.jsonl", records)
    with pytest.raises(DataError) as e:
        load_pairs(config(alignment={"data": "mine.jsonl"}).alignment)
    assert message in str(e.value) and "\n" not in str(e.value)


LATE, WITH_SYSTEM = [ASKED], [SYSTEM, ASKED]
AGAIN = [ASKED, NO, {"role": "user", "content": "Sure?"}]
WHOLE = {  # as the hub has them: a record, and the turns that are replied to
    "HH-RLHF": ({"chosen": f"{TALK} It is.", "rejected": f"{TALK} No."}, LATE),
    "HH-RLHF, stripped": ({"chosen": f"{TALK} It is.".strip(), "rejected": f"{TALK} No.".strip()}, LATE),
    "HH-RLHF, from Windows": (
        {"chosen": f"{TALK} It is.".replace("\n", "\r\n"), "rejected": f"{TALK} No.\n"},
        LATE,
    ),
    "HH-RLHF, two turns": (
        {
            f: f"{TALK} No.\n\nHuman: Sure?\n\nAssistant: {r['content']}"
            for f, r in (("chosen", SAID), ("rejected", NO))
        },
        AGAIN,
    ),
    "with its prompt": ({"prompt": TALK, "chosen": f"{TALK} It is.", "rejected": f"{TALK} No."}, LATE),
    "TRL's without a prompt": ({"chosen": [ASKED, SAID], "rejected": [ASKED, NO]}, LATE),
    "the same in cells": ({"chosen": str([ASKED, SAID]), "rejected": json.dumps([ASKED, NO])}, LATE),
    "a prompt that is null": ({"prompt": None, "chosen": [*AGAIN, SAID], "rejected": [*AGAIN, NO]}, AGAIN),
    "UltraFeedback": (
        {"prompt": "Is it late?", "chosen": [ASKED, SAID], "rejected": [ASKED, NO], "score_chosen": 8.0},
        LATE,
    ),
    "its first turn as prompt": (
        {"prompt": "Is it late?\n", "chosen": [*AGAIN, SAID], "rejected": [*AGAIN, NO]},
        AGAIN,
    ),
    "system only in the replies": (
        {"prompt": LATE, "chosen": [*WITH_SYSTEM, SAID], "rejected": [*WITH_SYSTEM, NO]},
        WITH_SYSTEM,
    ),
    "system only in the prompt": (
        {"prompt": WITH_SYSTEM, "chosen": [ASKED, SAID], "rejected": [ASKED, NO], "system": "Be brief."},
        WITH_SYSTEM,
    ),
    "a text and messages": ({"prompt": "Is it late?", "chosen": [SAID], "rejected": [NO]}, LATE),
    "one of them a text": ({"prompt": LATE, "chosen": "It is.", "rejected": [ASKED, NO]}, LATE),
}


@pytest.mark.parametrize("record, asked", WHOLE.values(), ids=WHOLE)
def test_whole_conversations_as_replies(record, asked):
    "What both begin with is the prompt; the replies are their last turns."
    got = to_pair(record)
    assert [{"role": m.role, "content": m.content} for m in got.prompt] == asked
    assert (got.chosen, got.rejected) == ("It is.", "No.")
    as_usual = to_pair({"prompt": asked, "chosen": [SAID], "rejected": [NO]})
    assert (got.id, got.group) == (as_usual.id, as_usual.group)


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".json", ".parquet", ".jsonl.gz"])
def test_files_of_pairs_of_every_kind(kind, project):
    pd = pytest.importorskip("pandas")
    records = [
        {"chosen": [ASKED, {**SAID, "content": f"{i}"}], "rejected": [ASKED, NO], "id": i} for i in range(5)
    ]
    records += [
        {"prompt": f"{i}?", "chosen": f"It is {i}.", "rejected": "No.", "id": i} for i in range(5, 20)
    ]
    table, path = pd.DataFrame(records), project / f"mine{kind}"
    for column in ("chosen", "rejected") if kind != ".jsonl.gz" else ():
        table[column] = [v if isinstance(v, str) else json.dumps(v) for v in table[column]]
    if kind in (".csv", ".tsv"):
        table.to_csv(path, index=False, sep="," if kind == ".csv" else "\t")
    elif kind == ".parquet":
        pytest.importorskip("pyarrow")
        table.to_parquet(path)
    else:
        table.to_json(path, orient="records", lines=kind == ".jsonl.gz")
    pairs = load_pairs(config(alignment={"data": path.name}).alignment)
    assert {(p.id, p.chosen) for part in (pairs.train, pairs.validation, pairs.test) for p in part} == {
        (str(i), str(i) if i < 5 else f"It is {i}.") for i in range(20)
    }


def test_all_that_is_wrong_in_a_file_is_told_at_once(project):
    bad = [{"prompt": "a", "chosen": "b"}] * 3
    write(project / "mine.jsonl", [*(pair(i) for i in range(20)), *bad, pair(1, chosen="Who knows?")])
    with pytest.raises(DataError) as e:
        load_pairs(config(alignment={"data": "mine.jsonl"}).alignment)
    assert "2 problems\n  line 21, and 2 more: field 'rejected'" in str(e.value) and "line 24" in str(e.value)


def test_pairs_as_texts_messages_and_transcripts(project):
    "The same pair in three notations; a text without turns is gone on from as it is."
    turns = {"prompt": [ASKED], "chosen": [{"role": "assistant", "content": "No."}], "rejected": "Yes."}
    transcript = {"prompt": "\n\nHuman: Is it late?\n\nAssistant:", "chosen": "No.", "rejected": "Yes."}
    assert to_pair(turns).prompt == to_pair(transcript).prompt and to_pair(turns).chosen == "No."
    assert to_pair({**transcript, "prompt": "It is"}).prompt == "It is"


def test_a_prompt_is_on_one_side_only():
    "Pairs with the same prompt are all trained on or all held out; the order of a file means nothing."
    pairs = [to_pair(pair(i // 3, id=f"{i}", chosen=f"Say {i}.")) for i in range(120)]
    whole = split_pairs(pairs, "mine")
    prompts = [{p.prompt for p in part} for part in (whole.train, whole.validation, whole.test)]
    assert not prompts[0] & prompts[1] and not prompts[0] & prompts[2] and not prompts[1] & prompts[2]
    assert split_pairs(pairs[::-1], "mine") == whole


@pytest.mark.slow
def test_fewer_pairs_are_the_beginning_of_more():
    few, many = (load_pairs(config(alignment={"pairs": n}).alignment) for n in (50, 200))
    assert many.train[:50] == few.train and many.test == few.test


def test_embedded_pairs():
    "None about a fact that the Almanac asks for; lengths matched; wording and value alone tell nothing."
    from llmforge.almanac import almanac

    pairs = almanac_pairs()
    asked = {fact for e in (*almanac().examples, *almanac().pool) for fact in e.meta["facts"]}
    assert not {p.id.split("/", 2)[2] for p in pairs} & asked
    assert len(pairs) == len({p.id for p in pairs}) == 600
    for kind in ("wrong value", "false abstention", "evasion", "invention"):
        own = [p for p in pairs if p.kind == kind]
        sizes = [sum(len(r) for r in side) for side in zip(*((p.chosen, p.rejected) for p in own))]
        assert 0.9 < sizes[0] / sizes[1] < 1.1, kind
    words = ("passage", "text")
    abstains = [any(w in r for w in words) for p in pairs for r in (p.chosen, p.rejected)]
    chosen = sum(abstains[::2])
    assert 0.4 < chosen / sum(abstains) < 0.6  # an abstention is as often the better reply as the worse


def test_shuffled_labels_change_the_training_pairs_only():
    given, shuffled = (load_pairs(config(alignment={"labels": x}).alignment) for x in ("given", "shuffled"))
    swapped = [a.chosen == b.rejected for a, b in zip(given.train, shuffled.train)]
    assert 0.4 < sum(swapped) / len(swapped) < 0.6 and given.test == shuffled.test


def test_balanced_labels_leave_nothing_to_learn_by_chance():
    "Half of all change places, and of each kind but for an odd one; another seed swaps others."
    loaded = {}
    for n, seed in ((2, 0), (20, 0), (20, 1), (200, 0), (200, 1)):
        given, balanced = (
            load_pairs(config(alignment={"labels": x, "pairs": n, "seed": seed}).alignment)
            for x in ("given", "balanced")
        )
        kinds = [a.kind for a, b in zip(given.train, balanced.train) if a.chosen == b.rejected]
        for kind in {p.kind for p in given.train}:
            assert abs(2 * kinds.count(kind) - sum(p.kind == kind for p in given.train)) <= 1
        assert 2 * len(kinds) == n and given.test == balanced.test
        loaded[n, seed] = balanced.fingerprint
    assert len(set(loaded.values())) == 5


def test_ids_hold_what_determines_answers_and_nothing_else():
    plain = load_config({"experiment": {"name": "demo"}})
    beside = load_config({"experiment": {"name": "demo", "alignment": {"name": "none", "beta": 0.5}}})
    assert experiment_id(plain, "d") == experiment_id(beside, "d") and "alignment" not in to_yaml(plain)
    ids = {experiment_id(config(alignment=more), "d") for more in ({}, {"beta": 0.2}, {"labels": "shuffled"})}
    ids |= {experiment_id(plain, "d"), experiment_id(config(), "d", None, "these pairs")}
    assert len(ids) == 5


def test_alignment_is_an_arm():
    study = load_study(
        {
            "study": {
                "name": "tax",
                "question": "What does it cost?",
                "base": {"name": "x", "dataset": {"name": "meridia", "limit": 8}},
                "arms": {
                    "base": {},
                    "dpo": {"alignment": "dpo"},
                    "strong": {"alignment": {"name": "dpo", "beta": 0.5}},
                },
            }
        }
    )
    arms = {arm: e.alignment for (arm, _, _), e in experiments(study).items()}
    assert [a.name for a in arms.values()] == ["none", "dpo", "dpo"] and arms["strong"].beta == 0.5
    assert study_json(study)


@pytest.mark.slow
def test_an_aligned_study_is_verified(project, outputs):
    "The ids of its experiments are made again from what their results say of the pairs."
    pytest.importorskip("trl")
    from llmforge.batching import FakeEngine
    from llmforge.study import run_study

    data = write(project / "mine.jsonl", [pair(i) for i in range(20)])
    base = {"name": "x", "dataset": {"name": "meridia", "limit": 4}, "method": {"shots": 0}}
    arms = {"base": {}, "dpo": {"alignment": {"name": "dpo", "data": data}}}
    study = {"name": "tax", "question": "What does it cost?", "base": base, "arms": arms}
    run_study(load_study({"study": study}), make=lambda config: FakeEngine(lambda *_: " 4"), show=False)
    said = list(map(str, verify_study(outputs / "study-tax")))
    assert not any(line.startswith("FAILED") for line in said), said
    assert any("ids" in line for line in said), said


WRONG_CONFIGS = [
    ({"alignment": {"name": "ppo"}}, "alignment.name"),
    ({"alignment": {"name": "dpo", "data": "hh"}}, "unknown preferences 'hh'"),
    ({"alignment": {"name": "dpo", "beta": 0}}, "alignment.beta"),
    ({"alignment": {"name": "dpo", "lora": {"r": 0}}}, "alignment.lora.r"),
    ({"alignment": {"name": "dpo", "betta": 0.1}}, "alignment.betta"),
    ({"alignment": "adapter"}, "adapter: is missing"),
    ({"alignment": "dpo", "engine": "fake"}, "does not load; allowed: engine.name local, openvino or vllm"),
    ({"alignment": "dpo", "engine": {"name": "vllm", "server": {"lora": "x"}}}, "a model has one adapter"),
]


@pytest.mark.parametrize("experiment, message", WRONG_CONFIGS, ids=lambda x: x if isinstance(x, str) else "")
def test_wrong_configs(experiment, message):
    with pytest.raises(ConfigError, match="demo|experiment") as e:
        load_config({"experiment": {"name": "demo", **experiment}})
    assert message in str(e.value)


def test_train_refuses_what_is_not_to_be_trained():
    said = CliRunner().invoke(app, ["train", "naive.yaml"])
    assert said.exit_code == 2 and "there is nothing to train; received 'none'" in said.output


# ---------------------------------------------------------------- with a model


def config_of(model, project, n=20, **alignment):
    "A training of a small model on some pairs."
    data = write(project / "mine.jsonl", [pair(i) for i in range(n)])
    asked = {"data": data, "learning_rate": 1e-2, "max_length": 256, **alignment}
    return config(model={"name": str(model)}, alignment=asked)


@pytest.mark.slow
def test_it_learns_and_is_found_again(shared):
    "Loss ln 2 and margin 0 at first, less and more at the end; the second call trains nothing."
    from llmforge.align import adapter_path, dpo_adapter

    asked, folder = shared
    record = read_training(folder)
    first, last = record.steps[0], record.steps[-1]
    assert abs(first["loss"] - 0.6931) < 1e-3 and abs(first["margin"]) < 1e-4 and len(record.steps) == 16
    assert last["margin"] > 0.3 and last["loss"] < 0.6
    assert record.about["pairs"] == {"kept": 16, "dropped": 0, "cut": 0}
    made = (folder / NUMBERS).stat().st_mtime_ns
    assert dpo_adapter(asked) == folder and (folder / NUMBERS).stat().st_mtime_ns == made
    stronger = asked.model_copy(update={"alignment": asked.alignment.model_copy(update={"beta": 0.2})})
    assert adapter_path(stronger, load_pairs(stronger.alignment)) != folder
    assert json.loads((folder / SETTINGS).read_text())["base_model_name_or_path"] == asked.model.name


@pytest.mark.slow
def test_pairs_that_do_not_fit(tiny, project, monkeypatch, tmp_path):
    "Refused with numbers before anything is trained; left out and counted where the config allows it."
    monkeypatch.setenv("LLMFORGE_CACHE", str(tmp_path / "cache"))
    from llmforge.align import dpo_adapter

    long = [{"role": "user", "content": "How late? " * 60}]
    data = write(
        project / "mine.jsonl",
        [pair(i, **({"prompt": [*long, *pair(i)["prompt"]]} if i % 2 else {})) for i in range(20)],
    )
    asked = {"data": data, "max_length": 64}
    with pytest.raises(
        DataError, match=r"of 16 pairs have a prompt that leaves no room .* \(the longest: \d+ tokens\)"
    ):
        dpo_adapter(config(model={"name": str(tiny)}, alignment=asked))
    assert not list((tmp_path / "cache" / "adapters").glob("dpo-*/checkpoint*"))
    folder = dpo_adapter(config(model={"name": str(tiny)}, alignment={**asked, "too_long": "drop"}))
    counts = read_training(folder).about["pairs"]
    assert counts["dropped"] and counts["kept"] + counts["dropped"] == 16


@pytest.mark.slow
def test_a_model_without_chat_template(tiny, project, monkeypatch, tmp_path):
    from llmforge.align import dpo_adapter

    monkeypatch.setenv("LLMFORGE_CACHE", str(tmp_path / "cache"))
    mute = tmp_path / "mute"
    shutil.copytree(tiny, mute)
    (mute / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="has no chat template, and the pairs are conversations"):
        dpo_adapter(config_of(mute, project))


OTHER_ADAPTERS = {  # peft puts all of these on the model, with the values that an untrained adapter has
    '{"peft_type": "IA3"}': "peft_type is 'IA3'",
    '{"target_modules": null}': "of its matrices have no place there, or are missing",
    '{"use_dora": true}': "of its matrices have no place there, or are missing",
    '{"r": 0}': "r is 0",
}
OTHER_MATRICES = {  # and these
    "none": (lambda kv: ("", kv[1]), "has not two matrices, lora_A and lora_B"),
    "one of two": (lambda kv: (kv[0] if "lora_A" in kv[0] else "", kv[1]), "has not two matrices"),
    "of other layers": (lambda kv: (kv[0].replace(".layers.", ".blocks."), kv[1]), "have no place there"),
    "no numbers": (lambda kv: (kv[0], kv[1] * float("nan")), "holds NaN or infinity"),
}


@pytest.mark.slow
def test_adapters_that_do_not_belong_to_the_model(tiny, training, tmp_path):
    "One of another model by its name, one whose sizes do not fit, one of which not all fits, and none."
    from safetensors.torch import load_file, save_file

    from llmforge.adapters import check_adapter
    from llmforge.model import load_model, with_adapter
    from llmforge.sections import ModelConfig

    folder = shutil.copytree(training[1], tmp_path / "adapter")
    settings = json.loads((folder / SETTINGS).read_text())
    loaded = load_model(ModelConfig(name=str(tiny)))
    assert with_adapter(loaded, folder).identity["adapter"] == adapter_content(folder)
    wider = small_model(tmp_path / "wider", width=128)
    with pytest.raises(EngineError, match="does not fit the model"):
        with_adapter(load_model(ModelConfig(name=str(wider))), folder)
    for other, message in OTHER_ADAPTERS.items():
        (folder / SETTINGS).write_text(json.dumps(settings | json.loads(other)))
        with pytest.raises((ConfigError, EngineError), match=message):
            with_adapter(load_model(ModelConfig(name=str(tiny))), folder)
    (folder / SETTINGS).write_text(json.dumps(settings))
    for change, message in OTHER_MATRICES.values():
        whole = load_file(training[1] / NUMBERS)
        save_file({k: v for k, v in map(change, whole.items()) if k}, folder / NUMBERS)
        with pytest.raises((ConfigError, EngineError), match=message):
            with_adapter(load_model(ModelConfig(name=str(tiny))), folder)
    for size in (0, 5, 100, -10):
        (folder / NUMBERS).write_bytes((training[1] / NUMBERS).read_bytes()[:size])
        with pytest.raises(ConfigError, match="adapter_model.safetensors is damaged"):
            check_adapter(folder, str(tiny))
    shutil.copy(training[1] / NUMBERS, folder / NUMBERS)
    (folder / SETTINGS).write_text(json.dumps(settings | {"base_model_name_or_path": "org/other"}))
    with pytest.raises(ConfigError, match="was trained on the model 'org/other'"):
        check_adapter(folder, "org/mine")
    (folder / NUMBERS).unlink()
    with pytest.raises(ConfigError, match="holds no LoRA adapter"):
        check_adapter(folder, "org/mine")


@pytest.mark.parametrize("asked", [{"pairs": 0}, {"prompts": 0}, {"pairs": -1, "prompts": 2}])
def test_an_evaluation_of_nothing_is_refused_before_anything_is_loaded(asked):
    from llmforge.aligned import evaluate

    with pytest.raises(ConfigError, match="received .*; allowed: at least 1, or None for all"):
        evaluate(load_config("naive.yaml"), **asked)


@pytest.mark.slow
def test_rows_of_an_evaluation(shared, tmp_path):
    "Log-probabilities are those of the plain and of the merged model; kept, and found again."
    import torch

    from llmforge.align import reply_tokens
    from llmforge.aligned import RULES, evaluate, evaluated
    from llmforge.model import load_model

    asked, folder = shared
    measured = evaluate(asked, longest=8)
    held = {p.id: p for p in load_pairs(asked.alignment).test}
    assert {r.id for r in measured.pairs} == {r.id for r in measured.replies} == set(held)
    models = {"base": load_model(asked.model), "aligned": load_model(asked.model, folder)}
    for row in measured.pairs:
        for name, loaded in models.items():
            prompt, *replies = reply_tokens(loaded.tokenizer, held[row.id])
            for tokens, value, n in zip(replies, getattr(row, name), row.tokens):
                with torch.inference_mode():
                    logits = loaded.model(torch.tensor([tokens])).logits[0, :-1].log_softmax(-1)
                plain = logits.gather(-1, torch.tensor(tokens[1:])[:, None])[len(prompt) - 1 :, 0].sum()
                assert abs(value - float(plain)) < 1e-3 and n == len(tokens) - len(prompt)
    assert all(RULES["reward, sum"](row) for row in measured.pairs)
    assert all(r.kl > 0 for r in measured.replies)
    kept = evaluated(asked, tmp_path, 1, 1)
    (path,) = tmp_path.glob("*.jsonl")
    made = path.stat().st_mtime_ns
    assert evaluated(asked, tmp_path, 1, 1) == kept and path.stat().st_mtime_ns == made
    assert len(kept.pairs) == len(kept.replies) == 1


def said_by(engine):
    "What an engine replies to twenty prompts, greedily."

    async def ask():
        prompts = [f"What is {i} and {i}?" for i in range(20)]
        return await asyncio.gather(*(engine.generate(p, Sampling(max_tokens=8)) for p in prompts))

    try:
        return [g.text.rstrip("\ufffd") for g in asyncio.run(ask())]  # half a character: vLLM leaves it out
    finally:
        engine.close()


def there_is_vllm(monkeypatch):
    "Skip where there is no vLLM; settings for a CPU."
    from test_vllm import has

    if not has(os.environ.get("LLMFORGE_VLLM_PYTHON") or sys.executable, "vllm"):
        pytest.skip("NO VLLM HERE: an adapter is not tested on it; name its Python in LLMFORGE_VLLM_PYTHON")
    for name, value in {"KVCACHE_SPACE": "1", "OMP_THREADS_BIND": "nobind"}.items():
        monkeypatch.setenv(f"VLLM_CPU_{name}", value)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["merged", "openvino", "vllm"])
def test_one_adapter_answers_alike_in_every_engine(way, shared, monkeypatch):
    "Twenty texts of float32 are those of peft, the adapter beside the weights; the base writes others."
    if way == "openvino":
        pytest.importorskip("openvino_genai", reason="NO OPENVINO HERE: an adapter is not tested on it")
    if way == "vllm":
        there_is_vllm(monkeypatch)
    from llmforge.aligned import _BothModels
    from llmforge.local import LocalEngine

    asked, folder = shared
    both = _BothModels(asked, folder)
    with both.as_(True):
        expected = said_by(LocalEngine(both.loaded))
    with both.as_(False):
        assert said_by(LocalEngine(both.loaded)) != expected
    server = {"enforce_eager": True, "max_model_len": 256} if way == "vllm" else {}
    engine = EngineConfig(name="local" if way == "merged" else way, server=server)
    assert said_by(engines.get(engine.name)(asked.model_copy(update={"engine": engine}))) == expected


CHILD = """
import sys
from llmforge.align import dpo_adapter
from llmforge.config import load_config
print(dpo_adapter(load_config(sys.argv[1])))
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_adapter(tiny, project, tmp_path):
    "SIGKILL at several moments; adapter and curve are those of an unbroken training, to the last bit."
    data = write(project / "mine.jsonl", [pair(i) for i in range(30)])
    asked = {"name": "dpo", "data": data, "learning_rate": 1e-3, "epochs": 2, "batch_size": 2}
    doc = {"experiment": {"name": "demo", "model": {"name": str(tiny)}, "alignment": asked}}
    (project / "c.yaml").write_text(json.dumps(doc))

    def begin(cache):
        there = {"LLMFORGE_CACHE": str(tmp_path / cache), "OMP_NUM_THREADS": "1"}
        return start(CHILD, str(project / "c.yaml"), **there)

    def end(process):
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return Path(out.split()[-1])

    whole, kills = end(begin("whole")), 0
    while kills < 2:
        process = begin("killed")
        work = tmp_path / "killed" / "adapters"
        before = {p.name for p in work.glob("*-unfinished/checkpoint-*")} if work.exists() else set()
        while process.poll() is None and {p.name for p in work.glob("*-unfinished/checkpoint-*")} <= before:
            time.sleep(0.02)  # until it writes its next checkpoint: killed while it does
        if process.poll() is not None:
            break
        time.sleep(0.01 * kills)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    resumed = end(begin("killed"))
    assert kills == 2 and resumed.name == whole.name
    assert adapter_content(resumed) == adapter_content(whole)
    assert read_training(resumed).steps == read_training(whole).steps
    assert not list(resumed.parent.glob("*unfinished"))
