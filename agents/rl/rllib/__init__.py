"""RLlib as engine of a training: presets of PPO and RL² with runs in several processes."""
