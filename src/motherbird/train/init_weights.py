"""Where a run's weights come from: chance, another run, or a checkpoint of the family."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from .. import strict
from ..core import tokenizer as tokenizers
from ..core.config import EncoderConfig
from ..core.tokenizer import Tokenizer
from ..data.prepared import PreparedDataset
from ..errors import InputError
from ..nn.heads import MaskedLM
from ..nn.init import check_tileable, tile
from . import state
from .recipe import Recipe, from_json

GROWING = ("decoder.bias", "decoder.weight", "model.embeddings.tok_embeddings.weight")


@dataclass(frozen=True)
class Trained:
    """A model that was trained before, in float32."""

    model: MaskedLM
    where: str

    @property
    def config(self) -> EncoderConfig:
        """Its configuration."""
        return self.model.model.config


def config_of_run(about: state.Run, where: Path) -> EncoderConfig:
    """The configuration that a run.json holds."""
    return strict.build(EncoderConfig, about.config, str(where / state.RUN))


def of_run(run: Path, step: int | None = None) -> tuple[MaskedLM, state.Checkpoint]:
    """The model of a run's newest checkpoint, or of a step's, with the configuration of its phase.

    Raises:
        InputError: there is no such run or step.
        DamagedError: the checkpoint does not verify.
    """
    about = state.read_run(run)
    if step is None:
        found = state.newest(run)
        if found is None:
            raise InputError("the run has saved nothing yet", str(run))
    else:
        have = state.steps(run)
        if step not in have:
            raise InputError(
                f"there is no checkpoint of step {step}",
                str(run),
                f"there are {', '.join(map(str, sorted(have)))}",
            )
        found = state.read(state.folder(run, step))
    recipe = from_json(about.recipe, str(run / state.RUN))
    config = recipe.config(config_of_run(about, run), phase_of(found.progress))
    config = replace(config, attention_dropout=0.0)  # as in published checkpoints: for use
    with torch.device("meta"):
        model = MaskedLM(config)
    weights = {n[6:]: t for n, t in found.tensors().items() if n.startswith("model.")}
    model.load_state_dict(weights, assign=True)
    if Path(about.data_path).is_dir():
        model.model.tokenizer = tokenizers.load(Path(about.data_path))
    return model.eval(), found


def phase_of(progress: state.Progress) -> int:
    """The phase that a state was trained in last: at a phase's end the cursor is at the next."""
    phase = progress.cursor.phase
    return phase - 1 if phase and progress.cursor.consumed == 0 else phase


def load(source: str) -> Trained:
    """A run's newest model, or a checkpoint of the family.

    Raises:
        InputError, DamagedError: it cannot be read.
    """
    if (Path(source) / state.RUN).is_file():
        return Trained(of_run(Path(source))[0], source)
    return Trained(MaskedLM.load(source, dtype="float32"), source)


def model_of(recipe: Recipe, prepared: PreparedDataset) -> EncoderConfig:
    """The configuration of a new run, after everything it starts from was checked.

    Raises:
        InputError: the geometry is impossible, or cannot start from what it is to start from.
    """
    source = recipe.init.from_
    if source is None:
        return recipe.model.config(prepared.tokenizer)
    trained = load(source)
    config = recipe.model.config(prepared.tokenizer, trained.config)
    added_ids(trained, prepared.tokenizer)
    check_tileable(_with_vocabulary(trained.config, config.vocab_size), config)
    return config


def _with_vocabulary(config: EncoderConfig, size: int) -> EncoderConfig:
    return replace(config, vocab_size=max(size, config.vocab_size))


def added_ids(trained: Trained, tokenizer: Tokenizer) -> list[int]:
    """Ids of the data's tokenizer that the model has not learned.

    Raises:
        InputError: an id means another token than it did.
    """
    size = trained.config.vocab_size
    old = trained.model.model.tokenizer
    if old is None:
        if tokenizer.vocab_size > size:
            raise InputError(
                f"the data has {tokenizer.vocab_size} tokens, the model {size}, and no tokenizer "
                "to compare",
                trained.where,
                "put its tokenizer.json into its folder; a run's is in the data that it had",
            )
        return []
    known = {i: token for token, i in old.backend.get_vocab(with_added_tokens=True).items()}
    added = []
    for token, i in tokenizer.backend.get_vocab(with_added_tokens=True).items():
        before = known.get(i)
        if before is None or (before != token and before.startswith("[unused")):
            added.append(i)
        elif before != token:
            raise InputError(
                f"id {i} is {token!r} in the data and {before!r} in the model",
                trained.where,
                "prepare the data with the model's own tokenizer, or one that only adds to it",
            )
    return sorted(added)


@torch.no_grad()
def first_weights(model: MaskedLM, recipe: Recipe, prepared: PreparedDataset) -> None:
    """Fill a fresh model from what the recipe names; from nothing, it stays as it is."""
    if recipe.init.from_ is None:
        return
    trained = load(recipe.init.from_)
    config = model.model.config
    weights = grown(trained, prepared.tokenizer, config.vocab_size)
    old = _with_vocabulary(trained.config, config.vocab_size)
    with torch.device("meta"):
        smaller = MaskedLM(old)
    smaller.load_state_dict(weights, assign=True)
    tile(smaller, model, old, config)


def grown(trained: Trained, tokenizer: Tokenizer, size: int) -> dict[str, Float[Tensor, "..."]]:
    """A model's weights with rows for new tokens: each the mean of the pieces that it was before.

    The old tokenizer cuts the text of a new token into pieces; a mean of their embeddings is near
    to what the model expects there.
    """
    weights = dict(trained.model.state_dict())
    added = added_ids(trained, tokenizer)
    old = trained.model.model.tokenizer
    pieces = {}
    for i in added:
        assert old is not None
        pieces[i] = old.backend.encode(tokenizer.decode([i]), add_special_tokens=False).ids
    for name in GROWING:
        if name not in weights:
            continue
        before = weights[name]
        shape = (max(size, len(before)), *before.shape[1:])
        after = before.mean(0).expand(shape).clone()
        after[: len(before)] = before
        for i, ids in pieces.items():
            after[i] = before[ids].mean(0) if ids else before.mean(0)
        weights[name] = after
    return weights
