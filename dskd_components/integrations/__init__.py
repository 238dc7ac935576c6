"""Adapters to training frameworks: nothing here is imported until it is asked for, and nothing else imports it.

`transformers` and `trl` have trainers, `lightning` a module, `accelerate` what a loop around an `Accelerator` needs;
`student_with_projectors` is one module for everything that wraps one module. Users import from these five modules; the
others (`projectors`, `token_means`, `trainer_checks`) are for them.
"""
