"""What a step of the loss costs, beside its bare matrix products, a textbook version and a peer."""
