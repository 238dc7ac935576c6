"""Reading a causal language model: its head, its embedding, its last hidden states.

Nothing here imports `transformers`: the models are used through the few methods that all of its causal models
share, written down in `protocol`.
"""
