"""accelerate: its ``step`` does not pass a loss on, so the criterion provides it.

python examples/with_accelerate.py
"""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from agents import LearnedOptimizer

EPOCHS = 10


def digits() -> TensorDataset:
    """1797 pictures of handwritten digits, and which digits they are."""
    bunch = load_digits()
    pictures = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    return TensorDataset(pictures, torch.tensor(bunch.target))


def main() -> None:
    torch.manual_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=2)
    training, validation = random_split(digits(), [0.8, 0.2])
    loader = accelerator.prepare(DataLoader(training, batch_size=16, shuffle=True))
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 6 * 6, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    criterion = nn.CrossEntropyLoss()
    # The optimizer steps once for two batches, and at the end of every epoch.
    steps = -(-len(loader) // accelerator.gradient_accumulation_steps)
    optimizer = LearnedOptimizer(model.parameters(), total_steps=EPOCHS * steps)
    optimizer.attach_loss(criterion)
    model, optimizer = accelerator.prepare(model, optimizer)
    for _ in range(EPOCHS):
        for pictures, labels in loader:
            with accelerator.accumulate(model):
                accelerator.backward(criterion(model(pictures), labels))
                optimizer.step()
                optimizer.zero_grad()

    model.eval()
    with torch.no_grad():
        pictures, labels = (part.to(accelerator.device) for part in validation[:])
        logits = model(pictures)
        loss = criterion(logits, labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
    accelerator.print(optimizer.optimizer.explain())  # accelerate has wrapped it
    accelerator.print(f"validation loss {loss:.3f}, accuracy {accuracy:.3f}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
