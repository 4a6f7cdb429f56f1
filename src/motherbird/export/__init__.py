"""Models for others to run: a Hugging Face directory, ONNX, OpenVINO, each with a certificate."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import InputError, require_extra
from ..files import check_replaceable, new_directory

if TYPE_CHECKING:
    from .certificate import Certificate, Run
    from .models import Model

KIND = "converted model"  # in motherbird.json; a trained model is of another kind, and safe
FORMATS = ("hf", "onnx", "openvino")
HEADS = ("auto", "none", "pooling", "logits")
DTYPES = ("auto", "float32", "int8")


def export(
    name_or_dir: str | Path,
    out: str | Path,
    format: str,
    *,
    head: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    on_case: Callable[[int, int], None] = lambda tokens, of: None,
) -> "Certificate":
    """Write a model for others to run, compare it with ours, and say how near it is.

    ``out`` gets the file of the format (``onnx/model.onnx``, ``openvino/openvino_model.xml`` and
    ``.bin``), a whole Hugging Face directory around it, where consumers look for the tokenizer and
    the configuration, and ``certificate.json``. It appears complete, or not at all.

    Args:
        name_or_dir: a model's folder, or its name on the Hub.
        out: new, empty, or an earlier export (then it is replaced).
        format: "hf", "onnx" or "openvino".
        head: what stands on the encoder: "none", "pooling" (a vector for each text), "logits" (the
            checkpoint's own head); "auto" is pooling where the folder has modules.json, logits
            where config.json names a head, else none.
        dtype: "float32" or, for ONNX, "int8"; "auto" is float32, and as stored for "hf".
        revision: branch, tag or commit on the Hub.
        on_case: is told the tokens of each comparison that is done, and of all.

    Raises:
        InputError: the model cannot be loaded or has no such head, or an argument is impossible.
        OutputExistsError: ``out`` exists and is no export of ours.
        MissingExtraError: a package of the format is not installed.
        DamagedError: the weights are not what they claim to be.
        ParityError: the exported file does not compute what the model does.
    """
    wanted = _Wanted(format, head, dtype)
    out = Path(out).expanduser()
    check_replaceable(out, KIND)
    from ..core import hub
    from . import models

    directory = hub.find(name_or_dir, revision)
    model, head = models.load(directory, head, wanted.stored)
    with new_directory(out, KIND) as fresh:
        models.write_checkpoint(model, fresh)
        name = directory.resolve().name if Path(name_or_dir).is_dir() else str(name_or_dir)
        # Without a name for what runs the file: it must be closed when the folder gets its own.
        certificate = _certify(model, _write(model, fresh, wanted), wanted, name, head, on_case)
        text = json.dumps(certificate.as_dict(), indent=2) + "\n"
        (fresh / "certificate.json").write_text(text, encoding="utf-8")
    return certificate


@dataclass(frozen=True)
class _Wanted:
    """What was asked for, checked before any work."""

    format: str
    head: str
    dtype: str

    def __post_init__(self) -> None:
        for name, value, known in (
            ("format", self.format, FORMATS),
            ("head", self.head, HEADS),
            ("dtype", self.dtype, DTYPES),
        ):
            if value not in known:
                raise InputError(f"{name} {value!r} is unknown", how=f"use {', '.join(known)}")
        if self.dtype == "int8" and self.format != "onnx":
            raise InputError(f"int8 is not there for {self.format}", how="use the format onnx")
        if self.format != "hf":
            require_extra("onnx", "export")
            require_extra("onnxruntime", "export")
        if self.format == "openvino":
            require_extra("openvino", "openvino")

    @property
    def arithmetic(self) -> str:
        """The dtype whose tolerance the comparison has."""
        return "int8" if self.dtype == "int8" else "float32"

    @property
    def stored(self) -> str | None:
        """The dtype of the checkpoint's tensors; None as they are."""
        return None if (self.format, self.dtype) == ("hf", "auto") else "float32"


@dataclass(frozen=True)
class _Written:
    """The file of the format: its name, how to run it, and the packages that wrote and run it."""

    file: str
    run: "Run"
    packages: tuple[str, ...]


def _write(model: "Model", fresh: Path, wanted: _Wanted) -> _Written:
    """Write the file of the format, and open what was written."""
    from .models import encoder_of

    pad = encoder_of(model).config.pad_token_id or 0
    if wanted.format == "hf":
        from .certificate import ours

        return _Written("model.safetensors", ours(type(model).load(fresh, dtype="float32")), ())
    from . import onnx_file, onnx_graph

    if wanted.format == "onnx":
        graph = onnx_graph.build(model)
        if wanted.dtype == "int8":
            file = "onnx/model_int8.onnx"  # the name by which transformers.js knows it
            onnx_file.save_int8(graph, fresh / file)
        else:
            file = "onnx/model.onnx"
            onnx_file.save(graph, fresh / file)
        return _Written(file, onnx_file.runner(fresh / file, pad), ("onnx", "onnxruntime"))
    from . import openvino

    file = "openvino/openvino_model.xml"
    between = fresh / "onnx"
    onnx_file.save(onnx_graph.build(model, chunked=False), between / "model.onnx")
    openvino.convert(between / "model.onnx", fresh / file)
    shutil.rmtree(between)
    return _Written(file, openvino.runner(fresh / file, pad), ("onnx", "openvino"))


def _certify(
    model: "Model",
    written: _Written,
    wanted: _Wanted,
    name: str,
    head: str,
    on_case: Callable[[int, int], None],
) -> "Certificate":
    """Compare what was written with the model in float32, and refuse what is too far off."""
    from ..models.embedder import Embedder
    from ..nn.heads import MaskedLM
    from .certificate import TOLERANCES, Certificate, cases, check, compare, machine, ours
    from .models import encoder_of

    encoder = encoder_of(model)
    (encoder if isinstance(model, Embedder) else model).float()
    config = encoder.config
    lengths = cases(
        config.max_position_embeddings,
        config.vocab_size if isinstance(model, MaskedLM) else config.hidden_size,
    )
    total = sum(map(sum, lengths))
    found = compare(
        ours(model), written.run, lengths, config.vocab_size, lambda tokens: on_case(tokens, total)
    )
    worst = check(found, wanted.arithmetic, written.file)
    packages = {name: import_module(name).__version__ for name in ("torch", *written.packages)}
    return Certificate(
        model=name,
        head=head,
        format=wanted.format,
        dtype=wanted.arithmetic,
        file=written.file,
        versions={"motherbird": __version__, **packages},
        machine=machine(),
        tolerance=dict(zip(("difference", "cosine"), TOLERANCES[wanted.arithmetic], strict=True)),
        difference=worst.difference,
        cosine=worst.cosine,
        passed=True,
        cases=tuple(found),
    )
