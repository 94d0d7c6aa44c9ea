"""The experiments for each layout of data, trained and evaluated on a few short files."""

import json
import re

import pandas as pd
import pytest

from tests.integration.programs import ROOT, train
from tests.unit.trees import write_custom, write_librimix, write_whamr, write_wsj0mix

SMALL = ["--model_size", "mini", "--segment", "0.5", "--number_of_epochs", "1", "--num_workers", "0", "--check_samples"]
SMALL += ["--device", "cpu", "--noprogressbar", "--output_folder", "out"]


@pytest.mark.parametrize(
    "yaml, write, arguments, corpus, num_spks",
    [
        (
            "wsj0mix",
            lambda root: write_wsj0mix(root, 3, frames=6000),
            ["--num_spks", "3", "--random_shift", "0.1"],
            "WSJ0-3mix",
            3,
        ),
        (
            "whamr",
            lambda root: write_whamr(root, frames=9000),
            ["--dynamic_mixing", "--num_rooms", "3", "--perturb_noise"],
            "WHAMR!",
            2,
        ),
        (
            "librimix",
            lambda root: write_librimix(root, splits=("train-360", "dev", "test"), frames=6000),
            ["--task", "separate_noisy", "--train_split", "train-360"],
            "Libri2Mix",
            2,
        ),
        (
            "custom",
            lambda root: write_custom(root, 4, noise=True, extension="flac", subtype="PCM_16", frames=6000),
            ["--num_spks", "4", "--noise", "--corpus_name", "my data"],
            "my data",
            4,
        ),
    ],
)
def test_trains_evaluates_and_exports(tmp_path, yaml, write, arguments, corpus, num_spks):
    words = [ROOT / "hparams" / f"mossformer_{yaml}.yaml", "--data_folder", write(tmp_path / "data")]
    result = train(*words, *arguments, *SMALL, cwd=tmp_path)
    assert result.returncode == 0, result.stdout

    assert pd.read_csv(tmp_path / "out" / "test_results.csv").iloc[-1]["snt_id"] == "avg"
    facts = [json.loads(path.read_text()) for path in (tmp_path / "out" / "manifests").glob("*.json")]
    card = (tmp_path / "out" / "export" / "README.md").read_text()
    assert f"| Corpus | {corpus} |" in card and f"| Speakers | {num_spks} |" in card
    # Dynamic mixing is of what it draws from, not of the static training set.
    dynamic = "--dynamic_mixing" in arguments
    static = facts[0]["fingerprint"][:12]
    of_training = re.search(r"\| Data fingerprint \| train (\w{12})", card)[1]
    assert len(facts) == 3 and (of_training != static if dynamic else of_training == static)
    shown = f"train {of_training}, valid {static}, test {static}"
    assert f"| Data fingerprint | {shown} |" in card
    assert f"Data fingerprints: {shown}" in (tmp_path / "out" / "log.txt").read_text()
