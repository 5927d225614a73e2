"""RLlib: PPO learns an agent on batches of runs, which a process of their own samples.

python examples/with_rllib.py
"""

import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from optenv.tasks import MLP

HORIZON, RUNS = 20, 32
EPISODES = 2 * RUNS  # between two updates of the policy

config = (
    PPOConfig()
    .environment(
        # The prefix makes every process import optenv, which registers the id.
        "optenv:optenv/LearningRate-v0",
        # Arguments of make_vec. The base learning rate is mostly too low: raising it pays.
        env_config={
            "tasks": MLP(),
            "horizon": HORIZON,
            "updates_per_step": 5,
            "base_lr": (1e-5, 1e-2),
            "on_divergence": "absorb",  # all episodes are equally long
        },
    )
    .env_runners(
        num_env_runners=1,
        num_envs_per_env_runner=RUNS,
        # One batch of tensors; by default, RLlib would step single environments in turn.
        gym_env_vectorize_mode="vector_entry_point",
    )
    .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64]))
    .training(
        train_batch_size=EPISODES * HORIZON,
        minibatch_size=320,
        num_epochs=10,
        lr=5e-4,
        gamma=1.0,
        lambda_=0.95,
    )
    .reporting(metrics_num_episodes_for_smoothing=EPISODES)  # those of one iteration
    .debugging(seed=0)
)


def main() -> None:
    ray.init(num_cpus=2, include_dashboard=False)
    try:
        algorithm = config.build_algo()
        for iteration in range(1, 11):
            sampled = algorithm.train()["env_runners"]
            print(
                f"iteration {iteration}: {sampled['num_episodes']} episodes, "
                f"mean return {sampled['episode_return_mean']:.3f}"
            )
        algorithm.stop()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
