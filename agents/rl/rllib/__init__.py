"""RLlib as the engine of a training: PPO and RL² with runs in several processes."""
