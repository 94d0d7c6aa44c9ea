"""Train, evaluate and export a separator.

    python train.py hparams/mossformer_wham.yaml --data_folder /path/to/wham [--key value ...]
    torchrun --nproc_per_node=4 train.py hparams/mossformer_wham.yaml --data_folder ...     # on four GPUs

Any top-level key of the YAML file can be given another value as ``--key value``. A run that was interrupted goes on
when the same command is given again. To read the code, begin with `main`.
"""

import logging
import shlex
import sys

import speechbrain as sb
from hyperpyyaml import load_hyperpyyaml

from mossformer_sb import ranks
from mossformer_sb.arguments import parse_arguments
from mossformer_sb.brain import BEST_KEY, SeparationBrain
from mossformer_sb.checkpoints import check_origin
from mossformer_sb.dataio import FINGERPRINT_SHOWN
from mossformer_sb.errors import InputError
from mossformer_sb.export import TrainingRecord, export
from mossformer_sb.finetune import freeze, start_from
from mossformer_sb.report import check_report, report_training

logger = logging.getLogger("train")


def main(argv):
    """Run the experiment that the command line describes."""
    hparams_file, run_opts, overrides = parse_arguments(argv)
    ranks.start(run_opts)
    hparams = ranks.everywhere(load, hparams_file, overrides)
    ranks.everywhere(check_origin, hparams["checkpointer"])
    if hparams["report"]:
        ranks.everywhere(check_report)
    sb.create_experiment_directory(hparams["output_folder"], hparams_file, overrides)

    ranks.everywhere(set_initial_weights, hparams)
    if not hparams["skip_prep"]:
        ranks.on_main(hparams["prepare"])
        ranks.on_main(hparams["prepare_mixing"])
    keys = ("train_data", "valid_data", "test_data")
    train_data, valid_data, test_data = ranks.everywhere(lambda: [hparams[key]() for key in keys])
    datasets = {"train": train_data, "valid": valid_data, "test": test_data}
    fingerprints = ", ".join(f"{name} {data.fingerprint[:FINGERPRINT_SHOWN]}" for name, data in datasets.items())
    logger.info("Data fingerprints: %s", fingerprints)

    brain = ranks.everywhere(
        SeparationBrain,
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
    ranks.on_main(record.write, hparams["output_folder"])
    ranks.on_main(
        export,
        folder=hparams["export_folder"],
        modules=ranks.unwrapped(brain.modules),
        sample_rate=hparams["sample_rate"],
        record=record,
    )
    if hparams["report"]:
        ranks.on_main(report_training, hparams, brain, record, test_data.table)
    ranks.stop()


def load(hparams_file, overrides):
    """Build what the YAML file describes."""
    with open(hparams_file, encoding="utf-8") as file:
        return load_hyperpyyaml(file, overrides)


def set_initial_weights(hparams):
    """Start from another model and freeze parameters, where that is asked for."""
    if hparams["init_from"] is not None:
        if hparams["checkpointer"].list_checkpoints():
            logger.info("Going on with the run in %s; init_from was for its beginning", hparams["save_folder"])
        else:
            start_from(hparams["modules"], hparams["init_from"], hparams["sample_rate"])
    if hparams["freeze"] is not None:
        freeze(hparams["modules"], hparams["freeze"])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        # The message says it all; a traceback would bury it, and one comes along from a data loader's process.
        if ranks.shows(error):
            logger.error("%s", str(error).rsplit("InputError: ", maxsplit=1)[-1].strip())
        sys.exit(2)
