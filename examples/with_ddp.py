"""DistributedDataParallel: each process passes its own loss; the policy gets their mean.

torchrun --standalone --nproc_per_node 2 examples/with_ddp.py
"""

import gc

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset, random_split

from agents import LearnedOptimizer

EPOCHS = 6


def digits() -> TensorDataset:
    """1797 pictures of handwritten digits, and which digits they are."""
    bunch = load_digits()
    pictures = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    return TensorDataset(pictures, torch.tensor(bunch.target))


def train() -> None:
    torch.manual_seed(0)
    training, validation = random_split(digits(), [0.8, 0.2])
    sampler = DistributedSampler(training)
    loader = DataLoader(training, batch_size=16, sampler=sampler)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 6 * 6, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    model = DistributedDataParallel(model)
    optimizer = LearnedOptimizer(model.parameters(), total_steps=EPOCHS * len(loader))
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        for pictures, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(pictures), labels)
            loss.backward()
            optimizer.step(loss=loss)

    with torch.no_grad():
        pictures, labels = validation[:]
        logits = model(pictures)
        loss = nn.functional.cross_entropy(logits, labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
    if dist.get_rank() == 0:
        print(optimizer.explain())  # the same in every process
        print(f"validation loss {loss:.3f}, accuracy {accuracy:.3f}")


def main() -> None:
    dist.init_process_group("gloo")
    train()
    gc.collect()  # nothing may use the group after it is destroyed,
    dist.barrier()  # in any process
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
