"""WHAMR!, LibriMix and custom data: the files of each column, and wrong input."""

import csv
import logging

import pytest
import soundfile

from data_prep.__main__ import main
from data_prep.corpora.custom import prepare_custom
from data_prep.corpora.librimix import librispeech_speakers, prepare_librimix
from data_prep.corpora.whamr import TASKS, prepare_whamr
from mossformer_sb.data.datasets import MixtureDataset
from mossformer_sb.errors import InputError
from tests.unit.permissions import closed
from tests.unit.trees import (
    FRAMES,
    IDS,
    LIBRI_IDS,
    write_custom,
    write_librimix,
    write_sums,
    write_tree,
    write_wav,
    write_wham,
    write_whamr,
)

FIRST = sorted(IDS)[0]


def read(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def fails(prepare, root, *parts, **options):
    """Preparation must fail and name all parts in its message."""
    with pytest.raises(InputError) as caught:
        prepare(root, root.parent / "out", **options)
    for part in parts:
        assert part in str(caught.value)


class TestWhamr:
    @pytest.fixture
    def root(self, tmp_path):
        return write_whamr(tmp_path / "whamr")

    @pytest.mark.parametrize("split", ["tr", "cv", "tt"])
    def test_targets_are_anechoic_in_every_split(self, root, tmp_path, split):
        row = read(prepare_whamr(root, tmp_path / "out")[split])[0]
        top = f"$data_root/wav8k/min/{split}"
        assert {key: row[key] for key in row if key.endswith("wav")} == {
            "mix_wav": f"{top}/mix_both_reverb/{FIRST}.wav",
            "s1_wav": f"{top}/s1_anechoic/{FIRST}.wav",
            "s2_wav": f"{top}/s2_anechoic/{FIRST}.wav",
            "noise_wav": f"{top}/noise/{FIRST}.wav",
        }
        assert (row["s1_spk"], row["s2_spk"]) == ("209", "01c")

    def test_a_third_speaker_is_no_noise(self, root, tmp_path):
        (root / "wav8k/min/tr/s3_anechoic").mkdir()
        fails(prepare_whamr, root, "has a folder 'wav8k/min/tr/s3_anechoic', but num_spks is 2: give that of the data")
        prepare_whamr(root, tmp_path / "out", task="enhance_single_reverb")  # of one speaker anyway

    def test_another_target_by_name(self, root, tmp_path):
        rows = [read(path)[0] for path in prepare_whamr(root, tmp_path / "out", target="reverb").values()]
        assert all("/s1_reverb/" in row["s1_wav"] and "/s2_reverb/" in row["s2_wav"] for row in rows)

    @pytest.mark.parametrize("task", TASKS)
    def test_tasks(self, root, tmp_path, task):
        kind, room = task.rsplit("_", 1)
        mixture = {"separate_noisy": "both", "separate_clean": "clean", "enhance_single": "single"}[kind]
        row = read(prepare_whamr(root, tmp_path / "out", task=task, check_samples=True)["cv"])[0]
        assert f"/mix_{mixture}_{room}/" in row["mix_wav"] and "/s1_anechoic/" in row["s1_wav"]
        assert ("s2_wav" in row) == (mixture != "single") and ("noise_wav" in row) == (mixture != "clean")

    def test_three_speakers_of_librispeech(self, tmp_path):
        sums = {"mix_clean_reverb": ("s1_reverb", "s2_reverb", "s3_reverb"), "_": ("s1_anechoic",)}
        write_sums(tmp_path / "own/wav8k/min", sums, LIBRI_IDS[3], ["tt"])
        for index in (2, 3):
            write_tree(tmp_path / "own/wav8k/min", [f"s{index}_anechoic"], LIBRI_IDS[3], ["tt"])
        options = {"num_spks": 3, "task": "separate_clean_reverb", "splits": ["tt"], "check_samples": True}
        row = read(prepare_whamr(tmp_path / "own", tmp_path / "out", **options)["tt"])[0]
        assert "/s3_anechoic/" in row["s3_wav"] and row["s3_spk"] == "7"

    def test_reverberant_images_are_not_needed_without_checking_samples(self, tmp_path):
        root = write_whamr(tmp_path / "whamr")
        for path in root.glob("wav8k/min/*/s?_reverb"):
            path.rename(path.with_name(f"{path.name}_elsewhere"))
        assert len(prepare_whamr(root, tmp_path / "out")) == 3
        fails(prepare_whamr, root, "it lacks wav8k/min/tr/s1_reverb, wav8k/min/tr/s2_reverb", check_samples=True)

    @pytest.mark.parametrize(
        "options, parts",
        [
            ({"task": "separate_noisy"}, ["task 'separate_noisy' is not known", "'separate_noisy_reverb'"]),
            ({"num_spks": 1}, ["num_spks is 1: give 2, as WHAMR! has, or more"]),
            ({"target": "dry"}, ["target 'dry' is not known: choose one of 'anechoic', 'reverb'"]),
            (
                {"task": "separate_clean_anechoic", "target": "reverb"},
                ["target 'reverb' is not in the mixtures of task 'separate_clean_anechoic': choose target 'anechoic'"],
            ),
            ({"mode": "mid"}, ["mode 'mid'"]),
            ({"sample_rate": 44100}, ["sample_rate 44100"]),
            ({"splits": ["dev"]}, ["split 'dev'"]),
        ],
    )
    def test_wrong_arguments(self, root, options, parts):
        fails(prepare_whamr, root, *parts, **options)

    def test_wham_given(self, tmp_path):
        root = write_wham(tmp_path / "wham")
        fails(prepare_whamr, root, "this is the layout of WHAM!", "hparams/mossformer_wham.yaml")

    def test_command(self, root, tmp_path):
        arguments = ["whamr", "--data_folder", str(root), "--output_folder", str(tmp_path / "out"), "--splits", "tt"]
        assert main([*arguments, "--task", "separate_clean_reverb", "--target", "reverb", "--check_samples"]) == 0
        assert "/s1_reverb/" in read(tmp_path / "out" / "whamr_tt.csv")[0]["s1_wav"]


class TestLibrimix:
    @pytest.mark.parametrize("num_spks", [2, 3])
    def test_rows(self, tmp_path, num_spks):
        manifests = prepare_librimix(write_librimix(tmp_path / "libri", num_spks), tmp_path / "out", num_spks)
        assert list(manifests) == ["train-100", "dev", "test"]
        assert manifests["dev"].endswith(f"libri{num_spks}mix_dev.csv")
        row, mixture_id = read(manifests["train-100"])[0], LIBRI_IDS[num_spks][0]
        top = f"$data_root/Libri{num_spks}Mix/wav8k/min/train-100"
        assert row.pop("mix_wav") == f"{top}/mix_clean/{mixture_id}.wav"
        assert row.pop(f"s{num_spks}_wav") == f"{top}/s{num_spks}/{mixture_id}.wav"
        assert row["ID"] == mixture_id and round(float(row["duration"]) * 8000) == FRAMES
        assert [row[f"s{i}_spk"] for i in range(1, num_spks + 1)] == {2: ["4077", "5142"], 3: ["1", "44", "7"]}[
            num_spks
        ]
        assert "noise_wav" not in row

    @pytest.mark.parametrize(
        "task, mixture, columns",
        [
            ("separate_noisy", "mix_both", ["s1_wav", "s2_wav", "noise_wav", "s1_spk", "s2_spk"]),
            ("enhance_single", "mix_single", ["s1_wav", "noise_wav", "s1_spk"]),
        ],
    )
    def test_tasks_with_noise(self, tmp_path, task, mixture, columns):
        row = read(prepare_librimix(write_librimix(tmp_path / "libri"), tmp_path / "out", task=task)["test"])[0]
        assert list(row) == ["ID", "duration", "sample_rate", "mix_wav", *columns]
        assert f"/test/{mixture}/" in row["mix_wav"]

    def test_a_third_speaker_is_no_noise(self, tmp_path):
        corpus = write_librimix(tmp_path / "libri", 3) / "Libri3Mix"
        fails(prepare_librimix, corpus, "has a folder 'wav8k/min/train-100/s3', but num_spks is 2: give that of the")

    def test_train_360_at_16_khz_and_max(self, tmp_path):
        root = write_librimix(tmp_path / "libri", splits=["train-360"], sample_rate=16000)
        (root / "Libri2Mix/wav8k").rename(root / "Libri2Mix/wav16k")
        (root / "Libri2Mix/wav16k/min").rename(root / "Libri2Mix/wav16k/max")
        manifests = prepare_librimix(root, tmp_path / "out", sample_rate=16000, mode="max", splits=["train-360"])
        assert "/wav16k/max/train-360/" in read(manifests["train-360"])[0]["mix_wav"]

    @pytest.mark.parametrize(
        "options, text",
        [
            ({"num_spks": 1}, "num_spks is 1: give 2 or more"),
            (
                {"splits": ["train"]},
                "split 'train' is not known: choose one of 'train-100', 'train-360', 'dev', 'test'",
            ),
            ({"task": "mix_both"}, "task 'mix_both' is not known"),
            ({"mode": "mid"}, "mode 'mid'"),
            ({"sample_rate": 44100}, "sample_rate 44100"),
            ({"num_spks": 3}, "this is the layout of Libri2Mix"),
        ],
    )
    def test_wrong_arguments(self, tmp_path, options, text):
        fails(prepare_librimix, write_librimix(tmp_path / "libri"), text, **options)

    @pytest.mark.parametrize("mixture_id", ["1-2-3_4-5", "1-2-3_a-5-6", "1-2-3_", "40na010x_1.9_01xo031a_-1.9"])
    def test_speakers_need_the_whole_pattern(self, mixture_id):
        assert librispeech_speakers(mixture_id) is None

    def test_command(self, tmp_path):
        root = write_librimix(tmp_path / "libri", 3)
        arguments = ["--data_folder", str(root), "--output_folder", str(tmp_path / "out"), "--splits", "dev"]
        assert main(["librimix", *arguments, "--num_spks", "3", "--task", "separate_noisy", "--check_samples"]) == 0
        assert len(read(tmp_path / "out" / "libri3mix_dev.csv")) == 2


class TestCustomFolders:
    @pytest.mark.parametrize("num_spks, noise", [(1, True), (2, False), (4, True)])
    def test_any_number_of_speakers(self, tmp_path, num_spks, noise):
        root = write_custom(tmp_path / "own", num_spks, noise)
        options = {"num_spks": num_spks, "noise": noise, "check_samples": True}
        row, second = read(prepare_custom(root, tmp_path / "out", **options)["cv"])
        assert (row["ID"], second["ID"]) == ("a", "b b")
        sources = [f"s{i}" for i in range(1, num_spks + 1)] + (["noise"] if noise else [])
        assert list(row) == ["ID", "duration", "sample_rate", "mix_wav", *(f"{source}_wav" for source in sources)]
        assert second["s1_wav"] == "$data_root/cv/s1/b b.wav"

    @pytest.mark.parametrize("extension, subtype", [("flac", "PCM_16"), ("FLAC", "PCM_24"), ("aiff", "PCM_16")])
    def test_other_formats(self, tmp_path, extension, subtype):
        root = write_custom(tmp_path / "own", extension=extension, subtype=subtype)
        row = read(prepare_custom(root, tmp_path / "out", check_samples=True)["tr"])[0]
        assert row["mix_wav"] == f"$data_root/tr/mix/a.{extension}"

    def test_formats_of_one_mixture_may_differ_and_losses_be_allowed(self, tmp_path):
        root = write_custom(tmp_path / "own")
        for path in root.glob("*/s1/*.wav"):
            soundfile.write(path.with_suffix(".ogg"), *soundfile.read(path), format="OGG", subtype="VORBIS")
            path.unlink()
        row = read(prepare_custom(root, tmp_path / "out", mixture_is_sum=False, check_samples=True)["tr"])[0]
        assert row["s1_wav"].endswith("a.ogg") and row["s2_wav"].endswith("a.wav")
        fails(prepare_custom, root, "6 mixtures unlike the sum of their parts", check_samples=True)

    @pytest.mark.parametrize("check_samples", [False, True])
    @pytest.mark.parametrize(
        "extension, subtype, text",
        [
            ("flac", "PCM_16", "tr/s1/a.flac is truncated: it ends within its last frame"),
            ("mp3", "MPEG_LAYER_III", "tr/s1/a.mp3 is truncated: it has "),
            ("ogg", "VORBIS", "tr/s1/a.ogg is truncated: its last page lacks "),
        ],
    )
    def test_truncated_compressed_file(self, tmp_path, extension, subtype, text, check_samples):
        root = write_custom(tmp_path / "own", extension=extension, subtype=subtype, frames=8000)
        options = {"mixture_is_sum": False, "check_samples": check_samples}
        assert len(prepare_custom(root, tmp_path / "whole", **options)) == 3
        path = root / "tr" / "s1" / f"a.{extension}"
        path.write_bytes(path.read_bytes()[:-700])
        fails(prepare_custom, root, "1 truncated files.\n", text, "needed the complete file", **options)

    def test_two_files_of_one_name(self, tmp_path):
        root = write_custom(tmp_path / "own")
        write_wav(root / "tr" / "s1" / "a.flac", subtype="PCM_16")
        fails(prepare_custom, root, "1 files of one name", "tr/s1/a.flac has the same name as a.wav")
        assert [row["ID"] for row in read(prepare_custom(root, tmp_path / "skip", on_invalid="skip")["tr"])] == ["b b"]

    def test_folder_missing(self, tmp_path):
        root = write_custom(tmp_path / "own", 2)
        fails(prepare_custom, root, "not laid out as custom data: it lacks tr/s3, cv/s3, tt/s3", num_spks=3)
        fails(prepare_custom, root, "should have a folder 'noise', and has: mix, s1, s2", noise=True)

    @pytest.mark.parametrize("layout", ["kinds", "mixtures"])
    def test_noise_that_would_not_be_used(self, tmp_path, layout):
        """The sum of the sources, which augmentation makes, would lack it."""
        root = write_custom(tmp_path / "own", noise=True)
        if layout == "mixtures":
            for path in sorted(root.glob("*/*/*.wav")):
                target = root.parent / "other" / path.parts[-3] / path.stem / f"{path.parts[-2]}.wav"
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
            root = root.parent / "other"
        fails(prepare_custom, root, "noise", "Give noise True (--noise for `python -m data_prep`)")
        prepare_custom(root, tmp_path / "out", noise=True)
        prepare_custom(root, tmp_path / "out", mixture_is_sum=False)

    @pytest.mark.parametrize("folder", ["tr", "tr/s2"])
    def test_folder_without_permission(self, tmp_path, folder):
        root = write_custom(tmp_path / "own")
        with closed(root / folder):
            fails(prepare_custom, root, f"can't be read (Permission denied): '{root / folder}'", "Allow reading it")

    def test_names_that_are_not_utf8(self, tmp_path):
        root = write_custom(tmp_path / "own")
        for path in sorted(root.glob("*/*/a.wav")):
            path.rename(path.with_name("caf\udce9.wav"))
        fails(prepare_custom, root, "caf\\udce9.wav': the name is not UTF-8, so no table can hold it. Rename it")

    def test_no_audio(self, tmp_path):
        for folder in ("mix", "s1", "s2"):
            (tmp_path / "own" / "tr" / folder).mkdir(parents=True)
        fails(
            prepare_custom,
            tmp_path / "own",
            "tr/mix holds no .wav, .flac, .ogg … file; needed at least one",
            splits=["tr"],
        )

    @pytest.mark.parametrize(
        "options, text",
        [
            ({"num_spks": 0}, "num_spks is 0: give 1 or more, at most 100"),
            ({"num_spks": 10**30}, f"num_spks is {10**30}: give 1 or more, at most 100"),
            ({"sample_rate": 0.5}, "sample_rate is 0.5: give a whole number, at least 1"),
            ({"splits": ["train"]}, "split 'train' is not known: choose one of 'tr', 'cv', 'tt'"),
            ({"sample_rate": 44100}, "has a sample rate of 8000 Hz; needed 44100 Hz"),
        ],
    )
    def test_wrong_arguments(self, tmp_path, options, text):
        fails(prepare_custom, write_custom(tmp_path / "own"), text, **options)

    def test_command(self, tmp_path):
        root = write_custom(tmp_path / "own", 3, noise=True, sample_rate=44100)
        arguments = [
            "custom",
            "--data_folder",
            str(root),
            "--output_folder",
            str(tmp_path / "out"),
            "--noise",
            "--check_samples",
        ]
        assert main([*arguments, "--num_spks", "3", "--sample_rate", "44100", "--mixture_is_not_sum"]) == 0
        assert read(tmp_path / "out" / "custom_tt.csv")[0]["sample_rate"] == "44100"


class TestCustomCsv:
    HEADER = "ID,split,mix_wav,s1_wav,s2_wav,s1_spk,s2_spk,remark"

    @pytest.fixture
    def root(self, tmp_path):
        return write_custom(tmp_path / "own")

    def row(self, split="tr", mixture_id="a", name="a", tail="ann,bob,fine"):
        return f"{mixture_id},{split},{split}/mix/{name}.wav,{split}/s1/{name}.wav,{split}/s2/{name}.wav,{tail}"

    def write(self, root, *rows, header=HEADER):
        path = root.parent / "list.csv"
        path.write_text("\n".join((header, *rows)) + "\n")
        return {"csv_file": str(path)}

    def test_rows(self, root, tmp_path):
        rows = [self.row("tr", "2"), self.row("tr", "10", "b b", "bob,cho,"), self.row("cv"), self.row("tt")]
        manifests = prepare_custom(root, tmp_path / "out", **self.write(root, *rows), check_samples=True)
        first, second = read(manifests["tr"])
        assert (first["ID"], second["ID"]) == ("10", "2")
        assert first["mix_wav"] == "$data_root/tr/mix/b b.wav" and first["s1_spk"] == "bob"
        assert "remark" not in first

    def test_shared_speakers(self, root, tmp_path, caplog):
        rows = [self.row("tr"), self.row("cv"), self.row("tt", tail="dan,ann,")]
        with caplog.at_level(logging.WARNING):
            prepare_custom(root, tmp_path / "out", **self.write(root, *rows))
        assert "1 speakers are both in training and in split 'tt' (ann)" in caplog.text

    def test_absolute_paths(self, root, tmp_path):
        files = f"{root}/tr/mix/a.wav,tr/s1/a.wav,{root}/tr/s2/a.wav"
        arguments = self.write(root, f"a,tr,{files}", header="ID,split,mix_wav,s1_wav,s2_wav")
        row = read(prepare_custom(root, tmp_path / "out", **arguments, splits=["tr"])["tr"])[0]
        assert row["mix_wav"] == "$data_root/tr/mix/a.wav" and "s1_spk" not in row

    def test_absolute_paths_may_lead_elsewhere(self, root, tmp_path):
        (tmp_path / "empty").mkdir()
        files = ",".join(f"{root}/tr/{folder}/a.wav" for folder in ("mix", "s1", "s2"))
        arguments = self.write(root, f"a,tr,{files}", header="ID,split,mix_wav,s1_wav,s2_wav")
        manifest = prepare_custom(tmp_path / "empty", tmp_path / "out", **arguments, splits=["tr"])["tr"]
        assert len(MixtureDataset(manifest, tmp_path / "empty")[0].mixture) == FRAMES

    def test_a_file_of_several_mixtures_is_counted_once(self, root):
        rows = [self.row(mixture_id=key).replace("tr/s2/a.wav", "tr/s2/none.wav") for key in "abc"]
        self.fails(root, rows, "3 mixtures checked: 1 missing files.")
        assert len(read(root.parent / "out" / "custom_problems.csv")) == 3

    def fails(self, root, rows, *parts, header=HEADER, **options):
        options = {"splits": ["tr"]} | options
        fails(prepare_custom, root, *parts, **self.write(root, *rows, header=header), **options)

    def test_file_missing(self, root):
        self.fails(
            root, [self.row(), self.row(mixture_id="b", name="b")], "3 missing files", "tr/mix/b.wav does not exist"
        )

    def test_id_given_twice(self, root):
        self.fails(root, [self.row(), self.row(name="b b")], "1 IDs given twice", "line 3 of", "needed one ID for each")

    def test_split_without_rows(self, root):
        self.fails(root, [self.row()], "list.csv' has no row of split 'cv' (cv or valid or val or", splits=["tr", "cv"])
        self.fails(root, [self.row("cv")], "1 no mixtures", "list.csv has no row of split 'tr'", splits=["tr"])

    def test_columns_missing(self, root):
        self.fails(root, [], "lacks the columns s3_wav, noise_wav; found ID, split", num_spks=3, noise=True)

    @pytest.mark.parametrize("column", ["noise_wav", "s3_wav", "s1_speaker_spk"])
    def test_columns_that_would_not_be_used(self, root, column):
        self.fails(root, [], f"has columns that would not be used: {column}; needed", header=f"{self.HEADER},{column}")

    def test_empty_cell(self, root):
        self.fails(root, [self.row(), "x,tr,tr/mix/a.wav,"], "line 3 of", "s1_wav, s2_wav is empty or missing")

    @pytest.mark.parametrize(
        "tail, message",
        [
            ("ann,,", "line 3 of list.csv: s2_spk is empty; give the row all its speakers, or none"),
            (",,", "1 of 2 mixtures of split 'tr' have no speakers: b. Give those of all or of none"),
        ],
    )
    def test_speakers_of_some_mixtures(self, root, tail, message):
        """The manifest would lose those that are known."""
        rows = [self.row(), self.row(mixture_id="b", name="b b", tail=tail)]
        self.fails(root, rows, message.replace("list.csv", str(root.parent / "list.csv")))

    def test_unknown_split(self, root):
        self.fails(root, [self.row("x")], "line 2 of", "split 'x' is not known: give tr or train or training; cv or")

    def test_no_such_csv(self, root):
        fails(prepare_custom, root, "csv_file 'none.csv' can't be read", "give the path of a CSV", csv_file="none.csv")

    def test_no_such_folder(self, root):
        fails(prepare_custom, root / "none", "does not exist", **self.write(root, self.row()))

    def test_command(self, root, tmp_path):
        arguments = ["--data_folder", str(root), "--output_folder", str(tmp_path / "out"), "--splits", "tr"]
        assert main(["custom", *arguments, "--csv_file", self.write(root, self.row())["csv_file"]]) == 0
        assert len(read(tmp_path / "out" / "custom_tr.csv")) == 1
