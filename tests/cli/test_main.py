"""The command line as a whole: help, errors, signals and odd surroundings."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

import motherbird as package
from motherbird.cli.main import COMMANDS, load

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals and pipes")
MOTHERBIRD = [sys.executable, "-m", "motherbird"]


def run(*arguments, **options):
    return subprocess.run(
        [*MOTHERBIRD, *map(str, arguments)], capture_output=True, text=True, **options
    )


# --- help and version

# Runs the statement that is its first argument, then says what that has cost.
PROBE = """
import json, sys, time
code, sys.argv[1:] = sys.argv[1], sys.argv[2:]
try:
    exec(code)
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = sorted({"torch", "numpy", "tokenizers", "safetensors", "rich"} & set(sys.modules))
print(json.dumps({"seconds": time.process_time(), "heavy": heavy}), file=sys.stderr)
"""
MAIN = "from motherbird.cli.main import main; main()"


def cost(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, code, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(done.stderr)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["-h"], [], ["--version"], *([name, "--help"] for name in COMMANDS)],
    ids=" ".join,
)
def test_help_costs_nothing(arguments):
    out, spent = cost(MAIN, *arguments)
    assert spent["heavy"] == []
    assert out == f"motherbird, version {package.__version__}\n" or "Usage: motherbird" in out


def test_import_and_help_are_fast():
    """In CPU time, which others on the machine hardly change; the best of three."""
    for code in ("import motherbird", MAIN):
        assert min(cost(code, "--help")[1]["seconds"] for _ in range(3)) < 0.4
    assert cost("import motherbird")[1]["heavy"] == []


def test_help_names_every_command(motherbird):
    out = motherbird("--help").done().out
    assert motherbird().done().out == out
    for name, line in COMMANDS.items():
        assert f"  {name} " in out and line.split()[0] in out
    assert "motherbird demo" in out  # where to start


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text(name, motherbird):
    command = load(name)
    below = command.commands if isinstance(command, click.Group) else {}
    for words, leaf in [((name, n), c) for n, c in below.items()] or [((name,), command)]:
        out = motherbird(*words, "--help").done().out
        options = [p for p in leaf.params if isinstance(p, click.Option)]
        # mcp speaks JSON alone.
        assert name == "mcp" or {"--json"} <= {option for p in options for option in p.opts}
        for option in [o for o in options if not o.hidden]:
            text = option.help
            assert text and text[0].isupper() or text.startswith(("auto", "cpu", "base"))
            assert option.opts[0] in out


def test_help_cuts_nothing_off(motherbird):
    """Every command of a group has one line, to its end; only a usage may repeat arguments."""
    groups = [()]
    for name in COMMANDS:
        command = load(name)
        groups += [(name,)] + [(name, below) for below in getattr(command, "commands", ())]
    for words in groups:
        lines = motherbird(*words, "--help").done().out.splitlines()
        assert not [n for n in lines if n.endswith("...") and not n.startswith("Usage:")]
        if any(n == "Commands:" for n in lines):
            listed = lines[lines.index("Commands:") + 1 :]
            listed = listed[: listed.index("")] if "" in listed else listed
            assert all(line[2] != " " and line.endswith(".") for line in listed), words
    assert "runs list [OPTIONS] [DIR]" in motherbird("runs", "list", "--help").done().out


def test_help_on_a_narrow_terminal(motherbird, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    for name in COMMANDS:
        motherbird(name, "--help").done()


def test_as_a_module():
    assert run("--version").stdout == f"motherbird, version {package.__version__}\n"


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["dem"], "'dem'.*'demo'"),
        (["fillmask"], "'fillmask'.*'fill-mask'"),
        (["fill_mask", "a"], "'fill-mask'"),
        (["xyzzy"], "'xyzzy'.*motherbird --help"),
        (["--hlep"], "'--hlep'.*'--help'"),
        (["demo", "--minuets", "1"], "'--minuets'.*'--minutes'"),
        (["demo", "--minutes"], "'--minutes' requires"),
        (["info", "one", "two"], "unexpected extra argument.*two.*info --help"),
        (["demo", "--seed", "-1"], "--seed.*-1"),
        (["demo", "--seed", "1e3"], "'1e3' is not a valid integer: see"),
        (["demo", "--minutes", "x"], "'x' is not a valid float: see"),
        (["demo", "--seed", str(2**63)], "--seed"),
        (["embed"], "Missing argument 'FILE...'.*embed --help"),
        ([""], "''"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_on_the_line(arguments, says, motherbird):
    assert motherbird(*arguments).refused(says).out == ""
    error = motherbird(*arguments, "--json").refused().json["error"]
    assert error["code"] == "usage" and error["what"]


def broken(error):
    def load(*arguments, **options):
        raise error

    return load


def test_an_internal_error_is_one_line(motherbird, model, monkeypatch):
    error = RuntimeError("not\n\nexpected")
    monkeypatch.setattr("motherbird.models.masked_lm.MaskedLM.load", broken(error))
    call = ("fill-mask", "a [MASK]", "--model", model)
    result = motherbird(*call)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: RuntimeError: not expected: this is a bug")
    assert result.err.count("\n") == 1 and "--debug" in result.err
    result = motherbird(*call, "--json")
    assert result.code == 1 and result.json["error"]["code"] == "internal"


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device", "/some/file"), MemoryError()], ids=repr
)
def test_an_error_of_the_machine_is_no_bug(error, motherbird, model, monkeypatch):
    monkeypatch.setattr("motherbird.models.masked_lm.MaskedLM.load", broken(error))
    motherbird("fill-mask", "a [MASK]", "--model", model).refused("space|memory", code=1)


HINTS = {
    "ENOSPC": "free some space", "EDQUOT": "free some space", "EACCES": "check the permissions",
    "EPERM": "check the permissions", "EROFS": "read-only", "ENOENT": "check the path",
    "ENOTDIR": "check the path", "ENAMETOOLONG": "a shorter name",
    "EMFILE": "limit of open files", "EIO": "check the disk",
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in HINTS if hasattr(errno, n)])
def test_an_error_of_the_system_says_what_helps(name, motherbird, model, monkeypatch):
    number = getattr(errno, name)
    error = OSError(number, os.strerror(number), "/some/file")
    monkeypatch.setattr("motherbird.models.masked_lm.MaskedLM.load", broken(error))
    said = motherbird("fill-mask", "a [MASK]", "--model", model).refused(HINTS[name], code=1).err
    for other in {"free some space", "permissions", "path"} - set(HINTS[name].split("check the ")):
        assert other == HINTS[name] or other not in said.replace("/some/file", "")


def test_an_error_of_the_system_without_a_known_remedy(motherbird, model, monkeypatch):
    for error in (OSError(errno.EDOM, "Out of domain", "/x"), OSError("something else")):
        monkeypatch.setattr("motherbird.models.masked_lm.MaskedLM.load", broken(error))
        said = motherbird("fill-mask", "a [MASK]", "--model", model).refused(code=1).err
        assert said in ("error: Out of domain: /x\n", "error: something else\n")


def test_the_path_to_use_instead_of_one_in_the_input(motherbird, sources, tmp_path, monkeypatch):
    """The output is not read as input, and the path that is named works."""
    text = tmp_path / "text"
    text.mkdir()
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(text)
    call = ("prepare", ".", "--tokenizer", tmp_path / "t", "--out")
    motherbird(*call, "out").refused(r"use another path, such as \.\./out-2$")
    motherbird(*call, "new/set").refused(r"use another path, such as \.\./set$")
    monkeypatch.chdir(tmp_path)
    call = ("prepare", "text", "--tokenizer", tmp_path / "t", "--out")
    motherbird(*call, "text/set").refused(r"use another path, such as set$")
    call = ("embed", "text.jsonl", "--out")
    motherbird(*call, "text.jsonl").refused(r"such as text-2\.jsonl|is not a \.npy file")


@pytest.mark.parametrize(
    "command",
    ["data build ../in", "prepare ../in --tokenizer ../in", "tokenizer train ../in", "demo",
     "export ../in --format hf", "runs average ../in --last 2"],
)  # fmt: skip
def test_an_output_that_is_the_current_directory_or_a_link(
    command, motherbird, tmp_path, monkeypatch
):
    """Before any input is read: there is none."""
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("here")
    (tmp_path / "dangling").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path / "here")
    for out in (".", tmp_path / "here"):
        says = rf"is the current directory: {out}: use the name of a new one, such as \./NAME"
        motherbird(*command.split(), "--out", out).refused(says)
    for link, target in {"link": "here", "dangling": "nowhere"}.items():
        says = (
            f"the output is a link: .*: use the directory that it leads to: {tmp_path / target}\n"
        )
        motherbird(*command.split(), "--out", f"../{link}").refused(says)
    assert not list((tmp_path / "here").iterdir()) and Path.cwd() == tmp_path / "here"


@posix
@pytest.mark.parametrize(
    "command", ["info", "embed t.txt --out o.npy", "runs list", "evaluate lm --data ds --json"]
)
def test_a_current_directory_that_was_removed(command, tmp_path):
    """The system's error has no path, and torch ends the process when it is imported there."""
    (tmp_path / "gone").mkdir()
    line = f"rmdir ../gone; exec {sys.executable} -P -m motherbird {command}"
    done = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path / "gone", capture_output=True, text=True, timeout=60
    )
    says = "error: the current directory does not exist any more: cd to another one\n"
    assert (done.returncode, done.stderr.splitlines(True)[-1]) == (2, says)


def test_help_of_texts(motherbird):
    help_of = {name: " ".join(motherbird(name, "--help").out.split()) for name in COMMANDS}
    assert "with the prompt (default: the model's limit)" in help_of["embed"]
    assert "[SEP] in a text is the token that ends a text" in help_of["embed"]
    assert "has a text in --column of each row" in help_of["embed"]
    assert "only if torch is installed" in help_of["info"]
    assert "a text in quotes (not a file)" in help_of["fill-mask"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["prepare", "in", "--tokenizer", "t", "--out", "o", "--seq-len", "256", "1024"],
            r"\(1024\): separate the values of --seq-len with commas; see motherbird prep",
        ),
        (
            ["bench", "cpu", "--systems", "motherbird", "onnx"],
            "separate the values of --workloads and --systems with commas; see motherbird bench",
        ),
        (["embed", "a", "b", "--out", "o.npy"], r"argument \(b\): see motherbird embed --help$"),
    ],
)
def test_an_argument_too_many(arguments, says, motherbird):
    motherbird(*arguments).refused(says)


def test_an_existing_directory_needs_no_access_to_its_parent(tmp_path, monkeypatch):
    """A run is continued in its directory, which can be a mounted one."""
    from motherbird.cli import options

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    assert options.output(str(tmp_path / "run"), []) == tmp_path / "run"
    with pytest.raises(package.InputError, match="nothing can be created in this directory"):
        options.output(str(tmp_path / "new"), [])


def test_debug_shows_the_traceback(model):
    done = run("--debug", "info", model / "nowhere")
    assert "Traceback" in done.stderr and "InputError" in done.stderr
    assert done.returncode == 2  # the same as without
    assert "Traceback" not in run("info", model / "nowhere", "--debug").stderr  # no such option


def test_verbose_says_what_was_chosen(motherbird, model):
    call = ("fill-mask", "a [MASK]", "--model", model)
    assert "INFO: engine" in motherbird("--verbose", *call).err
    motherbird(*call).done()


# --- surroundings


@pytest.mark.parametrize(
    "settings",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "TERM": "dumb"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
    ids=str,
)
def test_any_locale(settings, model):
    """Text that the terminal cannot show comes out escaped, and JSON stays JSON."""
    kept = ("PATH", "PYTHONPATH", "SYSTEMROOT", "OMP_WAIT_POLICY", "HF_HUB_OFFLINE")  # no HOME
    environment = {key: os.environ[key] for key in kept if key in os.environ} | settings
    text = "caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{GRINNING FACE} [MASK]"
    program = (
        "import sys; from motherbird.cli.main import main; "
        f"sys.argv = ['motherbird', 'fill-mask', {ascii(text)}, '--json', '--model', sys.argv[1]]; "
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(model)], capture_output=True, env=environment
    )
    assert (done.returncode, done.stderr) == (0, b"")
    out = done.stdout.decode("latin-1" if "PYTHONIOENCODING" in settings else "utf-8")
    assert json.loads(out)["text"] == text


@posix
@pytest.mark.parametrize("arguments", [["--help"], ["info", "--json"], ["info", "/dev", "--json"]])
def test_a_reader_that_has_gone(arguments):
    """As in ``motherbird info | head -0``: nothing to say about it."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*MOTHERBIRD, *arguments], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    if done.returncode == 1:
        assert done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("options", [[], ["--json"]], ids=str)
def test_a_full_standard_output(options, model):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*MOTHERBIRD, "fill-mask", "a [MASK]", "--model", str(model), *options],
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: No space left on device: free some space, or use another disk\n"


def test_help_says_what_needs_torch(motherbird):
    out = " ".join(motherbird("embed", "--help").done().out.split())
    assert "leave it at auto. flash, tiled, banded and oracle are for comparisons" in out
    assert "float16 and float64 need torch" in out
    assert "OUT.npy.json" in out and "FILE.npy" not in out


@posix
@pytest.mark.parametrize(
    ("arguments", "closed", "codes"),
    [(["--version"], ">&-", (0, 1)), (["embed", "-", "--out", "x.npy", "--model"], "<&-", (2,))],
    ids=["no output", "no input"],
)
def test_closed_streams(arguments, closed, codes, model, tmp_path):
    call = [*MOTHERBIRD, *arguments] + ([str(model)] if closed == "<&-" else [])
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *call],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode in codes
    assert "Traceback" not in done.stderr and "this is a bug" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.parametrize(
    ("number", "code", "options"),
    [(signal.SIGINT, 130, []), (signal.SIGTERM, 143, ["--json"])],
    ids=["SIGINT", "SIGTERM"],
)
def test_a_signal_during_a_demo(number, code, options, sources, tmp_path):
    """One line, the right code, nothing written."""
    process = subprocess.Popen(
        [*MOTHERBIRD, "demo", "--text", sources, "--minutes", "10", "--threads", "1", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    with process:
        talk = process.stderr if "--json" in options else process.stdout
        for line in talk:
            if line.startswith("3/5 training"):
                break
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert [line for line in err.splitlines() if line.startswith("error: stopped")] == [
        err.splitlines()[-1]
    ]
    assert "Traceback" not in err
    if "--json" in options:
        assert json.loads(out)["error"]["code"] == "stopped"
    assert list(tmp_path.iterdir()) == []
