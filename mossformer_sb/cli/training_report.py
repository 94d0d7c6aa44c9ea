"""The report of a training, from the files in its output folder, without evaluating again."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from mossformer_sb.data.manifests import read_manifest
from mossformer_sb.errors import InputError
from mossformer_sb.evaluation.examples import (
    AUDIO_FOLDER,
    example_of_row,
    example_stem,
    pick_examples,
    saved_example,
    with_scores,
)
from mossformer_sb.evaluation.report import REPORT_FILE, check_report, write_report
from mossformer_sb.evaluation.results import AVERAGE, RESULTS_FILE, TEST_MANIFEST
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.sharing.record import RECORD_FILE, TrainingRecord
from mossformer_sb.training.epoch_stats import TABLE_FILE

logger = logging.getLogger(__name__)


def report_training(
    training_folder: str | Path,
    export_folder: str | Path | None = None,
    device: str = "cpu",
    path: str | Path | None = None,
) -> Path:
    """Write the report of a training from the files in its output folder, without evaluating again.

    The examples are separated by the exported model, if the test set is available; otherwise they are the mixtures that
    the evaluation saved as audio.

    Arguments
    ---------
    training_folder : str or Path
        The experiment's ``output_folder``, after an evaluation.
    export_folder : str or Path, optional
        Folder of the model. Default: ``export`` in ``training_folder``.
    device : str
        Device for the separation of the examples.
    path : str or Path, optional
        Output file. Default: ``report.html`` in ``training_folder``.

    Returns
    -------
    Path
        The output file.

    Raises
    ------
    InputError
        If the folder holds no evaluation, or matplotlib is not installed.
    """
    check_report()
    folder = Path(training_folder)
    results = folder / RESULTS_FILE
    if not results.is_file():
        raise InputError(
            f"{folder}: holds no {RESULTS_FILE}, so there is no evaluation to report. Give the output_folder of a "
            f"training that was evaluated; --test_only does that alone."
        )
    scores = pd.read_csv(results, dtype={"snt_id": str})
    record = TrainingRecord.read(folder)
    examples = _training_examples(folder, export_folder or folder / "export", record, scores, device)
    facts = {
        "Task": record.task,
        "Corpus": record.corpus,
        "Data": record.data,
        "Command": record.command,
        "Evaluated by": record.test_command,
    }
    epochs = pd.read_csv(folder / TABLE_FILE) if (folder / TABLE_FILE).is_file() else None
    title = f"Training of {Path(record.experiment or folder.name).stem}"
    published = record.test_set.get("published_for", "")
    path = write_report(path or folder / REPORT_FILE, scores, examples, title, published, facts, epochs)
    logger.info("The report is %s", path)
    return path


def _training_examples(folder, export_folder, record, scores, device):
    """From the test set, if its recordings and the model are available; else from the saved audio."""
    manifest, data_root = folder / TEST_MANIFEST, record.test_set.get("data_root")
    try:
        if data_root is None:
            raise InputError(f"{folder / RECORD_FILE}: has no path of the test set.")
        model = MossFormerSeparation.from_hparams(export_folder, device=device)
        rows = read_manifest(manifest, data_root).set_index("ID", drop=False)
        return [
            example_of_row(title, rows.loc[utterance_id], model.hparams.num_spks, model.separate_batch)
            for title, utterance_id in with_scores(
                pick_examples(scores[scores["snt_id"].isin([*rows["ID"], AVERAGE])]), scores
            ).items()
        ]
    except InputError as error:
        logger.warning("The examples are from %s, not from the whole test set: %s", folder / AUDIO_FOLDER, error)
    kept = {example_stem(name): name for name in scores["snt_id"]}
    kept = [name for stem, name in kept.items() if (folder / AUDIO_FOLDER / f"{stem}_mix.wav").is_file()]
    picked = with_scores(pick_examples(scores[scores["snt_id"].isin(kept)]), scores)
    return [saved_example(title, folder / AUDIO_FOLDER, name) for title, name in picked.items()]
