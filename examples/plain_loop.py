"""Your own training loop: pass the loss to ``step`` by name.

python examples/plain_loop.py
"""

import torch
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
    training, validation = random_split(digits(), [0.8, 0.2])
    loader = DataLoader(training, batch_size=32, shuffle=True)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 6 * 6, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    optimizer = LearnedOptimizer(model.parameters(), total_steps=EPOCHS * len(loader))
    for _ in range(EPOCHS):
        for pictures, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(pictures), labels)
            loss.backward()
            optimizer.step(loss=loss)

    model.eval()
    with torch.no_grad():
        pictures, labels = validation[:]
        logits = model(pictures)
        loss = nn.functional.cross_entropy(logits, labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
    print(optimizer.explain())
    print(f"validation loss {loss:.3f}, accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
