"""Configuration, tokenizer, batching and the inference interface, without torch."""
