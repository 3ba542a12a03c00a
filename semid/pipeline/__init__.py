"""The library calls behind the commands: each joins data, tokenizers, model, retrieval and evaluation."""
