"""Exports: a Hugging Face directory, ONNX or OpenVINO, each compared with the model."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__, machine
from ..errors import InputError, require_extra
from ..files import check_replaceable, new_directory

if TYPE_CHECKING:
    from .certificate import Certificate, Runner
    from .models import Exportable

KIND = "converted model"  # in motherbird.json; so that an export never replaces a trained model
FORMATS = ("hf", "onnx", "openvino")
HEAD_NAMES = ("auto", "none", "pooling", "logits")
DTYPES = ("auto", "float32", "int8")


def export(
    name_or_dir: str | Path,
    out: str | Path,
    format: str,
    *,
    head: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    on_case: Callable[[int, int], None] = lambda tokens, total: None,
) -> "Certificate":
    """Export a model, and compare the exported file with the model.

    ``out`` is a Hugging Face directory with tokenizer and configuration, the file of the format
    (``onnx/model.onnx``, or ``openvino/openvino_model.xml`` and ``.bin``) and ``certificate.json``.
    It is written completely or not at all.

    Args:
        name_or_dir: a model directory, or a name on the Hub.
        out: new, empty, or an earlier export, which is replaced.
        format: "hf", "onnx" or "openvino".
        head: "none" (token vectors), "pooling" (a vector for each text) or "logits" (the head of
            the checkpoint). "auto" is pooling if there is a modules.json, logits if config.json
            names a head, else none.
        dtype: "float32" or, for ONNX, "int8". "auto" is float32, and the stored dtype for "hf".
        revision: branch, tag or commit on the Hub.
        on_case: called with the tokens of each comparison that is done, and of all comparisons.

    Raises:
        InputError: the model cannot be loaded, has no such head, or an argument is invalid.
        OutputExistsError: ``out`` exists and is not an export of motherbird.
        MissingExtraError: a package for the format is not installed.
        DamagedError: the weights are damaged.
        ParityError: the exported file differs too much from the model.
    """
    wanted = _Options(format, head, dtype)
    out = Path(out).expanduser()
    check_replaceable(out, KIND)
    from ..core import hub
    from . import models

    directory = hub.find(name_or_dir, revision)
    exported, head = models.load(directory, head, wanted.stored)
    with new_directory(out, KIND) as fresh:
        exported.write(fresh)
        name = directory.resolve().name if Path(name_or_dir).is_dir() else str(name_or_dir)
        # No variable may hold the runtime: its file must be closed before the directory is renamed.
        certificate = _certify(
            exported, _write(exported, fresh, wanted), wanted, name, head, on_case
        )
        text = json.dumps(asdict(certificate), indent=2) + "\n"
        (fresh / "certificate.json").write_text(text, encoding="utf-8")
    return certificate


@dataclass(frozen=True)
class _Options:
    """The options of an export, checked before any work."""

    format: str
    head: str
    dtype: str

    def __post_init__(self) -> None:
        for name, value, known in (
            ("format", self.format, FORMATS),
            ("head", self.head, HEAD_NAMES),
            ("dtype", self.dtype, DTYPES),
        ):
            if value not in known:
                raise InputError(f"{name} {value!r} is unknown", how=f"use {', '.join(known)}")
        if self.dtype == "int8" and self.format != "onnx":
            raise InputError(f"{self.format} has no int8", how="use --format onnx")
        if self.format != "hf":
            require_extra("onnx", "export")
            require_extra("onnxruntime", "export")
        if self.format == "openvino":
            require_extra("openvino", "openvino")

    @property
    def arithmetic(self) -> str:
        """The dtype whose tolerance applies."""
        return "int8" if self.dtype == "int8" else "float32"

    @property
    def stored(self) -> str:
        """The dtype of the checkpoint's tensors."""
        return "stored" if (self.format, self.dtype) == ("hf", "auto") else "float32"


@dataclass(frozen=True)
class _Written:
    """A written file: its name, how to run it, and the packages that wrote and run it."""

    file: str
    run: "Runner"
    packages: tuple[str, ...]


def _write(exported: "Exportable", fresh: Path, wanted: _Options) -> _Written:
    """Write the file of the format, and open it."""
    pad = exported.model.encoder.config.pad_token_id or 0
    if wanted.format == "hf":
        from .certificate import reference

        return _Written("model.safetensors", reference(exported.reload(fresh)), ())
    from . import onnx_file, onnx_graph

    if wanted.format == "onnx":
        graph = onnx_graph.build(exported)
        if wanted.dtype == "int8":
            file = "onnx/model_int8.onnx"  # the name that transformers.js expects
            onnx_file.save_int8(graph, fresh / file)
        else:
            file = "onnx/model.onnx"
            onnx_file.save(graph, fresh / file)
        return _Written(file, onnx_file.runner(fresh / file, pad), ("onnx", "onnxruntime"))
    from . import openvino

    file = "openvino/openvino_model.xml"
    between = fresh / "onnx"
    onnx_file.save(onnx_graph.build(exported, chunked=False), between / "model.onnx")
    openvino.convert(between / "model.onnx", fresh / file)
    shutil.rmtree(between)
    return _Written(file, openvino.runner(fresh / file, pad), ("onnx", "openvino"))


def _certify(
    exported: "Exportable",
    written: _Written,
    wanted: _Options,
    name: str,
    head: str,
    on_case: Callable[[int, int], None],
) -> "Certificate":
    """Compare the written file with the model in float32; raise ParityError if they differ."""
    from .certificate import TOLERANCES, Certificate, cases, check, compare, reference

    dtype = wanted.arithmetic
    if wanted.format == "hf":  # the weights may be stored in another dtype
        dtype = str(next(exported.model.parameters()).dtype).removeprefix("torch.")
    exported.model.float()
    config = exported.model.encoder.config
    lengths = cases(
        config.max_position_embeddings, max(size for _, size in exported.outputs.values())
    )
    total = sum(map(sum, lengths))
    found = compare(
        reference(exported),
        written.run,
        lengths,
        config.vocab_size,
        lambda tokens: on_case(tokens, total),
    )
    worst = check(found, wanted.arithmetic, written.file)
    about = machine.describe()
    packages = {name: import_module(name).__version__ for name in ("torch", *written.packages)}
    return Certificate(
        model=name,
        head=head,
        format=wanted.format,
        dtype=dtype,
        file=written.file,
        versions={"motherbird": __version__, **packages},
        machine={key: about[key] for key in ("system", "architecture", "cpu")},
        tolerance=dict(zip(("difference", "cosine"), TOLERANCES[wanted.arithmetic], strict=True)),
        difference=worst.difference,
        cosine=worst.cosine,
        passed=True,
        cases=tuple(found),
    )
