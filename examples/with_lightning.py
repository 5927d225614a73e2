"""Lightning: it passes a closure to ``step``, whose result is the loss.

python examples/with_lightning.py
"""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from agents import LearnedOptimizer
from agents.integrations.lightning import LearnedOptimizerCallback


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Flatten(), nn.Linear(16 * 6 * 6, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        pictures, labels = batch
        return nn.functional.cross_entropy(self.network(pictures), labels)

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        pictures, labels = batch
        logits = self.network(pictures)
        self.log("loss", nn.functional.cross_entropy(logits, labels))
        self.log("accuracy", (logits.argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> LearnedOptimizer:
        # Optimizer steps, given the epochs, devices and accumulated batches.
        total_steps = int(self.trainer.estimated_stepping_batches)
        return LearnedOptimizer(self.parameters(), total_steps=total_steps)


def digits() -> TensorDataset:
    """1797 pictures of handwritten digits, and which digits they are."""
    bunch = load_digits()
    pictures = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    return TensorDataset(pictures, torch.tensor(bunch.target))


def main() -> None:
    lightning.seed_everything(0)
    training, validation = random_split(digits(), [0.8, 0.2])
    trainer = lightning.Trainer(
        max_epochs=10, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[LearnedOptimizerCallback()],  # logs the learning rate in force
    )  # fmt: skip
    trainer.fit(
        Classifier(),
        DataLoader(training, batch_size=32, shuffle=True),
        DataLoader(validation, batch_size=len(validation)),
    )
    print(trainer.optimizers[0].explain())
    ends = trainer.callback_metrics
    print(f"validation loss {ends['loss']:.3f}, accuracy {ends['accuracy']:.3f}")


if __name__ == "__main__":
    main()
