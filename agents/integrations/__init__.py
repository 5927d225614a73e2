"""Learned optimizers in training frameworks: trainers, callbacks, and registries of names.

Each module needs its framework, which ``import agents`` does not load:

- :mod:`agents.integrations.transformers` needs Hugging Face's Transformers and Accelerate;
- :mod:`agents.integrations.lightning` needs Lightning;
- :mod:`agents.integrations.registries` needs pytorch_optimizer or timm when one of its
  functions is called.
"""
