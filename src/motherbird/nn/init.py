"""Initial weights: random (`init_weights`), or from a smaller model (`tile`)."""

import math

import torch
from torch import Tensor, nn

from ..arrays import Shaped
from ..core.config import EncoderConfig
from ..errors import InputError


def _deviations(config: EncoderConfig) -> dict[str, float]:
    """Return standard deviations by the end of a parameter's name (paper A.3, "full megatron").

    Those of matrices that write to the residual stream decrease with the depth.
    """
    std = config.initializer_range
    into_residual = std / math.sqrt(2 * config.num_hidden_layers)
    final = config.hidden_size**-0.5
    return {
        "tok_embeddings.weight": std,
        "attn.Wqkv.weight": std,
        "attn.Wo.weight": into_residual,
        "mlp.Wi.weight": std,
        "mlp.Wo.weight": into_residual,
        "head.dense.weight": std,
        "decoder.weight": final,  # if it is not tied
        "classifier.weight": final,
    }


@torch.no_grad()
def init_weights(module: nn.Module, config: EncoderConfig) -> None:
    """Initialize parameters: matrices from a truncated normal distribution, norms 1, biases 0.

    The encoder inside a model with a head (``model.``) is not changed.
    """
    deviations = _deviations(config)
    for name, parameter in module.named_parameters():
        if name.startswith("model."):
            continue
        if parameter.ndim == 2:
            std = next(d for suffix, d in deviations.items() if name.endswith(suffix))
            cut = config.initializer_cutoff_factor * std
            nn.init.trunc_normal_(parameter, 0.0, std, -cut, cut)
        elif name.endswith("norm.weight"):
            nn.init.ones_(parameter)
        else:
            nn.init.zeros_(parameter)


def layer_map(old: EncoderConfig, new: EncoderConfig) -> list[int]:
    """Return the old layer from which each new layer is made: global from global, local from local.

    New layer k of a type is made from old layer round(k * G_old / G_new) of that type. The research
    repository (``initialization.py``) ignores the types.

    Raises:
        InputError: the old model has no layer of a type that the new one needs.
    """
    sources = []
    for i, kind in enumerate(new.layers):
        old_layers = [j for j, other in enumerate(old.layers) if other == kind]
        new_layers = [j for j, other in enumerate(new.layers) if other == kind]
        if not old_layers:
            raise InputError(f"the smaller model has no layer of {kind} to start from")
        k = round(new_layers.index(i) * len(old_layers) / len(new_layers))
        sources.append(old_layers[min(k, len(old_layers) - 1)])
    return sources


def _wrap(x: Shaped[Tensor, "..."], dim: int, size: int, offset: int) -> Tensor:
    """Return new[i] = old[(i - offset) mod old size] along one dimension."""
    index = (torch.arange(size, device=x.device) - offset) % x.shape[dim]
    return x.index_select(dim, index)


@torch.no_grad()
def tile(smaller: nn.Module, larger: nn.Module, old: EncoderConfig, new: EncoderConfig) -> None:
    """Initialize a larger model from a smaller one of the same class (paper 2.2.2, center tiling).

    Every new tensor has the old one in its center and repeats it towards the edges. Q, K and V are
    tiled separately and by whole heads, the two halves of the GLU separately and in line with the
    columns of ``mlp.Wo``. Nothing is rescaled. A new layer that is made from old layer 0, which has
    no attention norm, gets one of ones.

    Args:
        smaller: the trained model.
        larger: the model to initialize, in place.
        old: configuration of ``smaller``.
        new: configuration of ``larger``.

    Raises:
        InputError: the shapes do not allow it.
    """
    check_tileable(old, new)
    heads = (new.num_attention_heads - old.num_attention_heads) // 2 * new.head_dim
    residual = (new.hidden_size - old.hidden_size) // 2
    inner = (new.intermediate_size - old.intermediate_size) // 2
    weights = smaller.state_dict()
    sources = layer_map(old, new)
    for name, target in larger.state_dict().items():
        source_name = name
        if "layers." in name:
            head, _, rest = name.partition("layers.")
            number, _, tail = rest.partition(".")
            source_name = f"{head}layers.{sources[int(number)]}.{tail}"
        if source_name not in weights:  # the attention norm that old layer 0 lacks
            target.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        x = weights[source_name]
        rows, columns, parts = residual, residual, 1
        if ".Wqkv." in name:
            rows, parts = heads, 3
        elif ".Wi." in name:
            rows, parts = inner, 2
        elif ".attn.Wo." in name:
            columns = heads
        elif ".mlp.Wo." in name:
            columns = inner
        elif "tok_embeddings" in name or "decoder" in name or "classifier" in name:
            rows = 0  # the rows are tokens or labels
        x = torch.cat([_wrap(p, 0, len(target) // parts, rows) for p in x.chunk(parts)])
        if x.ndim == 2:
            x = _wrap(x, 1, target.shape[1], columns)
        target.copy_(x)


def check_tileable(old: EncoderConfig, new: EncoderConfig) -> None:
    """Check that `tile` can initialize one model from another.

    Raises:
        InputError: it cannot; the message lists all reasons.
    """
    problems = []
    for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"):
        before, after = getattr(old, name), getattr(new, name)
        if after < before:
            problems.append(f"{name} would shrink from {before} to {after}")
    for name in (
        "vocab_size",
        "head_dim",
        "norm_bias",
        "attention_bias",
        "mlp_bias",
        "classifier_bias",
        "decoder_bias",
        "tie_word_embeddings",
    ):
        before, after = getattr(old, name), getattr(new, name)
        if after != before:
            problems.append(f"{name} must stay {before}, not {after}")
    if problems:
        raise InputError("; ".join(problems), "tiling of a larger model from a smaller one")
