"""Loss components for Dual-Space Knowledge Distillation."""
