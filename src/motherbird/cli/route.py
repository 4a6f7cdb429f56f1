"""``motherbird route``, and ``motherbird route fit``."""

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from . import options, texts
from .finetune import read_parts, read_recipe, show_parts, training_options
from .output import print_json, progress
from .texts import Results, rounded
from .training import Display, metrics_line

if TYPE_CHECKING:
    from pathlib import Path

    from ..data.readers import Document
    from ..models.router import Route

_budget = click.option("--budget", type=float, metavar="COST",
                       help="Largest mean cost of a text, on dev; the point of the curve with the "
                       "highest quality is used.")  # fmt: skip
_quality = click.option("--quality", type=float, metavar="FRACTION",
                        help="Lowest fraction of good answers, on dev; the cheapest point of the "
                        "curve is used.")  # fmt: skip


class _Route(click.Command):
    """A command with a file as argument, and a command below it, ``fit``."""

    @property
    def commands(self) -> dict[str, click.Command]:
        return {"fit": fit}

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Parse the arguments of one of both."""
        if args[:1] == ["fit"]:
            return fit.make_context(f"{info_name} fit", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command(name="route", cls=_Route)
@texts.of_file
@click.option("--column", metavar="NAME", callback=options.not_empty,
              help="The column or field of a table with the texts (default: text).")  # fmt: skip
@_budget
@_quality
def command(
    file: str,
    model: str,
    column: str | None,
    budget: float | None,
    quality: float | None,
    out: str | None,
    max_length: int | None,
    truncate: bool,
    json_: bool,
    **load: Any,  # options of `Router.load`
) -> None:
    """Choose the cheapest target, such as an LLM, that is good enough for each text of FILE.

    The results are JSON lines in the order of the texts. A .csv, .tsv, .jsonl or .parquet file has
    a text in --column of each row; in any other file, every line is a text. - is standard input,
    and ./fit is a file of this name. Results are written after every 2,048 texts.

    \b
    motherbird route fit --help    how a router is made
    motherbird route queries.csv --model router --column query --out routes.jsonl
    echo "What is 2 + 2?" | motherbird route - --model router --budget 5

    A line is {"target", "probabilities", "cost"}. "target" is null if the router abstains, and
    "probabilities" has the probability of a good answer of each target. The router works at the
    point of its cost-quality curve that fit has chosen, or at that of --budget or --quality. At the
    end there is a summary, on standard error without --out.

    The summary with --json: {"out", "texts", "truncated", "targets", "model", "revision", "dtype",
    "seconds"}, where "targets" are their counts.
    """  # noqa: D301
    path = texts.check_out(file, model, out)
    items = texts.read_texts(file, column)
    from ..models.router import Router

    router = Router.load(model, **load)
    if budget is not None or quality is not None:
        router = router.at(budget, quality)

    def compute(group: "list[Document]") -> Results:
        ids, truncated = router.classifier.tokenize(
            [text.text for text in group], max_length=max_length, truncate=truncate,
            names=[text.source for text in group],
        )  # fmt: skip
        routes = router.route_ids(ids)
        sent = [route.target for route in routes if route.target is not None]
        return Results([_row(route) for route in routes], truncated, sent)

    dtype = router.classifier.model.dtype
    about = {"model": model, "revision": load["revision"], "dtype": dtype}
    texts.stream(items, lambda text: len(text.text), compute, path, about, json_, "targets")


def _row(route: "Route") -> dict[str, Any]:
    probabilities = {name: rounded(p) for name, p in route.probabilities.items()}
    return {"target": route.target, "probabilities": probabilities, "cost": route.cost}


@click.command(name="fit")
@click.option(
    "--targets",
    required=True,
    metavar="NAME,NAME",
    help="The targets: columns of the data that say whether each answers a text well.",
)
@click.option(
    "--costs",
    required=True,
    metavar="COST,COST",
    help="The cost of a text for each target, in any unit.",
)
@click.option(
    "--good",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    metavar="NUMBER",
    show_default=True,
    help="Lowest number in a column that is a good answer.",
)
@click.option(
    "--text",
    metavar="NAME",
    callback=options.not_empty,
    help="Column of the texts (default: found by its name).",
)
@_budget
@_quality
@click.option(
    "--abstain",
    type=float,
    metavar="P",
    help="Give a text no target if the probability of a good answer is below P for all "
    "targets (default: never).",
)
@training_options
def fit(
    train: str, dev: str | None, test: str | None, out: str, targets: str, costs: str, good: float,
    text: str | None, budget: float | None, quality: float | None, abstain: float | None,
    device: str, json_: bool, **settings: Any,
) -> None:  # fmt: skip
    """Fit a router on texts and the outcomes of all targets.

    \b
    motherbird route fit --train outcomes.csv --targets small,large --costs 1,20 --out router
    motherbird route fit --train outcomes.csv --targets a,b,c --costs 1,4,20 --budget 8 --out DIR

    A row has a text, and for each target whether it answers the text well: 0 or 1, true or false,
    or a number from 0 to 1, see --good. A classifier learns the probability of a good answer of
    each target. A text goes to the target with the highest probability minus its weighted cost. The
    weight is chosen on dev: by --budget, by --quality, or so that quality is that of the best
    target, at the lowest cost. Without --dev, a tenth of --train is set aside.

    The directory has the classifier, router.json with the cost-quality curve, and curve.svg. The
    same command resumes a run that was stopped or killed. With another --budget, --quality or
    --abstain it chooses again, and does not train again.

    With --json: {"model", "dev": {"auc", "apgr", "quality", "cost", "abstained"}, "test",
    "targets", "cost_weight", "epoch", "seconds"}. "test" is like "dev", or null, and "targets" has
    the cost and the quality of each target for all texts of dev. "apgr" is the area under the curve
    of recovered quality, 0.5 for random choices, and "auc" is that of the texts that the cheapest
    target does not answer well and another one does.
    """  # noqa: D301
    files = [path for path in (train, dev, test) if path is not None]
    recipe = read_recipe("classify", **settings)
    directory = options.output(out, [*options.directories(recipe.model), *files])
    from ..data.outcomes import read_outcomes
    from ..train.routing import Targets, fit_router
    from ..train.tuning_run import check_output

    check_output(directory)
    names = tuple(name.strip() for name in targets.split(","))
    wanted = Targets(names, _numbers(costs), budget, quality, abstain)
    read = partial(read_outcomes, targets=names, text=text, good=good)
    parts = read_parts((train, dev, test), lambda file, _: read(file), recipe.seed)
    if not json_:
        show_parts(parts)
    with progress("", total=1.0, quiet=json_) as update:
        display = Display(json_, update)
        found = fit_router(
            recipe, parts, wanted, directory, device=device, on_plan=display.plan,
            on_start=display.start, on_step=display.step,
        )  # fmt: skip
    if json_:
        print_json({"model": str(directory), **found})
    else:
        _show(found, directory)


def _show(found: dict[str, Any], directory: "Path") -> None:
    for name, alone in found["targets"].items():
        click.echo(f"{name} for all texts: {metrics_line(alone)}")
    for name in ("dev", "test"):
        if found[name] is not None:
            click.echo(f"{name}: {metrics_line(found[name])}")
    click.echo(f"{directory}: epoch {found['epoch']}, {found['seconds']:.0f} s")


def _numbers(costs: str) -> tuple[float, ...]:
    from ..errors import InputError

    try:
        return tuple(float(cost) for cost in costs.split(","))
    except ValueError as error:
        how = "give a number for each target, separated by commas"
        raise InputError("--costs are not numbers", repr(costs), how) from error
