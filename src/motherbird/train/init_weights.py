"""Initial weights: random, from another run, or from a published checkpoint."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..arrays import Float
from ..core import tokenizer as tokenizers
from ..core.config import EncoderConfig
from ..core.hub import is_included
from ..core.tokenizer import Tokenizer
from ..data.prepared import PreparedDataset
from ..errors import DamagedError, HeadError, InputError
from ..nn.encoder import Encoder
from ..nn.heads import MaskedLM
from ..nn.init import check_tileable, tile
from . import run_info, state
from .recipe import Recipe

# Tensors with a row for each token.
VOCABULARY = ("decoder.bias", "decoder.weight", "model.embeddings.tok_embeddings.weight")


def model_of_run(run: Path, step: int | None = None) -> tuple[MaskedLM, state.Checkpoint]:
    """Load the model of a run's newest checkpoint, or of a step's, as configured in its phase."""
    info = run_info.read(run)
    found = state.find(run, step)
    config = info.parsed_recipe(run).config(info.parsed_config(run), found.progress.phase)
    config = replace(config, attention_dropout=0.0)  # as published checkpoints have it
    with torch.device("meta"):
        model = MaskedLM(config)
    weights, _ = found.weights_and_optimizer_state()
    model.load_state_dict(weights, assign=True)
    if Path(info.data_path).is_dir():
        model.model.tokenizer = tokenizers.load(Path(info.data_path))
    return model.eval(), found


def load_checkpoint(model: MaskedLM, found: state.Checkpoint) -> dict[str, Tensor]:
    """Load a checkpoint's weights into a model, and return its optimizer state."""
    weights, optimizer_state = found.weights_and_optimizer_state()
    own = {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}
    if {name: (tensor.shape, tensor.dtype) for name, tensor in weights.items()} != own:
        raise DamagedError("the tensors are not those of the model", str(found.directory))
    model.load_state_dict(weights)
    return optimizer_state


def load(source: str, seed: int = 0) -> MaskedLM:
    """Load a run's newest model, or a Hugging Face checkpoint.

    An encoder without a masked-LM head has a new one.

    Args:
        source: directory of a run; or directory or name of a checkpoint.
        seed: of a new head.
    """
    if not is_included(source) and (Path(source) / run_info.FILE).is_file():
        return model_of_run(Path(source))[0]
    try:
        return MaskedLM.load(source, dtype="float32")
    except HeadError:
        return MaskedLM.with_new_head(Encoder.load(source, dtype="float32"), seed)


def initial_config(recipe: Recipe, prepared: PreparedDataset) -> EncoderConfig:
    """Return the configuration of a new run, after checking the model that it starts from."""
    if recipe.init.from_ is None:
        return recipe.model.config(prepared.tokenizer)
    pretrained = load(recipe.init.from_, recipe.seed)
    config = recipe.model.config(prepared.tokenizer, pretrained.model.config)
    added_ids(pretrained, prepared.tokenizer, recipe.init.from_)
    check_tileable(_with_vocabulary(pretrained.model.config, config.vocab_size), config)
    return config


def _with_vocabulary(config: EncoderConfig, size: int) -> EncoderConfig:
    return replace(config, vocab_size=max(size, config.vocab_size))


def added_ids(pretrained: MaskedLM, tokenizer: Tokenizer, where: str) -> list[int]:
    """Return the ids of the data's tokenizer that the model was not trained on.

    Raises:
        InputError: an id stands for another token than before.
    """
    size = pretrained.model.config.vocab_size
    old = pretrained.model.tokenizer
    if old is None:
        if tokenizer.vocab_size > size:
            raise InputError(
                f"the data has {tokenizer.vocab_size} tokens, the model {size}, and there is no "
                "tokenizer to compare",
                where,
                "copy tokenizer.json of the model (for a run, of its dataset) into its directory",
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
                where,
                "prepare the data with the model's tokenizer, or with one that only adds to it",
            )
    return sorted(added)


@torch.no_grad()
def load_initial_weights(model: MaskedLM, recipe: Recipe, prepared: PreparedDataset) -> None:
    """Load the weights of a new model from the one that the recipe names, if it names one."""
    if recipe.init.from_ is None:
        return
    pretrained = load(recipe.init.from_, recipe.seed)
    config = model.model.config
    weights = extended_weights(pretrained, prepared.tokenizer, config.vocab_size, recipe.init.from_)
    old = _with_vocabulary(pretrained.model.config, config.vocab_size)
    with torch.device("meta"):
        smaller = MaskedLM(old)
    smaller.load_state_dict(weights, assign=True)
    tile(smaller, model, old, config)


def extended_weights(
    pretrained: MaskedLM, tokenizer: Tokenizer, size: int, where: str
) -> dict[str, Float[Tensor, "..."]]:
    """Return a model's weights with rows for the tokens that `added_ids` finds.

    The old tokenizer splits the text of a new token into several tokens. The new row is the mean of
    their rows, which is close to what the model expects at this place.
    """
    weights = dict(pretrained.state_dict())
    old = pretrained.model.tokenizer
    pieces = {}
    for i in added_ids(pretrained, tokenizer, where):
        assert old is not None
        pieces[i] = old.backend.encode(tokenizer.decode([i]), add_special_tokens=False).ids
    for name in VOCABULARY:
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
