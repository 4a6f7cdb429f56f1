"""Named configurations: ``base`` and ``large`` as in the paper, and two smaller ones."""

from dataclasses import replace

from .config import EncoderConfig


def base() -> EncoderConfig:
    """22 layers of 768, 149M parameters (paper, table 4)."""
    return EncoderConfig()


def large() -> EncoderConfig:
    """28 layers of 1,024, 395M parameters (paper, table 4)."""
    return EncoderConfig(
        hidden_size=1_024, intermediate_size=2_624, num_hidden_layers=28, num_attention_heads=16
    )


# The last 88 ids, as in ModernBERT: [UNK] [CLS] [SEP] [PAD] [MASK] and 83 unused.
_SMALL = EncoderConfig(
    vocab_size=32_768, cls_token_id=32_681, bos_token_id=32_681, sep_token_id=32_682,
    eos_token_id=32_682, pad_token_id=32_683,
)  # fmt: skip


def mini() -> EncoderConfig:
    """19 layers of 384, 36M parameters."""
    return replace(
        _SMALL, hidden_size=384, intermediate_size=576, num_hidden_layers=19, num_attention_heads=6
    )


def nano() -> EncoderConfig:
    """7 layers of 320, 17M parameters: the configuration of motherbird-nano."""
    return replace(
        _SMALL, hidden_size=320, intermediate_size=480, num_hidden_layers=7, num_attention_heads=5
    )


PRESETS = {"base": base, "large": large, "mini": mini, "nano": nano}
