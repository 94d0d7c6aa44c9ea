"""The training loop and its parts: losses, schedules, checkpoints, several processes."""
