"""The arithmetic of encoding: floating-point operations of a batch."""

from collections.abc import Sequence

from .config import EncoderConfig


def matmul_shapes(config: EncoderConfig) -> tuple[tuple[int, int], ...]:
    """(outputs, inputs) of a layer's four products: Wqkv, attention Wo, Wi, mlp Wo."""
    width, glu = config.hidden_size, config.intermediate_size
    return (3 * width, width), (width, width), (2 * glu, width), (width, glu)


def keys_seen(length: int, window: int | None) -> int:
    """Pairs of a query and a key that it sees, in one layer and one document; window each side."""
    if window is None or length <= window:
        return length * length
    return length * (2 * window + 1) - window * (window + 1)


def flops(config: EncoderConfig, lengths: Sequence[int]) -> int:
    """Floating-point operations of encoding documents of these lengths.

    Of a token: twice the weights that it meets, and 4 x D for each key that it sees in each layer.
    The weights are those of the products; the embedding is looked up, norms and GELU are left out.
    """
    weights = config.num_hidden_layers * sum(
        rows * columns for rows, columns in matmul_shapes(config)
    )
    windows = [None if k == "full_attention" else config.half_window for k in config.layers]
    keys = sum(keys_seen(length, window) for length in lengths for window in windows)
    return 2 * weights * sum(lengths) + 4 * config.hidden_size * keys


def head_flops(config: EncoderConfig, masked: int) -> int:
    """Floating-point operations of the masked-LM head on so many tokens."""
    width = config.hidden_size
    return 2 * masked * (width * width + width * config.vocab_size)
