"""Train, evaluate and export a separator.

    python train.py hparams/mossformer_wham.yaml --data_folder /path/to/wham [--key value ...]
    torchrun --nproc_per_node=4 train.py hparams/mossformer_wham.yaml --data_folder ...     # on four GPUs

Any top-level key of the YAML file can be given another value as ``--key value``. A run that was interrupted goes on
when the same command is given again. To read the code, begin with `main`.
"""

import logging
import os
import shlex
import sys

from hyperpyyaml import load_hyperpyyaml

from mossformer_sb.cli.training_report import report_training
from mossformer_sb.data.datasets import MixtureDataset
from mossformer_sb.data.manifests import FINGERPRINT_SHOWN
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.published import comparable_corpus
from mossformer_sb.evaluation.report import check_report
from mossformer_sb.evaluation.results import TEST_MANIFEST
from mossformer_sb.sharing.folder import export
from mossformer_sb.sharing.record import TrainingRecord
from mossformer_sb.training import distributed
from mossformer_sb.training.brain import SeparationBrain, nothing_to_evaluate
from mossformer_sb.training.checkpoints import BEST_KEY, check_origin
from mossformer_sb.training.command_line import check_device, parse_arguments
from mossformer_sb.training.finetuning import freeze, start_from
from mossformer_sb.training.run_folder import RunFolder

logger = logging.getLogger("train")


def main(argv):
    """Run the experiment that the command line describes."""
    hparams_file, run_opts, overrides = parse_arguments(argv)
    check_device(run_opts)
    distributed.start(run_opts)
    with RunFolder(hparams_file, overrides, __file__, run_opts["log_config"]) as folder:
        run(folder, hparams_file, run_opts, overrides, command=shlex.join(["python", "train.py", *argv]))
    distributed.stop()


def run(folder, hparams_file, run_opts, overrides, command):
    """Check, prepare, train, evaluate, export."""
    hparams = distributed.run_on_all_ranks(load, hparams_file, overrides)
    test_only = run_opts["test_only"] or hparams.get("test_only", False)
    if hparams["report"]:
        distributed.run_on_all_ranks(check_report)
    distributed.run_on_all_ranks(check_checkpoints, hparams, run_opts, test_only)
    distributed.run_on_all_ranks(set_initial_weights, hparams)
    if not hparams["skip_prep"]:
        distributed.run_on_main(hparams["prepare"])
        if not test_only:
            distributed.run_on_main(hparams["prepare_mixing"])
    builders = {"train": hparams["train_data"], "valid": hparams["valid_data"], "test": hparams["test_data"]}
    names = ["test"] if test_only else [*builders]
    datasets = distributed.run_on_all_ranks(lambda: {name: builders[name]() for name in names})
    fingerprints = ", ".join(f"{name} {data.fingerprint[:FINGERPRINT_SHOWN]}" for name, data in datasets.items())
    logger.info("Data fingerprints: %s", fingerprints)

    brain = distributed.run_on_all_ranks(
        SeparationBrain,
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    folder.record = TrainingRecord.of_experiment(hparams, hparams_file, command, fingerprints)
    brain.on_stage = folder.stage_begins
    brain.fit(
        hparams["epoch_counter"],
        datasets.get("train"),
        datasets.get("valid"),
        train_loader_kwargs=hparams["train_loader"],
        valid_loader_kwargs=hparams["valid_loader"],
    )
    brain.evaluate(datasets["test"], max_key=BEST_KEY, test_loader_kwargs=hparams["test_loader"])

    record = distributed.run_on_main(keep_results, folder, hparams, brain, datasets["test"])
    distributed.run_on_main(
        export,
        folder=hparams["export_folder"],
        modules=distributed.unwrapped(brain.modules),
        sample_rate=hparams["sample_rate"],
        record=record,
    )
    if hparams["report"]:
        distributed.run_on_main(report_training, folder.folder, hparams["export_folder"], brain.device)


def load(hparams_file, overrides):
    """Build what the YAML file describes."""
    with open(hparams_file, encoding="utf-8") as file:
        return load_hyperpyyaml(file, overrides)


def check_checkpoints(hparams, run_opts, test_only):
    """Find what is wrong with the checkpoints in the output folder, or their absence, before data is prepared."""
    checkpointer = hparams["checkpointer"]
    check_origin(checkpointer)
    if run_opts["debug"] and not run_opts["debug_persistently"]:
        if checkpointer.list_checkpoints():
            raise InputError(
                f"--debug would put the results of its few batches in the place of those of the training in "
                f"{hparams['output_folder']}: give another --output_folder."
            )
    elif test_only and not checkpointer.list_checkpoints():
        raise InputError(nothing_to_evaluate(checkpointer.checkpoints_dir))
    else:
        checkpointer.check_architecture()


def keep_results(folder, hparams, brain, test_data):
    """Keep what was tested, and the scores in the training's record, which is returned."""
    test_set = {"published_for": comparable_corpus(hparams)}
    if isinstance(test_data, MixtureDataset):
        test_data.write_manifest(folder.folder / TEST_MANIFEST)
        test_set["data_root"] = os.path.abspath(test_data.data_root)
    record = TrainingRecord.read(folder.folder).of_evaluation(brain, folder.record, test_set)
    record.write(folder.folder)
    return record


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
        if distributed.should_report(error):
            logger.error("%s", str(error).rsplit("InputError: ", maxsplit=1)[-1].strip())
        sys.exit(2)
