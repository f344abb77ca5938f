"Echoes and answers of another kind, and what must not be taken for either."

import pytest

from llmforge.answerkind import is_echo, is_wrong_kind


@pytest.mark.parametrize(
    "question, claim",
    [
        ("Which language is mainly used in Belize?", "Belize"),
        ("What is the unit of money called in Algeria?", "Algeria."),
        ("Who is the author of the book The Mill on the Floss?", "The Mill on the Floss"),
        ("What is the capital of Turkmenistan?", "The capital of Turkmenistan."),
        ("What is the capital of Turkmenistan?", "Turkmenistan is the capital."),
        ("In what year was Niels Bohr born?", "niels bohr"),
        ("How high is it?", "It is."),
    ],
)
def test_an_echo_adds_nothing(question, claim):
    assert is_echo(question, claim)


@pytest.mark.parametrize(
    "question, claim",
    [
        ("Which language is mainly used in Belize?", "English"),
        ("Which language is mainly used in Belize?", "The language of Belize is English."),
        ("Did Odrisa found Karvel?", "Odrisa founded Karvel."),
        ("Is Belize a country?", "Yes"),
        ("Which is longer, the Rhine or the Danube?", "The Danube"),
        ("What is the symbol of beryllium?", "Be"),
        ("What is the symbol of beryllium?", "The symbol of beryllium is Be."),
        ("In which year did it open?", "1204"),
        ("", "A premise without a question."),
        ("Where is it?", ""),
    ],
)
def test_what_adds_something_is_no_echo(question, claim):
    assert not is_echo(question, claim) or not claim


@pytest.mark.parametrize(
    "question, claim",
    [
        ("Who founded the Meridian town of Drommeddin?", "641"),
        ("By whom was it painted?", "In 1851."),
        ("Which country has Lake Onega within its borders?", "1,204"),
        ("Into which sea does the river flow?", "178 kilometres"),
        ("What is the birthplace of the writer?", "1949"),
        ("What is the festival of the town called?", "2018"),
        ("How many people live there?", "Odrisa"),
        ("In which year was it founded?", "Morocco"),
        ("When was it founded?", "Odrisa"),
        ("How many years did she live?", "1704"),
        ("How old was he?", "in 1851"),
    ],
)
def test_another_kind(question, claim):
    assert is_wrong_kind(question, claim)


@pytest.mark.parametrize(
    "question, claim",
    [
        ("Who founded it?", "Odrisa"),
        ("Who recorded the song?", "50 Cent"),
        ("Who won?", "It was founded in 641 by Odrisa of Karvel."),
        ("Which atomic number does magnesium have?", "12"),
        ("With which country code do telephone calls begin?", "232"),
        ("What is the boiling point of lead?", "1749"),
        ("In which century was it built?", "19th"),
        ("How many ferrymen are there?", "seven"),
        ("How many people live there?", "1704"),
        ("How many years did she live?", "75"),
        ("When was it founded?", "In spring"),
        ("When was it founded?", "1204"),
        ("How did he die?", "Poison"),
        ("", "1204"),
    ],
)
def test_the_kind_asked_for(question, claim):
    assert not is_wrong_kind(question, claim)
