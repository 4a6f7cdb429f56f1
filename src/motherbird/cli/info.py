"""``motherbird info``: describe a model, or this machine."""

from pathlib import Path
from typing import Any

import click

from ..core.hub import NANO
from . import options
from .output import human, print_json


def _refuse_option(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise click.UsageError("info takes MODEL without --model.")


@click.command(name="info")
@click.argument("model", required=False)
@click.option("--model", "option", hidden=True, expose_value=False, callback=_refuse_option,
              help="Not an option of info.")  # fmt: skip
@options.revision
@options.as_json
def command(model: str | None, revision: str | None, json_: bool) -> None:
    """Describe MODEL (a directory, or owner/name on the Hub), or without MODEL this machine.

    The weights are read and validated, but the model is not run.

    With --json: for a model {"model", "architecture", "geometry", "layers", "parameters",
    "memory", "tokenizer", "embedding", "labels", "predicts", "files", "tensors"}; for the machine
    {"motherbird", "python", "cpu", "threads", "engine", "torch", "devices", "fastest_dtype",
    "attention"}; "devices", "fastest_dtype" and "attention" are there only if torch is installed.
    """
    if model is None:
        if revision is not None:
            raise click.UsageError("--revision needs a MODEL.")
        report = _machine()
        print_json(report) if json_ else _show_machine(report)
    else:
        report = _model(model, revision)
        print_json(report) if json_ else _show_model(report)


def _machine() -> dict[str, Any]:
    import numpy  # noqa: F401 - torch imports it, and drops an exception of a signal there

    from .. import __version__, machine
    from ..core import threads
    from ..engine import library

    about = machine.describe(threads.count())
    report: dict[str, Any] = {
        "motherbird": __version__,
        "python": about["python"],
        "cpu": {"name": about["cpu"], "isa_extensions": about["isa_extensions"]},
        "threads": about["threads"],
        "engine": {
            "variant": library.variant().name.decode(),
            "dtypes": [name for name in library.PRECISIONS if library.computes(name)],
            "fastest_dtype": library.resolve_dtype("auto"),
        },
        "torch": about["versions"].get("torch"),
    }
    try:
        from ..nn.devices import describe
    except ImportError:  # torch is not installed
        return {**report, "torch": None}
    return report | describe()


def _show_machine(report: dict[str, Any]) -> None:
    cpu, engine = report["cpu"], report["engine"]
    rows = [
        *((key, report[key]) for key in ("motherbird", "python")),
        ("model", f"{NANO} is included (./{NANO} is a directory); see motherbird info {NANO}"),
        (
            "processor",
            f"{cpu['name']} ({', '.join(cpu['isa_extensions']) or 'no known ISA extensions'})",
        ),
        ("threads", report["threads"]),
        ("engine", f"{engine['variant']}: {', '.join(engine['dtypes'])}"),
        ("torch", report["torch"] or "not installed: needed for training, GPUs and export"),
    ]
    for device in report.get("devices", ()):
        rows.append((f"torch on {device}", f"fastest dtype: {report['fastest_dtype'][device]}"))
        rows += [(f"  attention {k}", state) for k, state in report["attention"][device].items()]
    _table(rows)


def _table(rows: list[tuple[str, Any]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")


def _model(name: str, revision: str | None) -> dict[str, Any]:
    from ..core import hf_config, hub, weights
    from ..core.config import FIELDS
    from ..engine import library

    directory = hub.find(name, revision)
    raw = weights.read_config(directory)
    config = hf_config.read(raw, str(directory / "config.json"))
    tensors = weights.published_names(weights.read_tensors(directory))
    tokenizer: dict[str, Any] | None = None
    if (loaded := weights.load_tokenizer(directory, config, False)) is not None:
        special = {role: [token, loaded.id_of(role)] for role, token in loaded.special.items()}
        tokenizer = {"entries": loaded.vocab_size, "special": special}
    parameters = sum(tensor.raw.size for tensor in tensors.values())
    size = sum(tensor.raw.nbytes for tensor in tensors.values())
    element = 4 if library.resolve_dtype("auto") == "float32" else 2
    activations = {
        f"activations_{tokens}": activation_bytes(tokens, config.hidden_size, element)
        for tokens in (512, 8192)
        if tokens <= config.max_position_embeddings
    }
    return {
        "model": str(directory),
        "architecture": hf_config.architecture(raw) or "?",
        "geometry": {key: getattr(config, key) for key in FIELDS if key != "layer_types"},
        "layers": list(config.layers),
        "parameters": {"total": parameters, "embedding": config.vocab_size * config.hidden_size},
        "memory": {"weights": size, **activations},
        "tokenizer": tokenizer,
        "embedding": _embedding(directory),
        **_labels(raw, directory, "classifier.weight" in tensors),
        "files": sorted(p.name for p in directory.iterdir()),
        "tensors": {
            "count": len(tensors),
            "dtypes": sorted({tensor.dtype for tensor in tensors.values()}),
            "heads": sorted(n for n in tensors if n.startswith(weights.HEADS)),
        },
    }


def _labels(raw: dict[str, Any], directory: Path, is_classifier: bool) -> dict[str, Any]:
    """Describe the logits of a classifier."""
    from ..core import hf_config

    if not is_classifier:
        return {"labels": [], "predicts": None}
    head = hf_config.read_head(raw, str(directory / "config.json"))
    calibration = {"temperature": head.temperature, "thresholds": dict(head.thresholds)}
    return {"labels": list(head.labels), "predicts": {"kind": head.kind, **calibration}}


def _embedding(directory: Path) -> dict[str, Any]:
    """Describe how `Embedder` or `LateEmbedder` reads the directory."""
    from ..models import late_files
    from ..models.modules import is_late, read_modules

    late = is_late(directory)
    place, arguments = (late_files.read if late else read_modules)(directory)
    return {
        "encoder": "" if place == directory else place.name,
        "pooling": "no" if late else arguments.get("pooling", "mean"),
        "prompts": arguments.get("prompts", {}),
    }


def activation_bytes(tokens: int, width: int, element: int) -> int:
    """Estimate the memory of one document on the engine besides the weights.

    These are the residual stream in float32, and Q, K and V with ``element`` bytes each; scores and
    GLU outputs are kept for a few rows at a time. Measured by benchmarks/engine.py.
    """
    return tokens * width * (4 + 3 * element)


def _predicts(report: dict[str, Any]) -> str:
    found = report["predicts"]
    kinds = {"single": "one label", "multi": "any number of labels", "number": "a number",
             "tags": "one label for each word"}  # fmt: skip
    more = [f"temperature {found['temperature']:.3g}"] if found["temperature"] != 1 else []
    more += [f"{label} from {value:.3g}" for label, value in found["thresholds"].items()]
    return ", ".join([kinds[found["kind"]], *more])


def _show_model(report: dict[str, Any]) -> None:
    g, layers, memory = report["geometry"], report["layers"], report["memory"]
    full = layers.count("full_attention")
    picture = "".join("G" if kind == "full_attention" else "l" for kind in layers)
    total, embedding = report["parameters"]["total"], report["parameters"]["embedding"]
    bias = [key.removesuffix("_bias") for key in g if key.endswith("_bias") and g[key]]
    geometry = (
        f"{g['num_hidden_layers']} layers, hidden size {g['hidden_size']}, "
        f"{g['num_attention_heads']} heads, GLU {g['intermediate_size']} ({g['hidden_activation']})"
    )
    window = f"{g['local_attention'] // 2} tokens on each side"
    rows: list[tuple[str, Any]] = [
        ("model", report["model"]),
        ("class", report["architecture"]),
        ("geometry", geometry),
        ("layers", f"{picture}  ({full} global, {len(layers) - full} local)"),
        ("local layers", f"{window}, theta {g['local_rope_theta']:g}"),
        ("global layers", f"whole document, theta {g['global_rope_theta']:g}"),
        ("max length", f"{g['max_position_embeddings']:,} tokens"),
        ("biases", ", ".join(bias) or "none"),
        ("parameters", f"{total:,} ({human(total)}), embedding {embedding:,}"),
        ("weights", f"{human(memory['weights'], 'B')}, {', '.join(report['tensors']['dtypes'])}"),
    ]
    for key, value in memory.items():
        if key.startswith("activations_"):
            tokens = int(key.removeprefix("activations_"))
            rows.append((f"memory at {tokens:,}", f"weights + about {human(value, 'B')}"))
    if (tokenizer := report["tokenizer"]) is None:
        rows.append(("tokenizer", "none; the model only takes token ids"))
    else:
        special = ", ".join(f"{token} {i}" for token, i in tokenizer["special"].values())
        rows.append(("tokenizer", f"{tokenizer['entries']:,} entries; {special}"))
    embedding = report["embedding"]
    place = (
        f"encoder in {embedding['encoder']}/"
        if embedding["encoder"]
        else "the encoder of this directory"
    )
    prompts = ", ".join(embedding["prompts"]) or "none"
    pooling = f"{embedding['pooling']} pooling"
    if embedding["pooling"] == "no":
        pooling += " (a vector for each token, see LateEmbedder)"
    rows.append(("embed", f"{place}, {pooling}, prompts: {prompts}"))
    if report["labels"]:
        rows.append(("labels", ", ".join(report["labels"])))
        rows.append(("predicts", _predicts(report)))
    heads = ", ".join(report["tensors"]["heads"]) or "no head"
    rows.append(("tensors", f"{report['tensors']['count']}: encoder, {heads}"))
    rows.append(("files", ", ".join(report["files"])))
    _table(rows)
