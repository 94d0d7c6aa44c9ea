"""Train, evaluate and export a separator.

    python train.py hparams/mossformer_wham.yaml --data_folder /path/to/wham [--key value ...]

Any top-level key of the YAML file can be given another value as ``--key value``. A run that was interrupted goes on
when the same command is given again. To read the code, begin with `main`.
"""

import logging
import shlex
import sys

import speechbrain as sb
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import run_on_main

from mossformer_sb.arguments import parse_arguments
from mossformer_sb.brain import BEST_KEY, SeparationBrain
from mossformer_sb.dataio import FINGERPRINT_SHOWN
from mossformer_sb.errors import InputError
from mossformer_sb.export import TrainingRecord, export
from mossformer_sb.finetune import freeze, start_from

logger = logging.getLogger("train")


def main(argv):
    """Run the experiment that the command line describes."""
    hparams_file, run_opts, overrides = parse_arguments(argv)
    sb.utils.distributed.ddp_init_group(run_opts)
    with open(hparams_file, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, overrides)
    sb.create_experiment_directory(hparams["output_folder"], hparams_file, overrides)

    if hparams["init_from"] is not None:
        if hparams["checkpointer"].list_checkpoints():
            logger.info("Going on with the run in %s; init_from was for its beginning", hparams["save_folder"])
        else:
            start_from(hparams["modules"], hparams["init_from"], hparams["sample_rate"])
    if hparams["freeze"] is not None:
        freeze(hparams["modules"], hparams["freeze"])

    if not hparams["skip_prep"]:
        run_on_main(hparams["prepare"])
    train_data, valid_data, test_data = (hparams[key]() for key in ("train_data", "valid_data", "test_data"))
    datasets = {"train": train_data, "valid": valid_data, "test": test_data}
    fingerprints = ", ".join(f"{name} {data.fingerprint[:FINGERPRINT_SHOWN]}" for name, data in datasets.items())
    logger.info("Data fingerprints: %s", fingerprints)

    brain = SeparationBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.fit(
        hparams["epoch_counter"],
        train_data,
        valid_data,
        train_loader_kwargs=hparams["train_loader"],
        valid_loader_kwargs=hparams["valid_loader"],
    )
    brain.evaluate(test_data, max_key=BEST_KEY, test_loader_kwargs=hparams["test_loader"])

    command = shlex.join(["python", "train.py", *argv])
    record = TrainingRecord.of(brain, experiment=hparams_file, command=command, data=fingerprints)
    run_on_main(
        export,
        kwargs={
            "folder": hparams["export_folder"],
            "modules": brain.modules,
            "sample_rate": hparams["sample_rate"],
            "record": record,
        },
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        # The message says it all; a traceback would bury it, and one comes along from a data loader's process.
        logger.error("%s", str(error).rsplit("InputError: ", maxsplit=1)[-1].strip())
        sys.exit(2)
