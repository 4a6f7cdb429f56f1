"""Every peer keeps the contract, and gives the oracle's vectors where it is installed."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from motherbird.bench import check as checks
from motherbird.bench import peers
from motherbird.bench.check import cosines
from motherbird.bench.peers import Job, all_systems, peer
from motherbird.bench.pool import PAUSE
from motherbird.nn import Encoder

SYSTEMS = all_systems()
OWN = [s for s in SYSTEMS if s.same_weights and s.key != "motherbird/int8"]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A model whose window is 8 on each side, so that padding outgrows it soon."""
    from motherbird import EncoderConfig

    folder = tmp_path_factory.mktemp("peers")
    config = EncoderConfig(
        vocab_size=1024, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
        num_attention_heads=2, max_position_embeddings=1024, local_attention=16, pad_token_id=0,
        cls_token_id=1, bos_token_id=1, sep_token_id=2, eos_token_id=2, initializer_range=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    Encoder(config).save(folder / "model")
    return Job(folder / "model", folder, 2, 32, 2, 1024, 1024, 1.0)


def test_the_tuple_is_the_folder():
    folder = Path(peers.__file__).parent
    files = {f"{peers.__name__}.{p.stem}" for p in folder.glob("*.py") if p.stem != "__init__"}
    assert set(peers.PEERS) == files and len(peers.PEERS) == len(files)


def test_the_contract():
    assert len({system.key for system in SYSTEMS}) == len(SYSTEMS)
    for system in SYSTEMS:
        assert callable(peer(system).build)
        assert system in peer(system).SYSTEMS
    names = {system.name for system in SYSTEMS}
    assert {"motherbird", "transformers", "transformers-sorted", "sentence-transformers",
            "onnxruntime", "openvino", "openvino-dynamic", "llama.cpp", "bert", "roberta",
            "deberta-v3", "nomic-bert", "gte"} == names  # fmt: skip


def test_missing_packages_and_their_extra(monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    for system in SYSTEMS:
        reason = system.missing()
        assert (reason is None) == (system.name == "motherbird")
        assert reason is None or "pip install -c constraints.txt '.[bench]'" in reason


def test_listing_the_systems_brings_nothing_into_a_worker():
    """Neither torch nor any peer: what OpenVINO and ONNX Runtime need is to be theirs alone."""
    code = (
        "import sys, motherbird.bench.pool as p; p.peer.__globals__['all_systems']();"
        "libraries = {'torch', 'transformers', 'openvino', 'onnxruntime', 'xllamacpp', 'gguf'};"
        "print(sorted(libraries & set(sys.modules)))"
    )
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert out == "[]\n"


def idle():
    """CPU time that this process takes in 0.3 seconds of rest, soon after a run."""
    time.sleep(PAUSE)
    before = time.process_time()
    time.sleep(0.3)
    return time.process_time() - before


def slow(system):
    return system.name == "sentence-transformers" or (
        "openvino" in system.name and system.dtype == "int8"
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "system",
    [pytest.param(s, marks=[pytest.mark.slow] if slow(s) else []) for s in OWN],
    ids=lambda s: s.key,
)
def test_vectors_are_the_oracles(system, job):
    """On lengths whose padding is longer than half a window; and no thread spins afterwards."""
    reason = system.missing()
    if reason:
        pytest.skip(reason)
    if system.name == "onnxruntime":
        pytest.importorskip("motherbird.export.onnx_graph")
    getattr(peer(system), "prepare", lambda *_: None)(system, job)
    encode = peer(system).build(system, job)
    got = encode(checks.cases(system, job))
    for vectors in got:
        assert vectors.dtype == np.float32 and vectors.shape[1] == 32
    values = cosines(np.concatenate(got), checks.reference_vectors(system, job))
    assert np.isfinite(values).all()
    assert idle() < 0.05
    # Eight bits for the wide weights of a toy are few.
    assert values.min() >= (0.98 if system.dtype == "int8" else checks.AGREEMENT[system.dtype])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_the_gguf_file_has_the_weights(dtype, job):
    """Under llama.cpp's names, and within the rounding of the dtype."""
    gguf = pytest.importorskip("gguf")
    from motherbird.bench.peers import llama_cpp

    system = next(s for s in llama_cpp.SYSTEMS if s.dtype == dtype)
    llama_cpp.prepare(system, job)
    reader = gguf.GGUFReader(llama_cpp._file(system, job))
    tensors = {t.name: t for t in reader.tensors}
    weights = Encoder.load(job.directory, dtype="float32").state_dict()
    assert len(tensors) == len(weights)
    names = {"token_embd.weight": "embeddings.tok_embeddings.weight",
             "token_embd_norm.weight": "embeddings.norm.weight",
             "blk.3.attn_qkv.weight": "layers.3.attn.Wqkv.weight",
             "blk.3.ffn_down.weight": "layers.3.mlp.Wo.weight",
             "output_norm.weight": "final_norm.weight"}  # fmt: skip
    for name, ours in names.items():
        tensor, weight = tensors[name], weights[ours].numpy()
        # A row of 48 is not a whole number of blocks of 32.
        short = dtype == "int8" and weight.shape[-1] == 48
        expected = "F32" if weight.ndim == 1 else "F16" if short else llama_cpp.TYPES[dtype]
        assert tensor.tensor_type.name == expected
        values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(weight.shape)
        np.testing.assert_allclose(values, weight, atol=2**-7 * np.abs(weight).max())
    pattern = reader.get_field("modern-bert.attention.sliding_window_pattern").contents()
    assert pattern == [False, True, True, False]


@pytest.mark.parametrize(
    "change", [{"mlp_bias": True}, {"norm_bias": True}, {"hidden_activation": "silu"}]
)
def test_llama_cpp_refuses_what_it_would_compute_differently(change, job, tmp_path):
    pytest.importorskip("gguf")
    from motherbird import EncoderConfig
    from motherbird.bench.peers import llama_cpp
    from motherbird.errors import InputError

    config = EncoderConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, pad_token_id=0, cls_token_id=1, bos_token_id=1, sep_token_id=2,
        eos_token_id=2, **change,
    )  # fmt: skip
    Encoder(config).save(tmp_path / "model")
    changed = dataclasses.replace(job, directory=tmp_path / "model", folder=tmp_path)
    with pytest.raises(InputError, match="GELU and without biases"):
        llama_cpp.prepare(llama_cpp.SYSTEMS[0], changed)


def test_llama_cpp_takes_more_documents_than_its_batches_hold(job):
    """More than it has slots for, and more tokens than one of its batches."""
    pytest.importorskip("xllamacpp")
    from motherbird.bench.peers import llama_cpp, motherbird

    system = llama_cpp.SYSTEMS[0]
    llama_cpp.prepare(system, job)
    documents = [
        [5 + i % 900, 7, 9 + i % 700] * (4 + i % 7) for i in range(llama_cpp.DOCUMENTS + 9)
    ]
    [got] = llama_cpp.build(system, job)([documents])
    assert sum(map(len, documents)) > 2 * job.longest
    expected = motherbird.load(job.directory, "float32", "oracle", 2)([[d] for d in documents])
    assert cosines(got, np.concatenate(expected)).min() >= checks.AGREEMENT["float16"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["bert", "roberta", "deberta-v3", "nomic-bert", "gte"],
)
def test_other_models_agree_with_themselves(name, job):
    pytest.importorskip("transformers")
    system = next(s for s in SYSTEMS if s.name == name)
    for dtype in ("float32", "bfloat16"):
        typed = dataclasses.replace(system, dtype=dtype)
        encode = peer(typed).build(typed, job)
        got = np.concatenate(encode(checks.cases(typed, job)))
        values = cosines(got, checks.reference_vectors(typed, job))
        assert np.isfinite(values).all() and values.min() >= checks.AGREEMENT[dtype]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["bert", "roberta", "deberta-v3", "nomic-bert", "gte"])
def test_other_models_run_in_the_size_of_the_included_model(name, tmp_path):
    pytest.importorskip("transformers")
    from motherbird.bench import cpu
    from motherbird.core import hub

    system = dataclasses.replace(next(s for s in SYSTEMS if s.name == name), dtype="float32")
    config = cpu.read_config(hub.NANO)
    options = cpu.Options(hub.NANO, (), (system,), 1, 1.0, 2)
    job = cpu._job(options, config, tmp_path, hub.find(hub.NANO))
    [vectors] = peer(system).build(system, job)([[[1, 5, 7, 2], [1, 9, 2]]])
    assert vectors.shape == (2, 320) and np.isfinite(vectors).all()


def test_other_models_have_published_sizes_or_as_many_parameters():
    from motherbird import presets
    from motherbird.bench.peers import architectures

    assert architectures._size(presets.base()) == (12, 12)
    assert architectures._size(presets.large()) == (24, 16)
    for config in (presets.nano(), presets.mini()):
        layers, heads = architectures._size(config)
        assert heads == config.num_attention_heads and config.hidden_size % heads == 0
        width = config.hidden_size
        own = sum(p.numel() for n, p in Encoder(config).named_parameters() if "layers" in n)
        assert layers * 12 * width**2 == pytest.approx(own, rel=0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "millions"),
    [("bert", 110), ("roberta", 125), ("deberta-v3", 184), ("nomic-bert", 137), ("gte", 137)],
)
def test_other_models_have_the_papers_parameters(name, millions):
    transformers = pytest.importorskip("transformers")
    from motherbird.bench.peers import architectures

    config = architectures._config(name, 768, 12, 12)
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.02)


def test_int8_works_or_has_a_reason(job):
    """Without it, its row has the error as its reason."""
    from motherbird.errors import InputError

    system = next(s for s in SYSTEMS if s.key == "motherbird/int8")
    try:
        encode = peer(system).build(system, job)
    except InputError as error:
        assert "int8" in str(error)
    else:
        cases = checks.cases(system, job)
        got = np.concatenate(encode(cases))
        assert cosines(got, checks.reference_vectors(system, job)).min() >= checks.AGREEMENT["int8"]
