"""motherbird route and motherbird.Router: from outcomes to a target for each text."""

import csv
import json
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from motherbird import Classifier, InputError, Router
from motherbird.errors import HeadError

pytestmark = pytest.mark.usefixtures("no_type_checker")
QUICK = {"epochs": 5, "lr": 4e-3, "batch_size": 16, "dtype": "float32"}
OPTIONS = [f"--set={key}={value}" for key, value in QUICK.items()]


def queries(count, seed):
    """Texts that the small target answers if they have the word easy, and the large one always,
    but for texts with the word odd."""
    draw = np.random.default_rng(seed)
    words = "open the file read a path write text code of with".split()
    rows = []
    for _ in range(count):
        text = [*draw.choice(words, size=draw.integers(3, 8)), draw.choice(["easy", "hard", "odd"])]
        draw.shuffle(text)
        rows.append((" ".join(text), int("easy" in text), int("odd" not in text)))
    return rows


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("query", "small", "large"), *rows])
    return path


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    for name, count, seed in (("train", 240, 1), ("dev", 90, 2), ("test", 90, 3)):
        write(folder / f"{name}.csv", queries(count, seed))
    return folder


@pytest.fixture
def fit(motherbird, tables, base):
    """Call route fit with other options than the usual ones."""

    def call(out, *more, **changes):
        usual = {"train": tables / "train.csv", "dev": tables / "dev.csv", "model": base,
                 "targets": "small,large", "costs": "1,20", "out": out}  # fmt: skip
        options = [f"--{key}={value}" for key, value in {**usual, **changes}.items()]
        return motherbird("route", "fit", *options, *OPTIONS, *more)

    return call


@pytest.fixture(scope="module")
def router(base, tables, tmp_path_factory):
    """The directory of a router that Python has fitted."""
    out = tmp_path_factory.mktemp("router") / "router"
    dev = lists(queries(90, 2))
    costs = {"small": 1, "large": 20}
    Router.fit(*lists(queries(240, 1)), costs, out, dev=dev, model=str(base), **QUICK)
    return out


def lists(rows):
    texts, small, large = (list(column) for column in zip(*rows, strict=True))
    return texts, {"large": large, "small": [bool(each) for each in small]}


def test_it_learns_what_is_easy(router):
    loaded = Router.load(router, dtype="float32")
    texts, outcomes = lists(queries(200, 5))
    found = loaded.evaluate(texts, outcomes)
    small, large = (np.array(outcomes[name], float) for name in ("small", "large"))
    assert found["auc"] > 0.95 and found["apgr"] > 0.7
    # As good as the large target alone, for less: texts that it does not answer cost nothing more.
    assert found["quality"] > large.mean() - 0.03
    assert found["cost"] < 1 + 19 * (1 - small.mean()) + 1 and found["abstained"] == 0
    cheap = loaded.at(budget=1)
    assert {route.target for route in cheap.route(texts)} == {"small"}
    assert cheap.evaluate(texts, outcomes)["quality"] == pytest.approx(small.mean())
    assert loaded.curve[0].cost == 1.0 and loaded.curve[-1].cost == pytest.approx(20.0)
    for route, text in zip(loaded.route(texts), texts, strict=True):
        assert route.cost == {"small": 1.0, "large": 20.0}[route.target]
        assert list(route.probabilities) == ["small", "large"]
        if "hard" in text:
            assert route.target == "large"
    assert loaded.route([]) == []


def test_the_directory_of_a_router(router):
    """It is that of a classifier, with the curve as JSON and as SVG; nothing else is left."""
    assert [path.name for path in router.parent.iterdir()] == ["router"]
    assert set(Classifier.load(router).labels) == {"small", "large"}
    content = json.loads((router / "router.json").read_text())
    assert content["targets"] == ["small", "large"] and content["costs"] == [1.0, 20.0]
    assert content["metrics"]["dev"]["quality"] >= max(content["qualities"])
    listed = json.loads((router / "motherbird.json").read_text())["sha256"]
    assert {"router.json", "curve.svg", "finetune.json", "model.safetensors"} <= listed.keys()
    from xml.etree import ElementTree

    chart = (router / "curve.svg").read_text()
    ElementTree.fromstring(chart)
    assert all(f">{word}</text>" in chart for word in ("small", "large", "router"))


def test_the_command_fits_and_routes(fit, tables, tmp_path, motherbird, documented, has_shape):
    out = tmp_path / "router"
    found = fit(out, "--json", test=tables / "test.csv").done().json
    [shape] = documented("route", "fit")
    assert has_shape(found, shape) and has_shape(found["test"], shape["dev"])
    assert found["test"]["auc"] > 0.95
    assert found["targets"]["small"]["cost"] == 1.0 and found["model"] == str(out)
    call = ("route", tables / "test.csv", "--column", "query", "--model", out, "--dtype", "float32")
    done = motherbird(*call, "--out", tmp_path / "out.jsonl", "--json").done()
    assert has_shape(done.json | {"targets": None}, documented("route")[0])
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    texts = [text for text, _, _ in queries(90, 3)]
    loaded = Router.load(out, dtype="float32")
    for row, route in zip(rows, loaded.route(texts), strict=True):
        assert list(row) == ["target", "probabilities", "cost"]
        assert (row["target"], row["cost"]) == (route.target, route.cost)
        assert row["probabilities"] == pytest.approx(route.probabilities, abs=1e-5)
    assert done.json["targets"]["large"] == sum(row["target"] == "large" for row in rows)
    cheap = motherbird(*call, "--budget", "1")
    assert {json.loads(line)["target"] for line in cheap.out.splitlines()} == {"small"}
    motherbird(*call, "--budget", "0.5").refused("the budget 0.5 does not reach .*: use 1 or more")
    motherbird(*call, "--quality", "0.99").refused("use at most 0")


def test_another_point_does_not_train_again(fit, router, tmp_path, tree):
    """The command has the data and the settings of Python's call."""
    out = tmp_path / "router"
    shutil.copytree(router, out)
    shown = fit(out, "--budget", "1")
    assert shown.code == 0 and "small for all texts: cost 1.0000, quality 0." in shown.out
    before, after = tree(router), tree(out)
    changed = {"router.json", "curve.svg", "motherbird.json"}
    assert {name for name in after if after[name] != before[name]} == changed
    assert fit(out, "--abstain", "0.5", "--json").done().json["dev"]["abstained"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["router"]
    odd = Router.load(out).route(["odd", "odd odd"])
    assert [(route.target, route.cost) for route in odd] == [(None, None)] * 2


def test_a_quality_that_is_not_reached(fit, tmp_path):
    """Nothing is written, and another call uses the classifier that was trained."""
    rows = [(text, 1 - large or small, large) for text, small, large in queries(60, 1)]
    table = write(tmp_path / "table.csv", rows)
    out, quick = tmp_path / "router", ("--set=epochs=1", "--set=lr=1e-9", "--json")
    call = partial(fit, out, *quick, train=table, dev=table)
    error = call(quality="0.99").refused("does not reach the quality 0.99: use at most")
    highest = error.err.rpartition("use at most ")[2].split(",")[0]
    assert not out.exists()
    assert call(quality=highest).done().json["dev"]["quality"] >= float(highest)
    assert {path.name for path in tmp_path.iterdir()} == {"router", "table.csv"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"targets": "small"}, "not two or more different targets: small"),
        ({"targets": "small,medium"}, r'no column "medium": .*train\.csv:2'),
        ({"targets": "small,"}, "a target is called ''"),
        ({"costs": "1"}, "2 targets and 1 costs"),
        ({"costs": "1,x"}, "--costs are not numbers: '1,x'"),
        ({"costs": "1,-2"}, "the cost -2.0 of large"),
        ({"costs": "nan,2"}, "the cost nan of small"),
        ({"budget": "0.5"}, "the budget 0.5 does not reach the cost of the cheapest target, small"),
        ({"budget": "2", "quality": "0.5"}, "exclude each other"),
        ({"quality": "2"}, "quality = 2.0 is not a number from 0 to 1"),
        ({"quality": "1"}, "no router reaches the quality 1: use at most 0."),
        ({"abstain": "-1"}, "abstain = -1.0 is not"),
        ({"text": "question"}, '--text .*: "query", "small", "large"'),
        ({"good": "0"}, "--good"),
    ],
)
def test_what_is_refused_before_training(changes, says, fit, tmp_path):
    fit(tmp_path / "router", "--json", **changes).refused(says)
    assert not list(tmp_path.iterdir())


def test_targets_that_a_router_cannot_learn(fit, tmp_path):
    never = write(tmp_path / "never.csv", [(text, 1, 0) for text, _, _ in queries(40, 1)])
    fit(tmp_path / "router", train=never).refused("large answers no text .* well", after="(?s).*")
    shown = fit(tmp_path / "router", "--set=epochs=1", train=write(
        tmp_path / "always.csv", [(text, 1, large) for text, _, large in queries(40, 1)]
    ))  # fmt: skip
    assert shown.code == 0
    assert "WARNING: small, the cheapest target, answers all texts" in shown.err


def test_outputs_that_exist(fit, router, base, tmp_path, monkeypatch):
    (tmp_path / "router").mkdir()
    (tmp_path / "router/mine.txt").write_text("mine")
    fit(tmp_path / "router").refused("the output exists")
    fit(router, "--set=seed=1", "--json").refused("another run")
    fit(base).refused("input")
    monkeypatch.setenv("WORLD_SIZE", "2")
    fit(tmp_path / "new", "--json").refused("a single process: start it without torchrun")


def test_what_is_not_a_router(router, base, motherbird, tmp_path):
    (tmp_path / "fit").write_text("a text\n")
    motherbird("route", tmp_path / "fit", "--model", base).refused(
        "not a router.*motherbird route fit"
    )
    with pytest.raises(HeadError, match="not a router"):
        Router.load("motherbird-nano")
    changed = tmp_path / "changed"
    shutil.copytree(router, changed)
    content = json.loads((router / "router.json").read_text())
    for key, value, says in (
        ("targets", ["a", "b"], "the labels of the classifier are not the targets a, b"),
        ("costs", [1], r"2 targets and 1 costs"),
        ("abstain", "x", "abstain = 'x' is not a number"),
        ("curve", [], "incomplete"),
    ):
        (changed / "router.json").write_text(json.dumps({**content, key: value}))
        with pytest.raises(InputError, match=says):
            Router.load(changed)


def test_wrong_arguments(router, tmp_path, no_type_checker):
    texts, outcomes = lists(queries(40, 1))
    costs = {"small": 1, "large": 20}
    for given, says in (
        ((texts, outcomes, [1, 20]), "costs is not a mapping"),
        ((texts, outcomes, {"small": 1}), "not two or more different targets: small"),
        ((texts, {"small": outcomes["small"]}, costs), "not a mapping of each target to a list"),
        ((texts[:-1], outcomes, costs), "39 texts and 40 outcomes of small"),
        ((["", *texts[1:]], outcomes, costs), "train, text 0"),
    ):
        with pytest.raises(InputError, match=says):
            Router.fit(*given, tmp_path / "out")
    with pytest.raises(InputError, match="not a pair of texts and outcomes"):
        Router.fit(texts, outcomes, costs, tmp_path / "out", dev=texts)
    loaded = Router.load(router)
    with pytest.raises(InputError, match="there are no texts"):
        loaded.evaluate([], {"small": [], "large": []})
    assert not list(tmp_path.iterdir())


def test_a_file_called_fit_and_help(router, motherbird, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fit").write_text("an easy text\n")
    found = motherbird("route", "./fit", "--model", router)
    assert json.loads(found.out)["target"] == "small"
    assert "motherbird route fit --help" in motherbird("route", "--help").done().out
    shown = motherbird("route", "fit", "--help").done().out
    assert shown.startswith("Usage: motherbird route fit [OPTIONS]")
    motherbird("route", "fit", "--train", "x").refused(
        "Missing option.*motherbird route fit --help"
    )
    motherbird("route").refused("Missing")


def test_routing_needs_no_torch(router):
    code = (
        "import sys; sys.argv[1:] = ['route', '-', '--model', sys.argv[1]]\n"
        "from motherbird.cli.main import main\n"
        "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(router)], input="an easy text\n", capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["target"] == "small"
