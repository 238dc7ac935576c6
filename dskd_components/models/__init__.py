"""Causal language models as the loss sees them: states, heads, embeddings, and the columns of a batch.

Nothing here imports `transformers`: the models are used through the few methods that all of its causal models share,
written down as `CausalLM` in `wrappers`. `head` makes logits of hidden states, with `head_recipe` and `verification`;
`states` is what one model contributes to a batch, with `state_checks`; `scored_tokens` counts its tokens, and
`token_groups` says what belongs together. `run_model`, `hidden_states`, `batch`, `packing`, `positions` and `loading`
take a model's columns to its states, `aux_loss` reads its router's loss. Other rooms may import every module; users
import `AuxLoss`, `Head`, `LMStates`, `TokenGroups` and `scored_tokens` from the package.
"""
