"""``motherbird finetune multitask``: one encoder for several tasks."""

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from . import options
from .output import progress
from .training import Display, print_trained, read_settings


@click.command(name="multitask")
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False), metavar="RECIPE.toml")
@click.option("--out", required=True, metavar="DIR", callback=options.not_empty,
              help="Directory of the new model.")  # fmt: skip
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE",
              help="Change a setting, such as lr=1e-4 or task.0.rows=1000; repeatable.",
              )  # fmt: skip
@options.device
@options.threads
@options.as_json
def multitask(recipe: str, out: str, changes: tuple[str, ...], device: str, json_: bool) -> None:
    """Train one encoder for several tasks at the same time.

    \b
    motherbird finetune multitask recipes/retrieval/multitask.toml --out model

    RECIPE.toml names the model to start from, one of motherbird distill dense or any encoder, and
    tasks:

    \b
    model = "dense"
    [[task]]
    kind = "vectors"                  # as distill dense
    teacher = "all-MiniLM-L6-v2"
    data = ["texts.jsonl"]
    [[task]]
    kind = "pairs"                    # as finetune dense and late together
    data = ["pairs.jsonl"]
    [[task]]
    kind = "scores"                   # reads two texts, predicts the cosine of their vectors
    teacher = "all-MiniLM-L6-v2"
    data = ["texts.jsonl"]
    [[task]]
    kind = "masked"                   # predicts masked tokens
    data = ["texts.jsonl"]

    A step has rows of all tasks, each with the loss of its task times its weight. The directory
    loads in motherbird.Embedder, LateEmbedder and MaskedLM. With "scores", its subdirectory
    reranker loads in motherbird.Reranker. The same command resumes a run that was
    stopped or killed, with the same result.

    With --json: {"model", "dev": {"cosine", "MRR@10", "MRR@10 late", "spearman", "masked
    accuracy"}, "curve", "documents", "epoch", "seconds", ...}.
    """  # noqa: D301
    from ..errors import InputError
    from ..train.tuning_run import check_output
    from ..train.vectors.multitask import train
    from ..train.vectors.recipe import Multitask

    settings = read_settings(Multitask, recipe, changes, {})
    for task in settings.task:
        if task.vectors is not None and Path(task.vectors).is_file():
            raise InputError("this is a file, not a directory", task.vectors, "name another")
    files = [path for task in settings.task for path in task.data]
    own = [settings.model, *(task.teacher for task in settings.task if task.teacher)]
    directory = options.output(out, [recipe, *files, *options.directories(*own)])
    check_output(directory)
    quiet = json_ or not options.is_main_process()
    sources = {str(t.kind): ", ".join(Path(p).name for p in t.data) for t in settings.task}
    sources["command"] = shlex.join(["motherbird", *sys.argv[1:]])
    with progress("", total=1.0, quiet=quiet) as update:
        display = Display(quiet, update)
        found: dict[str, Any] = train(
            settings, directory, sources=sources, on_texts=display.texts,
            caller=display.caller(device),
        )  # fmt: skip
    print_trained(directory, found, json_)
