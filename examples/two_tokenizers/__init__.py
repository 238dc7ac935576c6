"""What `examples.distil_two_tokenizers` needs around its training loop: text, tokenizers, models, report."""
