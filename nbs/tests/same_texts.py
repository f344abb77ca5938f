"""Whether the local engine, as it runs here, writes the texts of a published study again, as a command:

    python nbs/tests/same_texts.py retrieval_2 [--questions 100] [--backend torch]

Each prompt that a row's trace holds is generated again and its text compared with the stored one: the
retrieval and the judge are not run again. A text that was read from the cache counts like any other."""

import argparse
import json

from tracked import tracked

from llmforge.config import ExperimentConfig, load_config
from llmforge.engine import Sampling
from llmforge.local import local_engine
from llmforge.text import table
from llmforge.traceview import walk


def folders(study):
    "Its published experiments."
    return [folder for folder in tracked("runs.jsonl") if folder.name.startswith(f"{study}-")]


def stored(
    folder,  # of a published experiment
    questions=None,  # only the first of them
):  # prompt and text of each generation
    "What was asked and answered."
    lines = (folder / "runs.jsonl").read_text(encoding="utf-8").splitlines()[:questions]
    spans = (s for line in lines for s in walk(json.loads(line)["trace"], "llm"))
    return [(s["input"], s["output"]) for s in spans]


def asked_by(folder, backend="auto") -> ExperimentConfig:
    "An experiment's config, its local engine computed by a backend."
    config = load_config(folder / "config.yaml")
    engine = config.engine.model_copy(update={"backend": backend})
    return config.model_copy(update={"engine": engine})


def again(config, asked):  # prompt and text of each generation
    "What computes; how many texts are the same; and the first that is not, as it was and as it is now."
    s, same, first = config.sampling, 0, None
    sampling = Sampling(s.temperature, s.top_p, s.max_tokens, config.method.prompt.stop)
    engine, size = local_engine(config), config.engine.batch_size
    for i in range(0, len(asked), size):
        part = asked[i : i + size]
        for (_, before), now in zip(part, engine.generate_batch([(prompt, sampling) for prompt, _ in part])):
            same += now.text == before
            first = first or (None if now.text == before else (before, now.text))
    name = engine.identity["engine"]
    engine.close()
    return name, same, first


def main():
    "Print the table."
    parser = argparse.ArgumentParser()
    parser.add_argument("study")
    parser.add_argument("--questions", type=int)
    parser.add_argument("--backend", default="auto")
    args = parser.parse_args()
    lines = []
    for folder in folders(args.study):
        asked = stored(folder, args.questions)
        name, same, first = again(asked_by(folder, args.backend), asked)
        lines.append((folder.name, name, len(asked), same, repr(first) if first else "–"))
        print(*lines[-1], sep="  ", flush=True)
    print(table(["experiment", "computed by", "texts", "the same", "the first that differs"], lines))


if __name__ == "__main__":
    main()
