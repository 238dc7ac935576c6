"""Causal language models as the loss sees them: states, heads, embeddings, and the columns of a batch.

Nothing here imports `transformers`: the models are used through the few methods that all of its causal models share,
written down as `CausalLM` in `wrappers`. What other rooms and users may import is any name without an underscore:
`Head`, `LMStates`, `TokenGroups` and `scored_tokens` (these four also from the package), `run_model` and the readers
beside it.
"""
