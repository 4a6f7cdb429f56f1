"""Floating-point operations of encoding."""

from collections.abc import Sequence

from .config import EncoderConfig


def matmul_shapes(config: EncoderConfig) -> tuple[tuple[int, int], ...]:
    """Return (outputs, inputs) of a layer's four matmuls: Wqkv, attention Wo, Wi, MLP Wo."""
    width, glu = config.hidden_size, config.intermediate_size
    return (3 * width, width), (width, width), (2 * glu, width), (width, glu)


def keys_seen(length: int, window: int | None) -> int:
    """Return the number of attended (query, key) pairs of a document; ``window`` on each side."""
    if window is None or length <= window:
        return length * length
    return length * (2 * window + 1) - window * (window + 1)


def flops(config: EncoderConfig, lengths: Sequence[int]) -> int:
    """Return the floating-point operations of encoding documents of these lengths.

    These are, per token, twice the number of matmul weights, and 4 x D per attended key and layer.
    The embedding, norms and GELU are not counted.
    """
    weights = config.num_hidden_layers * sum(
        rows * columns for rows, columns in matmul_shapes(config)
    )
    windows = [None if k == "full_attention" else config.half_window for k in config.layers]
    keys = sum(keys_seen(length, window) for length in lengths for window in windows)
    return 2 * weights * sum(lengths) + 4 * config.hidden_size * keys


def head_flops(config: EncoderConfig, masked: int) -> int:
    """Return the floating-point operations of the masked-LM head on ``masked`` tokens."""
    width = config.hidden_size
    return 2 * masked * (width * width + width * config.vocab_size)
