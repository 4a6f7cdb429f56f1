"""LoRA, memory and other settings of fine-tuning."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from motherbird import Classifier, InputError
from motherbird.errors import NoMemoryError
from motherbird.files import sha256
from motherbird.nn import Encoder, SequenceClassifier
from motherbird.nn.packed import pack
from motherbird.train import lora
from motherbird.train.finetune import finetune
from motherbird.train.objectives.labels import LabelsObjective
from motherbird.train.tuning_memory import bytes_needed
from motherbird.train.tuning_plan import initial_model, plan


@pytest.fixture(autouse=True)
def _one_thread(_same_start):
    torch.set_num_threads(1)


PREDICT = """
import json, sys
from motherbird import Classifier
model = Classifier.load(sys.argv[1], dtype="float32")
print(json.dumps(model.probabilities(["the good file", "a bad path"]).tolist()))
"""


def test_lora_learns_and_its_model_loads_in_a_new_process(recipe, tmp_path, good_or_bad):
    found = finetune(replace(recipe, lora_rank=4, lr=2e-2, epochs=8), good_or_bad, tmp_path / "out")
    assert found["dev"]["accuracy"] > 0.9
    own = Classifier.load(tmp_path / "out", dtype="float32").probabilities(
        ["the good file", "a bad path"]
    )
    command = [sys.executable, "-c", PREDICT, str(tmp_path / "out")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    np.testing.assert_array_equal(np.float32(json.loads(printed)), own)


def test_lora_trains_its_matrices_and_the_head_and_merging_changes_no_logit(recipe, good_or_bad):
    model = initial_model(plan(recipe, good_or_bad))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    added = lora.add(model, 4, seed=0)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or name.startswith(("head.", "classifier.")) for name in trained)
    assert sum("lora_" in name for name in trained) == 2 * 4 * 2  # layers, matrices, A and B
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    batch = pack([[5, 6, 7, 8], list(range(9, 40))])
    model.eval()
    expected = model(batch)
    lora.merge(added)
    assert model.state_dict().keys() == before.keys()
    torch.testing.assert_close(model(batch), expected, rtol=1e-5, atol=1e-5)
    wqkv = "model.layers.0.attn.Wqkv.weight"
    assert not torch.equal(model.state_dict()[wqkv], before[wqkv])


def test_tokens_that_do_not_occur_keep_their_embeddings(recipe, tmp_path, good_or_bad):
    made = plan(recipe, good_or_bad)
    finetune(recipe, good_or_bad, tmp_path / "out")
    before = Encoder.load(recipe.model, dtype="float32").embeddings.tok_embeddings.weight
    after = SequenceClassifier.load(
        tmp_path / "out", dtype="float32"
    ).model.embeddings.tok_embeddings.weight
    same = (before == after).all(dim=1)
    occurs = np.isin(np.arange(len(same)), made.tokens)
    np.testing.assert_array_equal(same.numpy(), ~occurs)


def test_gradient_checkpointing_changes_no_bit(recipe, tmp_path, good_or_bad):
    finetune(recipe, good_or_bad, tmp_path / "a")
    finetune(replace(recipe, gradient_checkpointing=True), good_or_bad, tmp_path / "b")
    assert sha256(tmp_path / "a/model.safetensors") == sha256(tmp_path / "b/model.safetensors")


def test_a_step_for_which_memory_does_not_suffice_is_repeated(
    recipe, tmp_path, monkeypatch, caplog, good_or_bad
):
    """The allocator's error, for more than 100 tokens at a time, as of the seventh step."""
    compute, steps = LabelsObjective.loss, []

    def loss(self, batch):
        steps.append(len(batch.packed.ids))
        if len(steps) > 6 and len(batch.packed.ids) > 100:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")
        return compute(self, batch)

    monkeypatch.setattr(LabelsObjective, "loss", loss)
    finetune(replace(recipe, micro_tokens=256), good_or_bad, tmp_path / "out")
    assert caplog.text.count("the step is repeated") == 2  # 128, then 64
    log = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(1, 19))


def test_memory_that_never_suffices_is_an_error_of_one_line(
    recipe, tmp_path, monkeypatch, good_or_bad
):
    def loss(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(LabelsObjective, "loss", loss)
    with pytest.raises(NoMemoryError, match="does not suffice.*max-length"):
        finetune(recipe, good_or_bad, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_limit_of_memory_sets_micro_batches_first_and_checkpointing_second(
    recipe, tmp_path, good_or_bad
):
    cpu = torch.device("cpu")
    made = plan(recipe, good_or_bad)
    long = replace(made.train, ids=[np.ones(4096, np.int32)] * 32)
    made = replace(made, train=long)
    most = bytes_needed(made, recipe, cpu, 2)
    fewer = bytes_needed(made, replace(recipe, micro_tokens=4096), cpu, 2)
    again = replace(recipe, micro_tokens=4096, gradient_checkpointing=True)
    assert bytes_needed(made, again, cpu, 2) < fewer < most
    low = replace(recipe, max_memory=0.1)
    with pytest.raises(InputError, match=r"needs about .* max_memory is 0.1 GB.*lora_rank"):
        finetune(low, good_or_bad, tmp_path / "out")
    lines: list[str] = []
    finetune(
        replace(recipe, max_memory=1.0, epochs=1), good_or_bad, tmp_path / "out",
        on_plan=lambda given: lines.extend(given.lines()),
    )  # fmt: skip
    assert any(line.startswith("memory: about 40") and "8,192" in line for line in lines)
