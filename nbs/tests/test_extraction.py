"What is found in a reply: the answer of a chain of thought, a line, an abstention; whatever surrounds it."

import json

import pytest

from llmforge.batching import FakeEngine
from llmforge.config import load_config
from llmforge.extraction import abstains, after_reasoning, after_thinking, first_line
from llmforge.runner import run_experiment
from llmforge.store import Store

REASONED = [
    # boxes
    (r"So there are \boxed{17} of them.", "17"),
    (r"$$\boxed{\frac{3}{4}}$$", r"\frac{3}{4}"),
    (r"\boxed{\text{Oslo}}", "Oslo"),
    (r"First \boxed{3}, then \boxed{\boxed{8}}.", "8"),
    (r"Hence $\fbox{1{,}250}$", "1,250"),
    (r"The total is \boxed{\$12}.", "$12"),
    (r"\boxed{\langle H \rangle} holds, so **Answer: D**", "D"),
    (r"The answer is 4. Cut off: \boxed{1", "4"),
    # thoughts
    ("<think>The answer is Rome.</think>\nThe answer is Oslo.", "Oslo"),
    ("The answer is Rome, or not.\n</think>\n\nOslo", "Oslo"),
    ("<thinking>\n\n</thinking>\n\n**Oslo**", "Oslo"),
    ("[THINK]Rome[/THINK]Oslo", "Oslo"),
    ("<think>a</think>Rome?<think>b</think>Oslo", "Oslo"),
    ("<think>\nThe answer is Rome", ""),
    # words around it
    ("7 + 8 = 15. So the answer should be 15.", "15"),
    ("My final answer is: 15", "15"),
    ("I think the answer might be 15.", "15"),
    ("The answer is therefore 15.", "15"),
    ("The answer comes out to 15.", "15"),
    ("Final Answer: **15**\n", "15"),
    ("## Final Answer\n\n15", "15"),
    ("#### 15", "15"),
    ("<answer>15</answer>", "15"),
    ("1. Add.\n2. **Answer**: 15", "15"),
    ("The answer is $15$.", "15"),
    ('The answer is "Oslo".', "Oslo"),
    # what follows it
    ("The answer is 15. Let me know if you need more!", "15"),
    ("The answer is 15.\n\nExplanation: 7 and 8 make the number.", "15"),
    ("Answer: 15\n\nThe answer is easy to check.", "15"),
    ("Answer: 15\n(That answer is obtained by adding.)", "15"),
    ("Answer: Oslo\nThis answer is based on the passage.", "Oslo"),
    ("The answer is Oslo because it is in Norway.", "Oslo"),
    ("The answer is 15! Great question.", "15"),
    ("Answer: no, wait. 7 + 8 is 15, so the answer is 15.", "15"),
    ("The answer is Rome. No, the answer is Oslo.", "Oslo"),
    ("Final answer: **Oslo** because it is the capital.", "Oslo"),
    ("The answer is Washington, D.C. It lies on the Potomac.", "Washington, D.C."),
    ("7 + 8 is 15, so 15 is the answer.", "15"),
    ("Thus, **15** is the final answer. I hope this helps!", "15"),
    ("I conclude that Oslo is the correct answer.", "Oslo"),
    ("This is the answer to everything. It is Oslo.", "It is Oslo"),
    # what looks like an end and is none
    ("The answer is St. Moritz.", "St. Moritz"),
    ("The answer is J. R. R. Tolkien. He wrote it.", "J. R. R. Tolkien"),
    ("The answer is Washington, D.C.", "Washington, D.C."),
    ("The answer is 3.14.", "3.14"),
    ("The answer is Dr. Seuss.", "Dr. Seuss"),
    ("The answer is the United Kingdom.", "the United Kingdom"),
    ("Answer: The answer is not stated.", "not stated"),
    # ways of reports on other harnesses
    ("The answer, then, is 7.", "7"),
    ("The answer to the question is therefore 7.", "7"),
    ("I believe the answer to be 15.", "15"),
    ("The correct option is B.", "B"),
    ("Final Answer — 7", "7"),
    ("Answer： 7", "7"),
    ("The answer is yes since both are in Norway.", "yes"),
    ("The answer is “Oslo.”", "Oslo"),
    ("The answer is 5 p.m.", "5 p.m."),
    ("The answer is:\n- 42", "42"),
    ("The answer is -42", "-42"),
    ("The answer is:\n```\n42\n```", "42"),
    ("The answer is:\n$$42$$", "42"),
    ("The answer is:\n\\[\n42\n\\]", "42"),
    ("The answer is: \\[42\\]", "42"),
    (r"The final answer is $\frac{1}{2}$. I hope it is correct.", r"\frac{1}{2}"),
    (r"\boxed 5", "5"),
    (r"\boxed{\textbf{(B) } 12}", "(B) 12"),
    ("<answer>\n Oslo </answer> as said", "Oslo"),
    ("<FINAL_ANSWER>Oslo</FINAL_ANSWER>", "Oslo"),
    # a field of an object
    ('{"reasoning": "It is the seat.", "answer": "Oslo"}', "Oslo"),
    ('```json\n{\n  "answer": "The \\"Tiger City\\""\n}\n```', 'The "Tiger City"'),
    ("{'final_answer': 'Oslo'}", "Oslo"),
    ('{"answer": 42}', "42"),
    ('{"answer": ""}', ""),
    ('{"reasoning": "unknown", "answer": null}', ""),
    ('{"answer": "C:\\Oslo"}', "C:\\Oslo"),
    # the end of a turn, and channels
    ("The answer is 42.<|eot_id|>", "42"),
    ("The answer is 42</s>", "42"),
    ("Oslo<|im_end|>\n<|im_start|>user\nAnd Spain?", "Oslo"),
    ("<|channel|>analysis<|message|>Rome?<|end|><|start|>assistant<|channel|>final<|message|>Oslo", "Oslo"),
    ("<|channel|>analysis<|message|>The answer is Rome", ""),
    ("analysisWe think of Rome.assistantfinalOslo", "Oslo"),
    ("<|begin_of_thought|>Rome<|end_of_thought|>\n<|begin_of_solution|>Oslo<|end_of_solution|>", "Oslo"),
    ("< think >Rome</ think >Oslo", "Oslo"),
    # none named
    ("It lies in Norway. It is Oslo.", "It is Oslo"),
    ("", ""),
    # other ways to name it
    ("The answer would then be 5.", "5"),
    ("The answer would have to be Oslo.", "Oslo"),
    ("The answer is Oslo, which is the capital of Norway.", "Oslo"),
    ("The answer is a man who was king.", "a man who was king"),
    ("Answer: B. Because it is.", "B"),
    ("The answer is B. Traven. He wrote it.", "B. Traven"),
    ("Thus [ANSWER]Oslo[/ANSWER]", "Oslo"),
    ('{"answer": ["Oslo"]}', "Oslo"),
    ('{"answer": ["Oslo", "Rome"]}', '{"answer": ["Oslo", "Rome"]}'),
    ("所以答案是：奥斯陆。因为它在挪威。", "奥斯陆"),
    ("答案不是奥斯陆。", "答案不是奥斯陆"),
    ("Die Antwort lautet 42.", "42"),
    ("La réponse est 42.", "42"),
    ("La respuesta no es 42.", "La respuesta no es 42"),
]


@pytest.mark.parametrize("text, answer", REASONED)
def test_the_answer_of_a_chain_of_thought(text, answer):
    assert after_reasoning(text) == answer


LONG = " " * 200_000


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "answer is" + LONG,
        "answer" + LONG + ":",
        "The answer is 4." + LONG + "x",
        ("answer" + " " * 50) * 4_000,
        "answer is " * 20_000,
        "answer:\n" * 20_000,
        "\\boxed{" * 20_000,
        "\\boxed{" + "{" * 50_000 + "}" * 50_000,
        "}" * 100_000,
        "<think>" * 20_000,
        "</think>" * 20_000,
        "\\text{" * 20_000,
        '"answer": "' + "x\\" * 50_000,
        '"answer": ' * 20_000,
        "answer to the question " * 20_000,
        "<|channel|>final" * 20_000,
        "analysisX" + "assistant" * 20_000,
        "the context " * 20_000,
        "the answer is not given in the " + "a " * 50_000,
        "a " * 100_000,
        "\n" * 200_000,
        "*_` " * 50_000,
        "based on the " * 20_000,
        "sorry, " * 30_000 + "x",
        "none" + LONG + "x",
        "The answer" + LONG + "x",
        "it is not " * 20_000,
        "$" * 100_000,
        "#" * 100_000,
        ". A" * 60_000,
    ],
    ids=lambda t: f"{t[:10]!r}…",
)
def test_no_text_takes_long(text):
    "Linear in the length: a reply of white space took minutes."
    for read in (after_reasoning, first_line, after_thinking, abstains):
        read(text)


NONE_GIVEN = [
    "The passages say nothing about it.",
    "The passage makes no mention of the river.",
    "The text gives no date.",
    "Nothing in the passages answers this.",
    "No passage mentions it.",
    "No data available",
    "The author does not specify.",
    "I'd need more context",
    "Undetermined",
    "I'm not sure",
    "I’m not sure.",
    "Not sure",
    "I am not certain about that.",
    "I have no idea.",
    "No idea",
    "I don't know",
    "I do not know the answer",
    "I really don't know.",
    "We do not have enough information.",
    "I couldn't find the answer",
    "I could not find any mention of it",
    "I was unable to determine the date.",
    "I'm unable to answer that.",
    "I am not able to find this",
    "I wasn't able to find it.",
    "I'm not aware of any.",
    "Sorry, I can't help with that.",
    "I'm sorry, but I cannot answer.",
    "I'm afraid I don't know.",
    "Unfortunately, the passage does not say.",
    "As an AI language model, I don't have access to that.",
    "Based on the passages, it cannot be determined.",
    "It's not mentioned in the text",
    "It isn't stated.",
    "This is not specified in the provided context.",
    "The year is not given in the passage.",
    "Not mentioned",
    "The text doesn't mention it",
    "The provided information does not say who.",
    "None of the passages mention it",
    "There is no information about this in the text",
    "There's no mention of it.",
    "No information is given.",
    "There is not enough information to tell.",
    "Not enough information",
    "Insufficient information.",
    "It is unclear from the passage.",
    "Unclear",
    "Unknown",
    "It is impossible to say",
    "Cannot be determined.",
    "It can't be determined from the text.",
    "N/A",
    "Not applicable",
    "None",
    "*I don't know.*",
    "idk",
    "I dunno",
    "Don't know",
    "Do not know.",
    "dont know",
    "I do n't know",
    "I don`t know",
    "Cannot answer.",
    "Unable to determine from the context.",
    "I haven't found any information.",
    "I wouldn't know.",
    "Honestly, I don't know.",
    "There isn't enough information to answer.",
    "There isn't any information about this in the context.",
    "No relevant information found.",
    "Information not available.",
    "Answer not found in context.",
    "Answer unknown.",
    "The question is unanswerable.",
    "Neither passage mentions it.",
    "The search results do not contain the answer.",
    "The information provided is insufficient to answer.",
    "The answer is not given.\nIt might be Oslo.",
    "As a language model, I cannot answer that.",
    "From the context provided, I cannot tell.",
    "Given the context, it is not possible to answer.",
    "It doesn't say.",
    "It has not been determined.",
    "Hard to say.",
    "Nobody knows.",
    "More information is needed.",
    "I would need more information to answer.",
    "I Don't Have Enough Information",
    "(unknown)",
    "<unknown>",
    "null",
    "?",
    "...",
    "—",
    "",
    "  ",
    "The text is silent on this.",
    "The article never mentions it.",
    "It is never mentioned.",
    "Nothing is said about it.",
    "No relevant passages.",
    "No data",
    "Je ne sais pas.",
    "我不知道。",
]
GIVEN = [
    "No Text Messages",
    "No documents were signed",
    "The text of the Magna Carta",
    "Nothing in common",
    "Indeterminate forms",
    "None of the above",
    "Oslo",
    "I",
    "Not Without My Daughter",
    "No Country for Old Men",
    "Unknown Pleasures",
    "The Unknown Soldier",
    "I Don't Want to Miss a Thing",
    "I Can't Get No Satisfaction",
    "Nobody",
    "No",
    "Nothing",
    "None but the Brave",
    "It Is Not What It Seems",
    "Not Dark Yet",
    "0",
    "Sorry Sorry",
    "There is a light",
    "We Are the Champions",
    "No Way Out",
    "Naples",
    "Idaho",
    "The Textile Museum",
    "Knot",
    "Sure",
    "Insufficient funds",
    "Insufficient evidence to convict",
    "I know the answer: Oslo",
    "I Don't Know How to Love Him",
    "I Can't Help Falling in Love",
    "Don't Know Why",
    "Nobody Knows",
    "Na",
    "I am not only sure but certain: Oslo",
    "I lack nothing",
    "The article was not published until 1990",
    "The source of the Nile was not found until 1858",
    "The passage was not named after Drake",
    "The answer does not depend on x",
    "Information does not flow faster than light",
    "It is not found in nature",
    "Not available in Europe",
    "The answer is Oslo; no information contradicts it",
    "Oslo, although the passage does not say so",
    "Oslo (not stated in the passage)",
    "No evidence was found against him",
    "It was never found",
    "Nothing was said",
    "No data centre",
    "我不知道的事",
]

LINES = [
    ("---\nOslo", "Oslo"),
    ("=====\n**Oslo**", "Oslo"),
    ("-", "-"),
    ("Oslo<|im_end|>", "Oslo"),
    ("Oslo</s>", "Oslo"),
    ("« Oslo »", "Oslo"),
    ("Answer：Oslo", "Oslo"),
    ("B.", "B"),
    ("Washington D.C.", "Washington D.C."),
    ("5 p.m.", "5 p.m."),
    (r"\boxed{42}", "42"),
    (r"It is $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
    ("$\\frac{1}{2}$", "\\frac{1}{2}"),
    ("#1", "#1"),
    ("# Oslo", "Oslo"),
    ("> Oslo", "Oslo"),
    (">5", ">5"),
    ("```\nOslo\n```", "Oslo"),
    ("```text\nOslo\n```", "Oslo"),
    ("<answer>Oslo</answer>", "Oslo"),
    ("It is cold there. <answer>\nOslo\n</answer>", "Oslo"),
    ('{"answer": "Oslo"}', "Oslo"),
    ('{"city": "Oslo"}', '{"city": "Oslo"}'),
    ("<|assistant|>Oslo", "Oslo"),
    ("<|start_header_id|>assistant<|end_header_id|>\n\nOslo", "Oslo"),
    ("…\nOslo", "Oslo"),
    ("Sure! Here is the answer:\nOslo", "Oslo"),
    ("Star Wars:\nEpisode IV", "Star Wars:"),
]


@pytest.mark.parametrize("text, answer", LINES)
def test_the_answer_of_a_line(text, answer):
    assert first_line(text) == answer


@pytest.mark.parametrize("text", NONE_GIVEN)
def test_an_abstention_in_plain_english(text):
    assert abstains(text)


@pytest.mark.parametrize("text", GIVEN)
def test_an_answer_is_no_abstention(text):
    assert not abstains(text)


def rows(reply, title, outputs, monkeypatch, **method):
    "The rows and the calls of three questions that get the same reply."
    lines = [{"id": f"q{i}", "question": f"Capital of Norway, {i}?", "answers": ["Oslo"]} for i in range(3)]
    monkeypatch.setenv("LLMFORGE_DATA", str(outputs.parent))
    (outputs.parent / "q.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    config = {
        "name": title,
        "engine": {"name": "fake", "cache": False, "batch_size": 1},
        "method": {"shots": 0, **method},
        "dataset": "q.jsonl",
    }
    store, engine = Store(), FakeEngine(reply)
    id = run_experiment(load_config({"experiment": config}), store, engine, show=False)
    return store.rows(id), engine.calls


@pytest.mark.slow
@pytest.mark.parametrize(
    "reply",
    ["\nOslo", "\n\n Oslo", "<think>\n\n</think>\n\nOslo", "\n<think>Rome</think>Oslo"],
)
@pytest.mark.parametrize("format", ["completion", "chat"])
@pytest.mark.parametrize("method", ["naive", "chain_of_thought"])
def test_an_end_before_the_beginning_is_none(reply, format, method, outputs, monkeypatch):
    found, _ = rows(reply, "late", outputs, monkeypatch, name=method, prompt={"format": format})
    assert [(r["answer"], r["scores"]["exact_match"]) for r in found] == [("Oslo", 1)] * 3


@pytest.mark.slow
def test_the_next_question_is_no_answer(outputs, monkeypatch):
    "A model that says nothing and goes on with another question has abstained; an answer is asked for once."
    found, calls = rows("\nQuestion: and Spain?\nMadrid", "none", outputs, monkeypatch, name="naive")
    assert all(r["abstained"] and r["answer"] == "" for r in found) and len(calls) == 6
    assert len(rows(" Oslo\nmore", "first", outputs, monkeypatch, name="naive")[1]) == 3
