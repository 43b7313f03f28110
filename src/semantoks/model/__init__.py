"""The encoder: semantic tokenizer, transformer, projection."""
