"What BM25 searches by: words of every script, however they are typed."

import unicodedata

import pytest

from llmforge.core import fingerprint
from llmforge.indexing import Bm25, Bm25Reference, index_key, terms
from llmforge.records import Corpus, Passage
from llmforge.sections import RetrievalConfig

# a question, the passage that answers it, and passages that do not
SEARCHES = {
    "chinese": ("日本的首都", "东京是日本的首都。", ["北京是中国的首都，有长城。", "狗喜欢跑步。"]),
    "one sign": ("猫", "猫喜欢睡觉。", ["狗喜欢跑步。", "东京是日本的首都。"]),
    "japanese": (
        "フランスの首都",
        "パリはフランスの首都です。",
        ["ロンドンはイギリスの首都です。", "猫は寝る。"],
    ),
    "thai": ("เมืองหลวงของไทย", "กรุงเทพเป็นเมืองหลวงของไทย", ["แมวชอบนอน", "ฝนตกหนักมาก"]),
    "lao": ("ນະຄອນຫຼວງຂອງລາວ", "ວຽງຈັນເປັນນະຄອນຫຼວງຂອງລາວ", ["ແມວມັກນອນ", "ຝົນຕົກ"]),
    "khmer": ("រាជធានីកម្ពុជា", "ភ្នំពេញជារាជធានីកម្ពុជា", ["ឆ្មាចូលចិត្តគេង", "ភ្លៀងធ្លាក់"]),
    "burmese": ("မြန်မာနိုင်ငံမြို့တော်", "နေပြည်တော်သည်မြန်မာနိုင်ငံ၏မြို့တော်", ["ကြောင်အိပ်သည်", "မိုးရွာသည်"]),
    "korean": ("프랑스 수도", "파리는 프랑스 수도 이다.", ["런던은 영국 도시 이다.", "고양이는 잔다."]),
    "korean particles": (
        "서울 인구",
        "서울은 인구가 많다.",
        ["부산에는 항구가 있다.", "고양이는 잔다."],
    ),
    "hindi": ("भारत की राजधानी", "दिल्ली भारत की राजधानी है।", ["बिल्ली सोती है।", "बारिश हो रही है।"]),
    "arabic": ("عاصمة فرنسا", "باريس هي عاصمة فرنسا", ["القطة تنام", "المطر يهطل"]),
    "mixed": ("DNA检测", "医院提供DNA检测。", ["医院有医生。", "DNA is a molecule."]),
    "fullwidth": ("ＮＡＳＡ　１９６９", "NASA landed in 1969.", ["ESA was founded later.", "Cats sleep."]),
    "typographic": ("Hawaiʻi’s volcano", "A volcano of Hawai'i.", ["A volcano of Iceland.", "Cats sleep."]),
    "turkish": ("istanbul", "İSTANBUL bir şehirdir.", ["Ankara başkenttir.", "Kediler uyur."]),
    "german": ("strasse", "Die STRAẞE ist lang, eine Straße eben.", ["Ein Weg.", "Katzen schlafen."]),
    "greek": ("ΣΟΦΟΣ", "ένας σοφος μιλά", ["η γάτα κοιμάται", "βρέχει"]),
    "greek accents": ("Αθήνα", "Η ΑΘΗΝΑ είναι πόλη", ["η γάτα κοιμάται", "βρέχει"]),
    "hebrew points": ("שלום", "שָׁלוֹם עולם", ["חתול ישן", "גשם יורד"]),
    "arabic points": ("محمد", "مُحَمَّد هنا", ["القطة تنام", "المطر يهطل"]),
    "stretched": ("كتاب", "هذا كـتـاب جديد", ["القطة تنام", "المطر يهطل"]),
    "invisible": ("Par\u00adis\u200b", "Paris is a city.", ["Bern is a city.", "Cats sleep."]),
}


@pytest.mark.parametrize("query, answer, others", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC"])
def test_every_script_is_searched(query, answer, others, form):
    texts = [unicodedata.normalize("NFC", t) for t in (*others, answer)]
    asked = unicodedata.normalize(form, query)
    fast, slow = Bm25.build(texts).search(asked, 3), Bm25Reference(texts).search(asked, 3)
    assert fast[0][0] == slow[0][0] == len(others)
    assert [row for row, _ in fast] == [row for row, _ in slow]


@pytest.mark.parametrize("text", [t for q, a, _ in SEARCHES.values() for t in (q, a)])
def test_the_normal_form_does_not_count(text):
    assert len({tuple(terms(unicodedata.normalize(f, text))) for f in ("NFC", "NFD", "NFKC", "NFKD")}) == 1


def test_marks_that_make_another_letter_stay():
    assert terms("й ё ü が") == terms("Й Ё Ü が") != terms("и е u か")


def test_a_text_without_the_words_is_no_hit():
    "Letters of Thai are no words: a passage is not found for having the same alphabet."
    found = Bm25.build(["แมวนอน", "ฝนตก"]).search("ฝน", 2)
    assert [row for row, _ in found] == [1]


def test_words_of_ascii_are_what_they_were():
    text = "Don't panic: the U.S. has 3.5 million e-mail_addresses, AT&T said (2003)."
    assert terms(text) == ["panic", "u", "3", "5", "million", "e", "mail_address", "said", "2003"]


@pytest.mark.slow
def test_an_index_of_other_words_has_another_name():
    "The version of the words is part of the key: an index from before is not opened as one of today."
    corpus, config = Corpus("c", (Passage("p", "t", "x"),)), RetrievalConfig(name="sparse")
    key = index_key(corpus, config)
    assert key["format"] == 2 and fingerprint(key) != fingerprint({**key, "format": 1})
    for word in ("Straße", "서울은"):
        reworded = Corpus("c", (Passage("p", "t", word),))
        assert index_key(reworded, config)["format"] == 3, "only where a word became another one"
    assert index_key(Corpus("c", (Passage("p", "t", "Αθήνα"),)), config)["format"] == 4
