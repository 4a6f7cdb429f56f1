"""Write the packaged model from a model of `finetune multitask` and from its measurements.

    python benchmarks/release.py MODEL TEXTS [--results RESULTS] --out DIR

The encoder goes into encoder/ in bfloat16, and the masked-LM head beside it. An index at the root
names both, for AutoModelForMaskedLM. sentence-transformers reads modules.json and loads the encoder
alone, without tensors that it would warn about. The linear layer is rotated so that the first
dimensions of the vectors of TEXTS (a .jsonl file) vary most, and can be used alone; products of
vectors stay the same. RESULTS has the JSON files of docs/model.md, which become tables of the card;
without it, there is no card.
"""

import argparse
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import texts
from safetensors.torch import load_file, save_file

from motherbird import Dense, Embedder, MaskedLM
from motherbird.core import weights
from motherbird.files import new_directory
from motherbird.markdown import table

AT = "encoder"
GUIDE = Path(__file__).parents[1] / "docs" / "model.md"
SAMPLE = 4000  # texts by which the dimensions are put in order
# What the stages after static vectors are called, and their JSON files.
STAGES = (
    ("distillation", "dense"), ("a masked-LM head", "head"), ("masked-LM", "masked-1"),
    ("masked-LM, to 8,192 tokens", "masked-2"), ("four tasks", "tasks-1"),
    ("four tasks, by Muon", "tasks-2"),
)  # fmt: skip
Result = dict[str, Any]


def by_variance(embedder: Embedder, sample: list[str]) -> Dense:
    """Return the linear layer, rotated so that first dimensions of vectors of texts vary most.

    The layer must have no bias and no activation. Outputs beyond the width are left out: all
    vectors are 0 in them.
    """
    [dense] = embedder.dense
    assert dense.bias is None and dense.activation == "identity"
    vectors = embedder.embed(sample, max_length=512, truncate=True).astype(np.float64)
    _, directions = np.linalg.eigh(vectors.T @ vectors)
    width = dense.weight.shape[1]
    rotated = directions[:, ::-1][:, :width].T @ dense.weight.astype(np.float64)
    return Dense(rotated.astype(np.float32))


def stages(found: Result) -> str:
    """Return a table of the stages of training, from the JSON files that they wrote."""
    static, machine = found["static"], found["dense"]["machine"]
    rows = [["static vectors", f"{static['documents']:,} texts, {static['epochs']} epochs", "",
             f"cosine {static['cosine']['after']:.3f}"]]  # fmt: skip
    hours = 0.0
    for name, key in STAGES:
        own = found[key]
        if "documents" in own:
            count, epochs = own["documents"]["train"], own["recipe"].get("epochs", 1)
            data = f"{count:,} rows" + (f", {epochs} epochs" if epochs > 1 else "")
            held = ", ".join(f"{metric} {value:.3f}" for metric, value in own["dev"].items())
        else:
            data = f"{own['tokens'] / 1e6:.1f} million tokens"
            held = f"masked accuracy {own['evaluation']['accuracy']:.3f}"
        rows.append([name, data, f"{own['seconds'] / 3600:.1f}", held])
        hours += own["seconds"] / 3600
    return table(("stage", "data", "hours", "on texts held out"), rows) + (
        f"\nOn {machine['cores']} cores of {machine['cpu']} with AMX, in bfloat16; no GPU; "
        f"{hours:.1f} hours of training in all. cosine is that with "
        "the teacher's vectors, MRR@10 the mean of 1 / rank of the right document among all that "
        "are held out, spearman that of scores of pairs with the teacher's cosines. Stages hold "
        "out different texts, so their figures cannot be compared.\n"
    )


def search(found: Result) -> str:
    """Return the tables of nDCG@10 on retrieval sets."""

    def values(files: tuple[str, ...], mode: str) -> dict[str, float]:
        return {own["dataset"]: own["modes"][mode]["nDCG@10"]
                for file in files for own in found[file]["sets"]}  # fmt: skip

    own, other = ("retrieval", "passages"), ("untrained", "untrained-passages")
    columns = {
        **{name: values(own, mode) for name, mode in (
            ("BM25", "bm25"), ("dense", "dense"), ("late", "late"), ("hybrid", "hybrid"))},
        "static": values(("static-vectors",), "dense"),
        "untrained dense": values(other, "dense"), "untrained late": values(other, "late"),
        "untrained hybrid": values(other, "hybrid"),
        "MiniLM": values(("retrieval-minilm",), "dense"),
    }  # fmt: skip
    sets = list(columns["BM25"])
    rows = [[name, *(f"{each[name]:.3f}" for each in columns.values())] for name in sets]
    rows.append([
        "mean", *(f"{float(np.mean([each[n] for n in sets])):.3f}" for each in columns.values())
    ])  # fmt: skip
    whole = values(("whole",), "dense")
    return table(("nDCG@10", *columns), rows) + (
        "\ndense is one vector for each text, late is late interaction (ColBERT) with the first "
        f"{found['retrieval']['truncate_dim']} dimensions of a vector for each token, hybrid is "
        "BM25 with both. static are the vectors of the input embeddings. "
        "untrained is the same encoder with random weights. MiniLM is all-MiniLM-L6-v2, the "
        "teacher (22.7M parameters), which reads 256 tokens. The documents of longdoc and qmsum, "
        "of 6,000 to 10,000 words, are read in passages of 512 tokens by dense and late; with one "
        f"vector for up to 8,192 tokens, dense has {whole['longdoc']:.3f} and "
        f"{whole['qmsum']:.3f}. Splits dev or train. The weights of hybrid "
        "were chosen on the 11 short ones.\n"
    )


def dimensions(found: Result) -> str:
    """Return the table of the first dimensions of a vector."""
    own = found["dimensions"]
    sizes = list(own["mean"])
    return table(("first dimensions", *sizes), [
        ["mean nDCG@10", *(f"{own['mean'][size]:.3f}" for size in sizes)]
    ]) + (
        f"\nMean of {len(own['sets'])} sets of short documents, dense, with at most 1,000 queries "
        "of each.\n"
    )  # fmt: skip


def code(found: Result) -> str:
    """Return the table of search over packages."""
    own = found["code-search"]["ndcg@10"]
    rows = [
        [way, *(f"{own[key]['all']:.3f}" for key in (kind, f"{kind}, rules"))]
        for way, kind in (("full text", "bm25"), ("static vectors", "dense"), ("both", "hybrid"))
    ]
    return table(("nDCG@10 of 184 questions", "alone", "with rules"), rows) + (
        "\n`motherbird search` over nine Python packages; see docs/search.md.\n"
    )


def masks(found: Result) -> str:
    """Return the section on masked tokens."""
    fills, rows = found["fills"], []
    for part in (fills["sentences"], fills["code"]):
        rows += [
            [f"`{each['text'].splitlines()[0].strip()}`", each["answer"],
             ", ".join(f"`{given}`" for given in each["given"])]
            for each in part["each"]
        ]  # fmt: skip
    own, before = found["evaluate"]["sources"], found["evaluate-before"]["sources"]
    compared = [
        [name, f"{own[name]['accuracy']:.1%}", f"{before[name]['accuracy']:.1%}"] for name in own
    ]
    said = " and ".join(
        f"{fills[kind]['first']} of {fills[kind]['of']} {name} (in {fills[kind]['in five']} it is "
        "among five)"
        for kind, name in (("sentences", "sentences"), ("code", "lines of code"))
    )
    return (
        f"The expected word is the first candidate in {said}.\n\n"
        + table(("text", "expected", "candidates"), rows)
        + "\n"
        + table(("15% masked, accuracy", "this version", "version 1"), compared)
        + "\nVersion 1 was trained for masked tokens alone, on 469 million tokens.\n"
    )


def narrow(found: Result) -> str:
    """Return the section for the results of pooled_cosine.py."""
    own = found["cosine"]
    rows = [
        [dtype, f"{own[dtype]['mean_cosine']:.5f}", f"{own[dtype]['neighbours_kept']:.1%}"]
        for dtype in ("bfloat16", "int8")
    ]
    return table(("compared with float32", "mean cosine", "ten nearest neighbors kept"), rows) + (
        f"\nVectors of {own['texts']:,} texts.\n"
    )


SECTIONS: dict[str, Callable[[Result], str]] = {
    "Search": search,
    "First dimensions": dimensions,
    "Code search": code,
    "Masked tokens": masks,
    "bfloat16 and int8": narrow,
    "Training": stages,
}


def card(results: Path) -> str:
    """Return the model card."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    guide = GUIDE.read_text(encoding="utf-8")
    limits, use, data = (
        re.search(rf"\n## {name}\n\n(.*?)(?=\n## |\Z)", guide, re.DOTALL)[1]  # type: ignore[index]
        for name in ("Limits", "Use", "Data")
    )
    commands = "".join(re.findall(r"```sh\n(.*?)```", guide.split("\n## Commands\n")[1], re.DOTALL))
    intro = guide.split("\n\n")[1].replace("\n", " ")
    text = (
        "---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n"
        "license: apache-2.0\nlanguage: en\n"
        "tags: [modernbert, motherbird, sentence-transformers, feature-extraction, multi-vector]\n"
        f"---\n\n# motherbird-nano\n\n{intro}\n\n## Limits\n\n{limits}\n## Use\n\n{use}\n"
    )
    for title, write in SECTIONS.items():
        text += f"## {title}\n\n{write(found)}\n"
    data = re.sub(r"\[([^]]*)\]\((?!https?:)[^)]*\)", r"\1", data)  # links within the repository
    return text + f"## Data\n\n{data}\n## Commands\n\n```sh\n{commands}```\n"


def split(model: Path, fresh: Path, dense: Dense) -> None:
    """Write the weights in two files, with index, configurations and tokenizers."""
    tensors = {
        name: tensor.to(torch.bfloat16)
        for name, tensor in load_file(model / weights.WEIGHTS).items()
    }
    inside = {name: t for name, t in tensors.items() if name.startswith("model.")}
    (fresh / AT).mkdir()
    parts = {
        f"{AT}/{weights.WEIGHTS}": inside,
        "head.safetensors": {name: t for name, t in tensors.items() if name not in inside},
    }
    for name, part in parts.items():
        save_file(part, fresh / name, metadata={"format": "pt"})
        (fresh / name).chmod(0o644)
    index = {
        "metadata": {"total_size": sum(t.numel() * t.element_size() for t in tensors.values())},
        "weight_map": {tensor: name for name, part in parts.items() for tensor in part},
    }
    (fresh / weights.INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config |= {"architectures": ["ModernBertForMaskedLM"], "dtype": "bfloat16"}
    # So that other libraries compute in float32 on a CPU, and do not warn that bfloat16 is slow.
    bare = config | {"architectures": ["ModernBertModel"], "dtype": "float32"}
    for place, content in ((fresh, config), (fresh / AT, bare)):
        text = json.dumps(content, indent=2) + "\n"
        (place / "config.json").write_text(text, encoding="utf-8")
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copy(model / name, place)
    Embedder(
        Embedder.load(fresh / AT, dtype="stored").encoder, dense=[dense]
    ).write_modules(fresh, at=AT)  # fmt: skip
    MaskedLM.load(fresh)  # all files fit


def main() -> None:
    """Write the model directory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    written = card(options.results) if options.results else ""
    dense = by_variance(Embedder.load(options.model), texts(options.texts, SAMPLE))
    with new_directory(options.out, "model") as fresh:
        split(options.model, fresh, dense)
        if written:
            (fresh / "README.md").write_text(written, encoding="utf-8")
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
