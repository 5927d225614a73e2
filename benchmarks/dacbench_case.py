"""DACBench's SGD environment on its smallest case, for ``throughput.py --dacbench``.

This file only has the case; ``throughput.py`` times it and prints the ratio. It needs the
package dacbench (:data:`INSTALL` says how to get it).

The case is ``SGDBenchmark`` in batch mode with a 784-10 linear model, batch size 32, AdamW,
and random images in place of MNIST: 256 for training, 64 for validation, 64 for testing.
One step is one batch and one validation; an episode is a reset and 100 steps. Images and
labels are noise: the case measures speed, and no figure is about learning.

DACBench needs only ``datasets`` and ``transforms`` of torchvision. If torchvision is
installed, it is used, with the same images in MNIST's file format. If not, a **stand-in**
defined below replaces it while DACBench is imported. At each access to an image it does
what torchvision does: a PIL image made of the stored bytes, its copy as a float tensor
divided by 255, then a normalised copy. It leaves out most of torchvision's checks of
arguments and its usage logging, which favours DACBench a little: on one machine torchvision
0.28 gave identical tensors and took 1.14 to 1.29 times the stand-in's CPU time per access.
DACBench's own code (loaders, environment, reward, state) runs as published in both cases.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

INSTALL = """\
--dacbench needs the package dacbench, which is not installed. Either
    pip install dacbench
or, without the parts that its SGD environment does not use,
    pip install --no-deps dacbench==0.5.6
    pip install ConfigSpace pandas seaborn ioh pillow
torchvision is used if it is installed; if not, a stand-in replaces it."""

TRAIN, VALIDATION, TEST, BATCH, CUTOFF = 256, 64, 64, 32, 100


def examples(train: bool) -> tuple[Tensor, Tensor]:
    """Return random images ``[n, 28, 28]`` uint8 and their labels ``[n]``."""
    generator = torch.Generator().manual_seed(int(train))
    count = TRAIN + VALIDATION if train else TEST
    images = torch.randint(256, (count, 28, 28), generator=generator, dtype=torch.uint8)
    return images, torch.randint(10, (count,), generator=generator)


class ToTensor:
    def __call__(self, image: Any) -> Tensor:
        pixels = torch.from_numpy(np.array(image, np.uint8))
        pixels = pixels.view(image.size[1], image.size[0], len(image.getbands()))
        return pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)


class Normalize(nn.Module):
    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, image: Tensor) -> Tensor:
        mean = torch.as_tensor(self.mean, dtype=image.dtype).view(-1, 1, 1)
        std = torch.as_tensor(self.std, dtype=image.dtype).view(-1, 1, 1)
        if not std.all():  # torchvision checks it at each access
            raise ValueError(f"std must not be zero, got {self.std!r}")
        return image.clone().sub_(mean).div_(std)


class Compose:
    def __init__(self, transforms: list[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


class MNIST(torch.utils.data.Dataset):
    """Random images in memory under torchvision's interface."""

    def __init__(
        self,
        root: str | Path,
        train: bool = True,
        transform: Callable[[Any], Any] | None = None,
        download: bool = False,
    ) -> None:
        from PIL import Image

        self.decode, self.transform = Image.fromarray, transform
        self.data, self.targets = examples(train)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, target = self.data[index], int(self.targets[index])
        image = self.decode(image.numpy())
        return (image if self.transform is None else self.transform(image)), target


class CIFAR10:
    """Placeholder: DACBench looks up its ``download`` on import, and never makes one."""

    download = None


def stand_in() -> dict[str, ModuleType]:
    """Return the modules that DACBench imports from torchvision, by name."""
    contents = {
        "torchvision": [],
        "torchvision.datasets": [MNIST, CIFAR10],
        "torchvision.transforms": [Compose, Normalize, ToTensor],
    }
    modules = {}
    for name, members in contents.items():
        module = modules[name] = ModuleType(name, "A stand-in; see dacbench_case.py.")
        module.__spec__ = ModuleSpec(name, None, is_package=name == "torchvision")
        for member in members:
            setattr(module, member.__name__, member)
    modules["torchvision"].datasets = modules["torchvision.datasets"]
    modules["torchvision"].transforms = modules["torchvision.transforms"]
    return modules


def write_files(root: Path) -> None:
    """Write the images to the files that torchvision's MNIST reads."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for train, prefix in ((True, "train"), (False, "t10k")):
        for kind, values in zip(
            ("images-idx3", "labels-idx1"), examples(train), strict=True
        ):
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
            content = header + values.to(torch.uint8).numpy().tobytes()
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(content)


class Case:
    """DACBench's environment; a call runs one episode.

    Attributes:
        version: version of DACBench.
        library: source of the images, torchvision or the stand-in.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("dacbench") is None:
            raise SystemExit(INSTALL)
        self.version = importlib.metadata.version("dacbench")
        real = importlib.util.find_spec("torchvision") is not None
        self.library = "torchvision" if real else "a stand-in for torchvision"
        added = {} if real else stand_in()
        sys.modules.update(added)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # about its other benchmarks
            from dacbench.benchmarks import SGDBenchmark
            from dacbench.envs import SGDInstance
        for name in added:
            del sys.modules[name]

        self._folder = tempfile.TemporaryDirectory()
        write_files(Path(self._folder.name))
        benchmark = SGDBenchmark()
        benchmark.config.epoch_mode = False
        benchmark.config.cutoff = CUTOFF
        benchmark.config.instance_set = {
            0: SGDInstance(
                model=lambda: nn.Sequential(
                    nn.Flatten(), nn.Linear(784, 10), nn.LogSoftmax(1)
                ),
                optimizer_type="AdamW",
                optimizer_params={},
                dataset_path=self._folder.name,
                dataset_name="MNIST",
                batch_size=BATCH,
                fraction_of_dataset=1.0,
                train_validation_ratio=TRAIN / (TRAIN + VALIDATION),
                seed=0,
            )
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # float64 bounds in a float32 space
            self.env = benchmark.get_environment()

    def __call__(self) -> int:
        """Reset, step to the cutoff, and return the number of steps.

        Each counts as an update, though the first step of an episode has no gradient yet.
        """
        self.env.reset()
        steps, truncated = 0, False
        while not truncated:
            _, _, _, truncated, _ = self.env.step(1e-3)
            steps += 1
        if steps != CUTOFF:
            raise RuntimeError(f"DACBench's episode ended after {steps} steps")
        return steps
