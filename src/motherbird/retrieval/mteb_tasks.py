"""Retrieval tasks of the library mteb, by any model of motherbird."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.maxsim import pack, scores
from ..errors import FetchError, InputError, require_extra
from .embedders import Embed, EmbedTokens

BATCH = 512  # texts that are passed to a model at once


class MtebEncoder:
    """A model in the encoder protocol of mteb 2.

    Args:
        name: of the model, in the results.
        revision: of the model, in the results.
        embed: of `open_embedder` for vectors of texts, or of `open_late` for vectors of tokens.
        late: whether it gives vectors of tokens.
    """

    def __init__(
        self, name: str, revision: str | None, embed: Embed | EmbedTokens, *, late: bool = False
    ) -> None:
        library = require_extra("mteb.models.model_meta", "mteb")
        function = library.ScoringFunction
        self._embed, self._late = embed, late
        self.mteb_model_meta = library.ModelMeta.create_empty(overwrites={
            "name": name, "revision": revision or "no_revision_available", "modalities": ["text"],
            "similarity_fn_name": function.MAX_SIM if late else function.COSINE,
            "model_type": ["late-interaction" if late else "dense"],
        })  # fmt: skip

    def encode(self, inputs: Any, *, prompt_type: Any = None, **_: Any) -> Any:
        """Return vectors of n texts (n, D), or a list of the vectors of the tokens of each.

        Those of empty texts are 0.

        Args:
            inputs: batches with texts under "text".
            prompt_type: mteb's, whether they are queries or documents.
        """
        texts = [text for batch in inputs for text in batch["text"]]
        known = [number for number, text in enumerate(texts) if text.strip()]
        vectors = self._embed([texts[number] for number in known], prompt_type.value)
        if self._late:
            nothing = np.zeros((1, vectors[0].shape[1]), np.float32)
            own = dict(zip(known, vectors, strict=True))
            return [own.get(number, nothing) for number in range(len(texts))]
        found = np.zeros((len(texts), vectors[0].size), np.float32)
        found[known] = vectors
        return found

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the score of each of the first with each of the second, as a tensor."""
        torch = require_extra("torch", "train")
        if self._late:
            one, other = ([np.asarray(each, np.float32) for each in own]
                          for own in (embeddings1, embeddings2))  # fmt: skip
            packed, starts = pack(other, one[0].shape[1])
            return torch.from_numpy(scores(one, packed, starts))
        return torch.from_numpy(np.asarray(embeddings1) @ np.asarray(embeddings2).T)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the score of each of the first with the one of the second at its place."""
        pairs = zip(embeddings1, embeddings2, strict=True)
        return require_extra("torch", "train").cat(
            [self.similarity([one], [other])[0] for one, other in pairs]
        )


def find_tasks(names: str) -> list[Any]:
    """Return the tasks of mteb with these names, with commas between them.

    Args:
        names: of tasks, or of benchmarks such as NanoBEIR, all of whose tasks are meant.

    Raises:
        InputError: there is no such task, or it is not about the retrieval of texts.
    """
    mteb = require_extra("mteb", "mteb")
    kind = require_extra("mteb.abstasks", "mteb").AbsTaskRetrieval
    found: dict[str, Any] = {}
    for name in (part.strip() for part in names.split(",")):
        try:
            own = [mteb.get_task(name)]
        except KeyError:
            try:
                own = [*mteb.get_benchmark(name).tasks]
            except KeyError:
                how = "use names of mteb, such as NanoBEIR or NanoSciFactRetrieval"
                raise InputError(f"mteb has no task {name!r}", how=how) from None
        for task in own:
            if not isinstance(task, kind) or task.metadata.modalities != ["text"]:
                what = f"the task {task.metadata.name} is not about the retrieval of texts"
                raise InputError(what, how="use a retrieval or reranking task")
            found[task.metadata.name] = task
    return [*found.values()]


def evaluate(
    model: MtebEncoder,
    tasks: Sequence[Any],
    out: Path,
) -> Iterator[tuple[str, float]]:
    """Evaluate a model on tasks.

    Args:
        model: the model.
        tasks: of `find_tasks`, or any of mteb's class for retrieval.
        out: directory of the results, in mteb's layout.

    Yields:
        The name and the main score of each task, which is nDCG@10 for most.

    Raises:
        FetchError: the data of a task cannot be downloaded.
    """
    mteb = require_extra("mteb", "mteb")
    for task in tasks:
        name = task.metadata.name
        log = logging.getLogger("huggingface_hub")
        before = log.level
        log.setLevel(logging.ERROR)  # or every attempt has lines of its own
        try:
            task.load_data()
        except OSError as error:
            how = "data come from the Hugging Face Hub: try again with a connection"
            raise FetchError(f"the data cannot be downloaded: {error}", name, how) from error
        finally:
            log.setLevel(before)
        result = mteb.evaluate(
            model, task, co2_tracker=False, cache=mteb.ResultCache(out),
            overwrite_strategy="always", show_progress_bar=False,
            encode_kwargs={"batch_size": BATCH, "show_progress_bar": False},
        )  # fmt: skip
        task.unload_data()
        yield name, float(result.task_results[0].get_score())
