"""FLAIR in torch, its text tower in numpy, checkpoints, tokenizer, prompts; the bundled weights in data/."""
