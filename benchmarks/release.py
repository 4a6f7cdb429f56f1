"""Write the packaged model from a model of `runs average` and from its measurements.

    python benchmarks/release.py MODEL RESULTS --out src/motherbird/weights/nano

The encoder goes into encoder/, and the masked-LM head beside it. An index at the root names both,
for AutoModelForMaskedLM. sentence-transformers reads modules.json and loads the encoder alone,
without tensors that it would warn about. The results in RESULTS (evaluate, fills, retrieval,
length, control and cosine, JSON files) become tables of the card, and the commands of docs/nano.md
its section "Commands".
"""

import argparse
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from motherbird import Embedder
from motherbird.core import weights
from motherbird.files import new_directory
from motherbird.markdown import table

AT = "encoder"
GUIDE = Path(__file__).parents[1] / "docs" / "nano.md"
Result = dict[str, Any]


def by_source(found: Result) -> str:
    """Return the section for the results of `motherbird evaluate lm --json`."""
    rows = [
        [
            name, f"{s['loss']:.3f}", f"{s['unigram'] - s['loss']:.2f}",
            f"{s['nats_per_byte']:.3f}", f"{s['accuracy']:.1%}", f"{s['masked']:,}",
        ]
        for name, s in found["sources"].items()
    ]  # fmt: skip
    head = ("source", "loss", "below unigram entropy", "nats per byte", "accuracy", "masked tokens")
    return table(head, rows) + (
        f"\nHeld-out text in rows of {found['seq_len']:,} tokens, {found['masking']:.0%} masked, "
        "in nats per token; the unigram entropy is that of the same text.\n"
    )


def masks(found: Result) -> str:
    """Return the section for the results of fills.py."""
    text = ""
    for kind, name in (("sentences", "sentences"), ("code", "lines of code")):
        part = found[kind]
        rows = [
            [f"`{each['text'].splitlines()[0].strip()}`", each["answer"],
             ", ".join(f"`{given}`" for given in each["given"])]
            for each in part["each"]
        ]  # fmt: skip
        text += (
            f"In {part['first']} of {part['of']} {name} the expected word is the first candidate, "
            f"and in {part['in five']} it is among the first five.\n\n"
            + table(("text", "expected", "candidates"), rows)
            + "\n"
        )
    return text.rstrip("\n") + "\n"


def use_of_length(found: Result) -> str:
    """Return the section for the results of use_of_length.py."""
    [cut] = (key for key in found if key.startswith("cut to"))
    rows = [
        [name, f"{found[key]['loss']:.4f}", f"{found[key]['accuracy']:.2%}"]
        for name, key in (("whole", "whole"), (f"{cut.replace('cut', 'split')} tokens", cut))
    ]
    return table(("documents", "loss", "accuracy"), rows) + (
        f"\nThe same {found['masked']:,} masked tokens of {found['documents']:,} held-out "
        "documents of 4,096 to 8,192 tokens.\n"
    )


def retrieval(found: Result) -> str:
    """Return the section for the results of pooled_retrieval.py."""
    sets = found["ndcg@10"]
    models = list(next(iter(sets.values())))
    rows = [[name, *(f"{sets[name][model]:.3f}" for model in models)] for name in sets]
    mean = [sum(s[model] for s in sets.values()) / len(sets) for model in models]
    rows.append(["mean", *(f"{value:.3f}" for value in mean)])
    return table(("nDCG@10", *models), rows) + (
        "\nMean pooling, with the corpus' mean vector subtracted. A masked-LM encoder is weak at "
        "retrieval until it is trained on pairs.\n"
    )


def narrow(found: Result) -> str:
    """Return the section for the results of pooled_cosine.py."""
    rows = [
        [dtype, f"{found[dtype]['mean_cosine']:.5f}", f"{found[dtype]['neighbours_kept']:.1%}"]
        for dtype in ("bfloat16", "int8")
    ]
    return table(("dtype", "mean cosine", "ten nearest neighbors kept"), rows) + (
        f"\nMean-pooled vectors of {found['texts']:,} texts.\n"
    )


def control(found: Result) -> str:
    """Return the section for the results of control_bert.py."""
    ours, theirs = found["motherbird"][-1], found["BERT"][-1]
    return (
        f"On the same rows, {theirs['tokens'] / 1e6:.1f} million tokens: held-out loss "
        f"{theirs['evaluation']['loss']:.3f} (BERT: post-norm, learned positions, "
        f"{found['parameters']['BERT'] / 1e6:.1f}M parameters), where this run stood at "
        f"{ours['loss']:.3f} after {ours['tokens'] / 1e6:.1f} million "
        f"({found['parameters']['motherbird'] / 1e6:.1f}M parameters).\n"
    )


SECTIONS: dict[str, tuple[str, Callable[[Result], str]]] = {
    "evaluate": ("By source", by_source),
    "fills": ("Masks", masks),
    "length": ("Use of length", use_of_length),
    "retrieval": ("Retrieval without training for it", retrieval),
    "cosine": ("Compared with float32", narrow),
    "control": ("Compared with a BERT of equal size", control),
}


def exact(card: str) -> str:
    """Replace the commands of a run's card by those of docs/nano.md."""
    before, heading, after = card.partition("\n## Commands\n\n```sh\n")
    assert heading, "the card was not written for a run"
    _, made, measured = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    after = after[after.index("```") :].replace("with recipe.toml:", "with recipes/nano-gpu.toml:")
    return before + heading + made + measured + after


def split(model: Path, fresh: Path) -> None:
    """Write the weights in two files, with index, configurations and tokenizers."""
    tensors = load_file(model / weights.WEIGHTS)
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
    # So that other libraries compute in float32 on a CPU, and do not warn that bfloat16 is slow.
    bare = config | {"architectures": ["ModernBertModel"], "dtype": "float32"}
    for place, content in ((fresh, config), (fresh / AT, bare)):
        text = json.dumps(content, indent=2) + "\n"
        (place / "config.json").write_text(text, encoding="utf-8")
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copy(model / name, place)
    Embedder.load(fresh / AT, dtype="stored").write_modules(fresh, at=AT)


def main() -> None:
    """Write the model directory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    card = exact((options.model / "README.md").read_text(encoding="utf-8"))
    before, heading, after = card.partition("\n## Data\n")
    assert heading, "the card was not written for a run"
    for name, (title, write) in SECTIONS.items():
        found = json.loads((options.results / f"{name}.json").read_text(encoding="utf-8"))
        before += f"\n### {title}\n\n{write(found)}"
    with new_directory(options.out, "model") as fresh:
        split(options.model, fresh)
        (fresh / "README.md").write_text(before + heading + after, encoding="utf-8")
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
