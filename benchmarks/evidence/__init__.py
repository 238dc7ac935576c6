"""What distillation brings, with real models: ``python -m benchmarks.evidence``; see docs/explanation/evidence.md."""
