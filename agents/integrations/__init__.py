"""Learned optimizers in training frameworks: trainers, callbacks, and registries of names.

Each module needs the framework that it is for, which ``import agents`` does not load:
:mod:`agents.integrations.transformers` Hugging Face's Trainer,
:mod:`agents.integrations.lightning` Lightning, and :mod:`agents.integrations.registries`
pytorch_optimizer or timm, when one of its functions is called.
"""
