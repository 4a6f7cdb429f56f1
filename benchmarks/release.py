"""From a model that runs average wrote, and from what was measured on it, the folder that ships.

    python benchmarks/release.py MODEL RESULTS --out src/motherbird/weights/nano

The encoder goes into encoder/, the masked-LM head beside it, and an index at the root names both:
AutoModelForMaskedLM reads the root; sentence-transformers, by modules.json, an encoder without
tensors that it would warn of. The tables of RESULTS (what its JSON files hold: evaluate, fills,
retrieval, length, control, cosine) go into the card's "Evaluation", the commands of docs/nano.md
into its "Commands".
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
from motherbird.files import new_directory
from motherbird.nn import checkpoint
from motherbird.train.card import table

AT = "encoder"
GUIDE = Path(__file__).parents[1] / "docs" / "nano.md"
Result = dict[str, Any]


def by_source(found: Result) -> str:
    """Of `motherbird evaluate --json`."""
    rows = [
        [
            name, f"{s['loss']:.3f}", f"{s['unigram'] - s['loss']:.2f}", f"{s['nats_a_byte']:.3f}",
            f"{s['accuracy']:.1%}", f"{s['masked']:,}",
        ]
        for name, s in found["sources"].items()
    ]  # fmt: skip
    head = ("source", "loss", "below unigram", "nats a byte", "accuracy", "masked tokens")
    return table(head, rows) + (
        f"\nHeld-out text in rows of {found['seq_len']:,} tokens, {found['masking']:.0%} masked, "
        "in nats a token; the unigram entropy is that of the same text.\n"
    )


def masks(found: Result) -> str:
    """Of fills.py."""
    text = ""
    for kind in ("sentences", "code"):
        part = found[kind]
        rows = [
            [f"`{each['text'].splitlines()[0].strip()}`", each["answer"],
             ", ".join(f"`{given}`" for given in each["given"])]
            for each in part["each"]
        ]  # fmt: skip
        text += (
            f"Of {part['of']} {kind}, the wanted word comes first in {part['first']} and among "
            f"five in {part['in five']}.\n\n" + table(("text", "wanted", "given"), rows) + "\n"
        )
    return text.rstrip("\n") + "\n"


def use_of_length(found: Result) -> str:
    """Of use_of_length.py."""
    [cut] = (key for key in found if key.startswith("cut to"))
    rows = [
        [name, f"{found[key]['loss']:.4f}", f"{found[key]['accuracy']:.2%}"]
        for name, key in (("whole", "whole"), (f"{cut} tokens", cut))
    ]
    return table(("documents", "loss", "accuracy"), rows) + (
        f"\nThe same {found['masked']:,} masked tokens of {found['documents']:,} held-out "
        "documents of 4,096 to 8,192 tokens.\n"
    )


def retrieval(found: Result) -> str:
    """Of pooled_retrieval.py."""
    sets = found["ndcg@10"]
    ways = list(next(iter(sets.values())))
    rows = [[name, *(f"{sets[name][way]:.3f}" for way in ways)] for name in sets]
    mean = [sum(s[way] for s in sets.values()) / len(sets) for way in ways]
    rows.append(["mean", *(f"{value:.3f}" for value in mean)])
    return table(("nDCG@10", *ways), rows) + (
        "\nMean pooling, the corpus' mean vector taken off. It is weak, as a masked-LM encoder is: "
        "train it on pairs first.\n"
    )


def narrow(found: Result) -> str:
    """Of pooled_cosine.py."""
    rows = [
        [dtype, f"{found[dtype]['mean_cosine']:.5f}", f"{found[dtype]['neighbours_kept']:.1%}"]
        for dtype in ("bfloat16", "int8")
    ]
    return table(("computing in", "mean cosine", "nearest ten kept"), rows) + (
        f"\nMean-pooled vectors of {found['texts']:,} texts.\n"
    )


def control(found: Result) -> str:
    """Of control_bert.py."""
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
    "retrieval": ("Retrieval without any training for it", retrieval),
    "cosine": ("Beside float32", narrow),
    "control": ("Beside a BERT of equal size", control),
}


def exact(card: str) -> str:
    """The card with the commands of docs/nano.md in the place of those for any run."""
    before, heading, after = card.partition("\n## Commands\n\n```sh\n")
    assert heading, "the card is not that of a run"
    _, made, measured = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    after = after[after.index("```") :].replace("with recipe.toml:", "with recipes/nano-gpu.toml:")
    return before + heading + made + measured + after


def split(model: Path, fresh: Path) -> None:
    """The weights in two files, and all that reads them."""
    tensors = load_file(model / checkpoint.WEIGHTS)
    inside = {name: t for name, t in tensors.items() if name.startswith("model.")}
    (fresh / AT).mkdir()
    parts = {
        f"{AT}/{checkpoint.WEIGHTS}": inside,
        "head.safetensors": {name: t for name, t in tensors.items() if name not in inside},
    }
    for name, part in parts.items():
        save_file(part, fresh / name, metadata={"format": "pt"})
        (fresh / name).chmod(0o644)
    index = {
        "metadata": {"total_size": sum(t.numel() * t.element_size() for t in tensors.values())},
        "weight_map": {tensor: name for name, part in parts.items() for tensor in part},
    }
    (fresh / checkpoint.INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    # Others then compute in float32 on a CPU, and do not warn that bfloat16 may be slow there.
    bare = config | {"architectures": ["ModernBertModel"], "dtype": "float32"}
    for place, content in ((fresh, config), (fresh / AT, bare)):
        text = json.dumps(content, indent=2) + "\n"
        (place / "config.json").write_text(text, encoding="utf-8")
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copy(model / name, place)
    Embedder.load(fresh / AT).write_modules(fresh, at=AT)


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    card = exact((options.model / "README.md").read_text(encoding="utf-8"))
    before, heading, after = card.partition("\n## Data\n")
    assert heading, "the card is not that of a run"
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
