"""Hugging Face's Trainer: ``LearnedTrainer`` makes the optimizer and passes it the losses.

python examples/with_trainer.py
"""

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch.utils.data import random_split
from transformers import (
    EvalPrediction,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)  # fmt: skip

from agents.integrations.transformers import LearnedTrainer

EPOCHS, BATCH = 10, 32


def digits() -> list[dict[str, Any]]:
    """1797 pictures of handwritten digits, and which digits they are."""
    bunch = load_digits()
    pictures = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    pairs = zip(pictures, bunch.target, strict=True)
    return [{"pixel_values": picture, "labels": int(label)} for picture, label in pairs]


def accuracy(ends: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((ends.predictions.argmax(1) == ends.label_ids).mean())}


def main() -> None:
    torch.manual_seed(0)
    training, validation = random_split(digits(), [0.8, 0.2])
    model = ViTForImageClassification(
        ViTConfig(
            image_size=8, patch_size=2, num_channels=1, num_labels=10, hidden_size=32,
            intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        )
    )  # fmt: skip
    arguments = TrainingArguments(
        output_dir="runs/trainer",
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-3,
        lr_scheduler_type="constant",  # leaves the schedule to the policy
        max_grad_norm=0.0,  # the optimizer itself clips gradients that are far too large
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = LearnedTrainer(
        model, arguments, train_dataset=training, eval_dataset=validation,
        compute_metrics=accuracy,
    )  # fmt: skip
    trainer.train()
    ends = trainer.evaluate()
    print(trainer.optimizer.optimizer.explain())  # Trainer has wrapped it
    print(f"validation loss {ends['eval_loss']:.3f}, accuracy {ends['eval_accuracy']:.3f}")


if __name__ == "__main__":
    main()
