"""Instances: named and numbered tasks with their data, in sets that can be shared.

An :class:`Instance` fixes what a run trains on; the seed of ``reset()`` draws the rest. The
standard sets have an instance ``"family/split/number"`` for every number from 0::

    instances = optenv.instances.make("cnn/test")  # the first 100
    env = gym.make("optenv/LearningRate-CNN-v0", instances="cnn/train")
    env.reset(seed=0, options={"instance": "cnn/test/3"})

``python -m optenv.instances`` lists, prints and writes sets of them.
"""

from .instance import Instance
from .pins import STANDARD_VERSION
from .sets import STANDARD_COUNT, InstanceSet, InstanceSpec, get, make

__all__ = [
    "STANDARD_COUNT",
    "STANDARD_VERSION",
    "Instance",
    "InstanceSet",
    "InstanceSpec",
    "get",
    "make",
]
