"""The training loop and its parts: losses, schedules, checkpoints, several processes."""

import logging

# SpeechBrain's loggers warn on import that they can't save figures without torchvision, which is not used here.
logging.getLogger("speechbrain.utils.train_logger").addFilter(lambda record: "torchvision" not in record.getMessage())
