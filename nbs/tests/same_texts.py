"""Whether the local engine, as it runs here, writes the texts of a published study again, as a command:

    python nbs/tests/same_texts.py retrieval_2 [--questions 100] [--backend torch]

Each prompt that a row's trace holds is generated again and its text compared with the stored one: the
retrieval and the judge are not run again. A text that was read from the cache counts like any other. The
beginning of an experiment's id does for a study."""

import argparse
import json
from contextlib import closing

from tracked import tracked

from llmforge.config import ExperimentConfig, load_config
from llmforge.engine import Sampling
from llmforge.local import local_engine
from llmforge.methods import later_stops
from llmforge.text import table
from llmforge.traceview import walk


def folders(study):
    "Its published experiments."
    return [folder for folder in tracked("runs.jsonl") if folder.name.startswith(f"{study}-")]


def stored(
    folder,  # of a published experiment
    questions=None,  # only the first of them
):  # prompt, whether it was asked before for the same question, and text of each generation
    "What was asked and answered."
    found = []
    for line in (folder / "runs.jsonl").read_text(encoding="utf-8").splitlines()[:questions]:
        asked = []
        for s in walk(json.loads(line)["trace"], "llm"):
            found.append((s["input"], s["input"] in asked, s["output"]))
            asked.append(s["input"])
    return found


def asked_by(folder, backend="auto") -> ExperimentConfig:
    "An experiment's config, its local engine computed by a backend."
    return load_config(folder / "config.yaml", f"engine.backend={backend}")


def again(config, asked):  # from `stored`
    "What computes; how many texts are the same; and the first that is not, as it was and as it is now."
    s, size, written = config.sampling, config.engine.batch_size, []
    first, later = (
        Sampling(s.temperature, s.top_p, s.max_tokens, tuple(stops or ()))
        for stops in (config.method.prompt.stop, later_stops(config.method.prompt))
    )
    requests = [(prompt, later if before else first) for prompt, before, _ in asked]
    with closing(local_engine(config)) as engine:
        for i in range(0, len(requests), size):
            written += [g.text for g in engine.generate_batch(requests[i : i + size])]
    differ = [(before, now) for (*_, before), now in zip(asked, written, strict=True) if now != before]
    return engine.identity["engine"], len(asked) - len(differ), next(iter(differ), None)


def main():
    "Print the table."
    parser = argparse.ArgumentParser()
    parser.add_argument("study")
    parser.add_argument("--questions", type=int)
    parser.add_argument("--backend", default="auto")
    args = parser.parse_args()
    lines: list[tuple] = []
    for folder in folders(args.study):
        asked = stored(folder, args.questions)
        name, same, first = again(asked_by(folder, args.backend), asked)
        lines.append((folder.name, name, len(asked), same, repr(first) if first else "–"))
        print(*lines[-1], sep="  ", flush=True)
    print(table(["experiment", "computed by", "texts", "the same", "the first that differs"], lines))


if __name__ == "__main__":
    main()
