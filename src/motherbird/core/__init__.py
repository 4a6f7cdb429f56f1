"""The encoder and all it stands on: packing, attention, checkpoints, tokenizer, masking."""
