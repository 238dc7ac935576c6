"""What tests share: tiny models and tokenizers, strategies, naive versions, seeded faults, process groups."""
