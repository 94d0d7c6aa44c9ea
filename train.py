"""Train, evaluate and export a separator.

    python train.py hparams/mossformer_wham.yaml --data_folder /path/to/wham [--key value ...]
    torchrun --nproc_per_node=4 train.py hparams/mossformer_wham.yaml --data_folder ...     # on four GPUs

``--key value`` overrides any top-level key of the YAML file. The same command resumes an interrupted run. To read the
code, begin with `main`.
"""

import logging
import os
import shlex
import sys

import torch
from hyperpyyaml import load_hyperpyyaml

from data_prep.corpora.prepare import prepare_experiment
from mossformer_sb.cli.training_report import report_training
from mossformer_sb.data.datasets import MixtureDataset
from mossformer_sb.data.manifests import FINGERPRINT_SHOWN
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.published import comparable_corpus
from mossformer_sb.evaluation.report import check_report
from mossformer_sb.evaluation.results import TEST_MANIFEST
from mossformer_sb.sharing.folder import export
from mossformer_sb.sharing.record import TrainingRecord
from mossformer_sb.training.brain import SeparationBrain
from mossformer_sb.training.checkpoint_checks import check_checkpoints, check_no_results
from mossformer_sb.training.checkpoints import BEST_KEY
from mossformer_sb.training.command_line import check_device, check_run_options, parse_arguments, run_option
from mossformer_sb.training.distributed import run_on_all_ranks, run_on_main, should_report, start, stop, unwrapped
from mossformer_sb.training.experiment import (
    MANIFESTS,
    build_dataset,
    check_training_settings,
    complete,
    hint_at_long_mixtures,
    hint_at_settings,
    loader_options,
    manifest_path,
)
from mossformer_sb.training.experiment_file import check_complete, read_yaml
from mossformer_sb.training.export import check_export_folder
from mossformer_sb.training.finetuning import freeze, start_from
from mossformer_sb.training.run_folder import RunFolder
from mossformer_sb.utils.allocator import keep_freed_memory
from mossformer_sb.utils.files import refusing_long_names

logger = logging.getLogger("train")


@refusing_long_names()
def main(argv):
    """Run the experiment of the command line."""
    hparams_file, run_opts, overrides = parse_arguments(argv)
    check_complete(read_yaml(hparams_file), hparams_file, run_opts.as_dict())
    check_device(run_opts)
    start(run_opts)
    with RunFolder(hparams_file, overrides, __file__, run_opts["log_config"]) as run_folder:
        hparams = run_on_all_ranks(load, hparams_file, overrides)
        test_only = run_option("test_only", run_opts, hparams)
        run_on_all_ranks(check, hparams, run_opts, test_only)

        datasets, fingerprints = prepare(hparams, test_only)
        run_folder.prepared()
        brain = run_on_all_ranks(build, hparams, run_opts)
        command = shlex.join(["python", "train.py", *argv])
        run_folder.record = TrainingRecord.of_experiment(hparams, hparams_file, command, fingerprints)
        brain.on_stage = run_folder.stage_begins

        fit(brain, hparams, datasets)
        evaluate(brain, hparams, datasets)
        share(brain, hparams, datasets, run_folder)
    stop()


def load(hparams_file, overrides):
    """Build the objects of the YAML file, and the common objects of all experiments."""
    with open(hparams_file, encoding="utf-8") as file:
        return complete(load_hyperpyyaml(file, overrides))


def check(hparams, run_opts, test_only):
    """Check for errors early, before data is prepared; load the initial weights."""
    check_run_options(run_opts, hparams)
    if hparams["report"]:
        check_report()
    for name in MANIFESTS:
        loader_options(hparams, name)
    check_export_folder(hparams["export_folder"], hparams["output_folder"])
    check_training_settings(hparams)
    hint_at_settings(hparams)
    check_checkpoints(hparams["checkpointer"], test_only)
    if run_option("debug", run_opts, hparams) and not run_option("debug_persistently", run_opts, hparams):
        check_no_results(hparams["checkpointer"], hparams["output_folder"], hparams["export_folder"])
    if hparams["init_from"] is not None:
        if hparams["checkpointer"].list_checkpoints():
            logger.info("Resuming the run in %s; init_from only applies to a new run", hparams["save_folder"])
        else:
            start_from(hparams["modules"], hparams["init_from"], hparams["sample_rate"])
    if hparams["freeze"] is not None:
        freeze(hparams["modules"], hparams["freeze"])


def prepare(hparams, test_only):
    """Write the manifests, in the main process; build the datasets. Return these by name, and their fingerprints.

    The test set is optional.
    """
    if not hparams["skip_prep"]:
        run_on_main(prepare_experiment, hparams, test_only)
    has_test = manifest_path(hparams, "test").is_file()
    names = ["test"] if test_only else [name for name in MANIFESTS if name != "test" or has_test]
    datasets = run_on_all_ranks(lambda: {name: build_dataset(hparams, name) for name in names})
    fingerprints = ", ".join(f"{name} {data.fingerprint[:FINGERPRINT_SHOWN]}" for name, data in datasets.items())
    logger.info("Data fingerprints: %s", fingerprints)
    run_on_main(hint_at_long_mixtures, datasets)
    return datasets, fingerprints


def build(hparams, run_opts):
    """Build the Brain of the networks."""
    brain = SeparationBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    if torch.device(brain.device).type == "cpu":
        keep_freed_memory()
    return brain


def fit(brain, hparams, datasets):
    """Train, or resume; with ``test_only`` SpeechBrain's Brain skips training."""
    brain.fit(
        hparams["epoch_counter"],
        datasets.get("train"),
        datasets.get("valid"),
        train_loader_kwargs=loader_options(hparams, "train"),
        valid_loader_kwargs=loader_options(hparams, "valid"),
    )


def evaluate(brain, hparams, datasets):
    """Score the best checkpoint, whose weights stay in the networks; without a test set, load it."""
    if "test" not in datasets:
        logger.warning("There is no test set: the best checkpoint is exported without scores, and without a report.")
        brain.load_best()
        return
    brain.evaluate(datasets["test"], max_key=BEST_KEY, test_loader_kwargs=loader_options(hparams, "test"))


def share(brain, hparams, datasets, run_folder):
    """Export the model with its scores, and write the report, in the main process."""
    record = run_on_main(keep_results, brain, hparams, datasets.get("test"), run_folder)
    modules = unwrapped(brain.modules)
    run_on_main(export, hparams["export_folder"], modules, hparams["sample_rate"], record)
    if hparams["report"] and "test" in datasets:
        run_on_main(report_training, run_folder.folder, hparams["export_folder"], brain.device)


def keep_results(brain, hparams, test_data, run_folder):
    """Save the test manifest, and the scores in the training's record, which is returned."""
    if test_data is None:
        record = TrainingRecord.read(run_folder.folder).without_evaluation(brain, run_folder.record)
        record.write(run_folder.folder)
        return record
    test_set = {"published_for": comparable_corpus(hparams)}
    if isinstance(test_data, MixtureDataset):
        test_data.write_manifest(run_folder.folder / TEST_MANIFEST)
        test_set["data_root"] = os.path.abspath(test_data.data_root or ".")
    record = TrainingRecord.read(run_folder.folder).of_evaluation(brain, run_folder.record, test_set)
    record.write(run_folder.folder)
    return record


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        if should_report(error):
            logger.error("%s", error)
        sys.exit(2)
