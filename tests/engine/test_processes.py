"""The engine in threads and processes, and a package without torch."""

import json
import multiprocessing
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from motherbird import Embedder
from motherbird.core import hub
from motherbird.core.batching import concatenate
from motherbird.engine.model import NativeModel

DRAW = np.random.default_rng(0)
BATCHES = [[DRAW.integers(0, 32000, n).tolist() for n in lengths]
           for lengths in ((1,), (16,), (300,), (5, 70, 200), (1000,), (33,) * 20)]  # fmt: skip


@pytest.fixture(scope="module")
def nano():
    return NativeModel.load(hub.NANO_FOLDER, "float32")


def vectors(model):
    return [model.run(*concatenate(batch), "mean") for batch in BATCHES]


def test_many_callers_at_once(nano):
    expected = vectors(nano)
    with ThreadPoolExecutor(8) as callers:
        for found in callers.map(vectors, [nano] * 16):
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a, b)


def test_the_number_of_threads_changes_nothing(nano, monkeypatch):
    expected = vectors(nano)
    for count in (1, 2, 3, 7):
        monkeypatch.setattr("motherbird.core.threads._count", count)
        for a, b in zip(vectors(nano), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def in_child(send, model):
    embedder = Embedder(model or NativeModel.load(hub.NANO_FOLDER, "float32"))
    send.send(embedder.embed_ids([d for batch in BATCHES for d in batch], batch_tokens=128))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_that_start_after_use(method, nano):
    ids = [d for batch in BATCHES for d in batch]
    expected = Embedder(nano).embed_ids(ids, batch_tokens=128)
    context = multiprocessing.get_context(method)
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=in_child, args=(send, nano if method == "fork" else None))
    child.start()
    assert receive.poll(60), "the child hangs"
    np.testing.assert_array_equal(receive.recv(), expected)
    child.join(20)
    assert child.exitcode == 0


# Of the included model in float32, for two texts: every 40th number, computed with torch.
EXPECTED = [
    [-0.10936, -0.10324, -0.04314, 0.0867, -0.04085, 0.00384, 0.00425, -0.00006],
    [-0.12219, -0.00391, -0.01524, -0.01437, -0.00113, -0.01453, -0.00098, -0.00211],
]
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it fails
from motherbird.cli.main import main
sys.argv[0] = "motherbird"
main()
"""


def without_torch(*args, code=0):
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    return done


def test_commands_that_need_no_torch(tmp_path):
    (tmp_path / "texts.txt").write_text("one text\nand another one\n")
    out = tmp_path / "v.npy"
    without_torch("embed", tmp_path / "texts.txt", "--out", out, "--dtype", "float32")
    np.testing.assert_allclose(np.load(out)[:, ::40], EXPECTED, atol=2e-5)
    masks = json.loads(without_torch("fill-mask", "import [MASK] as np", "--json").stdout)
    assert masks["masks"][0][0]["text"] == "numpy"
    assert json.loads(without_torch("info", "motherbird-nano", "--json").stdout)["parameters"]
    machine = json.loads(without_torch("info", "--json").stdout)
    assert machine["torch"] is None and machine["engine"]["variant"]


def test_labels_need_no_torch(toy, small_tokenizer, tmp_path):
    pytest.importorskip("torch", reason="needs torch to make the models")
    from motherbird import nn

    heads = {"classify": (nn.SequenceClassifier, ("no", "yes")),
             "score": (nn.SequenceClassifier, ("score",)),
             "tag": (nn.TokenClassifier, ("O", "PER"))}  # fmt: skip
    (tmp_path / "texts.txt").write_text("one text\tand another one\n")
    for command, (cls, labels) in heads.items():
        cls(toy, labels).save(tmp_path / command, tokenizer=small_tokenizer)
        call = (command, tmp_path / "texts.txt", "--model", tmp_path / command)
        [line] = without_torch(*call).stdout.splitlines()
        assert json.loads(line)


def test_what_needs_torch_says_so(tmp_path):
    (tmp_path / "texts.txt").write_text("one text\n")
    for args in (("--dtype", "float16"), ("--device", "cuda"), ("--attention", "oracle")):
        call = ("embed", tmp_path / "texts.txt", "--out", tmp_path / "v.npy", *args)
        error = without_torch(*call, code=2).stderr
        assert "'torch' is not installed: pip install" in error and "[train]" in error


GROWTH = """
import numpy as np
from motherbird import Embedder, machine
embedder = Embedder.load("motherbird-nano")
sizes = []
for number in range(25):
    draw = np.random.default_rng(number)
    lengths = np.clip(draw.lognormal(4, 1.2, 40).astype(int), 3, 1024)
    embedder.embed_ids([draw.integers(5, 30_000, length) for length in lengths])
    sizes.append(machine.own_memory_mb("VmRSS"))
print(max(sizes[-5:]) - max(sizes[:5]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_long_inference_does_not_grow():
    """Every call has batches of new sizes. torch, with its caches for each size, grew by 421 MB."""
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True)
    assert float(done.stdout) < 30, done.stderr


LONG = """
import sys
import numpy as np
from motherbird import Embedder, presets
from motherbird.core.weights import Stored, shapes
from motherbird.engine.model import NativeModel
draw = np.random.default_rng(0)
tensors = {name: Stored("float32", draw.normal(0, 0.02, shape).astype(np.float32))
           for name, shape in shapes(presets.base(), None).items()}
embedder = Embedder(NativeModel(presets.base(), tensors, "float32"))
print("ready", flush=True)
embedder.embed_ids([[5] * 8192] * int(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("documents", [1, 4])
def test_ctrl_c_in_the_middle_of_long_documents(documents):
    """A document takes ten seconds or more; torch computed it to its end."""
    child = subprocess.Popen([sys.executable, "-c", LONG, str(documents)], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.7)
    child.send_signal(signal.SIGINT)
    time.sleep(0.02)
    child.send_signal(signal.SIGINT)  # by someone who does not wait
    start = time.monotonic()
    _, said = child.communicate(timeout=60)
    assert time.monotonic() - start < 4
    assert "KeyboardInterrupt\n" in said and child.returncode in (-signal.SIGINT, 1, 130)


NEED_TORCH = (
    "demo", "runs list", "evaluate lm --data set", "export motherbird-nano --format hf --out e",
    "bench cpu", "pretrain recipe.toml --data set --out run",
)  # fmt: skip


@pytest.mark.parametrize("call", NEED_TORCH)
def test_commands_that_need_torch_say_so(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text("")
    assert "'.[train]'" in without_torch(*call.split(), code=2).stderr


def test_the_data_engine_needs_no_torch(tmp_path, monkeypatch):
    pytest.importorskip("rensa", reason="needs the extra data")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").mkdir()
    for n in range(20):
        (tmp_path / "text" / f"{n}.txt").write_text(f"{n} is a number. " * 50 + "\n" + str(n) * 9)
    without_torch("data", "build", "text", "--out", "corpus")
    without_torch("prepare", "corpus", "--tokenizer", "motherbird-nano", "--out", "set")
    without_torch("data", "show", "set")
