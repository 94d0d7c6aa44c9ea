"""The training loop and its parts: losses, schedules, checkpoints, several processes."""

import logging

# SpeechBrain's module of loggers says on import that it can't save figures without torchvision. Nothing here does.
logging.getLogger("speechbrain.utils.train_logger").addFilter(lambda record: "torchvision" not in record.getMessage())
