"""Tables of any spreadsheet say the same, and what can't be understood has one message with the likely cause."""

import csv
import os
import sys

import numpy as np
import pytest
import soundfile

from data_prep.corpora.custom import prepare_custom
from mossformer_sb.data.datasets import MixtureDataset
from mossformer_sb.data.manifests import read_manifest
from mossformer_sb.data.tables import likely_cause, read_table, resolve_path
from mossformer_sb.errors import InputError
from tests.unit.trees import FRAMES, write_custom, write_wav

ROWS = [["ID", "split", "mix_wav"], ["001", "tr", "a, b.wav"], ["é", "cv", 'say "a".wav']]


def content(separator=",", end="\n", encoding="utf-8", quoting=csv.QUOTE_MINIMAL, rows=ROWS):
    def cell(text):
        quoted = quoting == csv.QUOTE_ALL or separator in text or '"' in text
        return '"' + text.replace('"', '""') + '"' if quoted else text

    return "".join(separator.join(map(cell, row)) + end for row in rows).encode(encoding)


def expected(rows=ROWS):
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


class TestReading:
    @pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
    def test_forms(self, tmp_path, separator, end, encoding):
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
            (tmp_path / "t.csv").write_bytes(content(separator, end, encoding, quoting))
            assert read_table(tmp_path / "t.csv")[:2] == (ROWS[0], expected())

    def test_another_encoding_is_logged(self, tmp_path, caplog):
        (tmp_path / "t.csv").write_bytes(content(encoding="cp1252"))
        read_table(tmp_path / "t.csv")
        assert "is not in UTF-8: read as Windows-1252" in caplog.text

    def test_blanks_blank_lines_and_numbers_of_lines(self, tmp_path):
        (tmp_path / "t.csv").write_text("\n ID , split\n\n a , tr \n   \nb,\n")
        assert read_table(tmp_path / "t.csv") == (
            ["ID", "split"],
            [{"ID": "a", "split": "tr"}, {"ID": "b", "split": ""}],
            [4, 6],
        )

    def test_the_line_with_which_a_spreadsheet_names_the_separator(self, tmp_path):
        (tmp_path / "t.csv").write_text("sep=;\nID;a,b\n1;2,5\n")
        assert read_table(tmp_path / "t.csv") == (["ID", "a,b"], [{"ID": "1", "a,b": "2,5"}], [3])

    def test_separators_at_the_end_of_every_line(self, tmp_path):
        (tmp_path / "t.csv").write_text("ID,split,\na,tr,\n")
        assert read_table(tmp_path / "t.csv")[:2] == (["ID", "split"], [{"ID": "a", "split": "tr"}])

    def test_known_columns_in_any_case(self, tmp_path):
        (tmp_path / "t.csv").write_text("id,Mix_WAV,S1_spk,Own\n")
        assert read_table(tmp_path / "t.csv")[0] == ["ID", "mix_wav", "s1_spk", "Own"]

    @pytest.mark.parametrize(
        "text, message",
        [
            (b"", "is empty: expected the names of the columns"),
            (b"ID,a\n1,2,3\n", "line 2: has 3 values for 2 columns"),
            (b'ID,a\n1,"2\n3,4\n', "can't be split into values .*Check that double quotes are closed"),
            (b"ID,a,a\n", "has more than one column called 'a'"),
            (b"ID,a\n1,\x81\x00\xff\x00\x00", "is not text"),
            (b"ID,\x81\n", "is not text"),
            (b"\xff\xfeI", "is not text"),
        ],
    )
    def test_messages(self, tmp_path, text, message):
        (tmp_path / "t.csv").write_bytes(text)
        with pytest.raises(InputError, match=message):
            read_table(tmp_path / "t.csv", "list")
        with pytest.raises(InputError, match="list '.*none.csv' can't be read"):
            read_table(tmp_path / "none.csv", "list")


class TestPaths:
    def test_backslashes_variables_home_and_folders(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", "/home/me")
        assert resolve_path("~/a.wav", None) == "/home/me/a.wav"
        assert resolve_path("$data_root\\tr\\a.wav", "~/d") == "/home/me/d/tr/a.wav"
        assert (
            resolve_path(".\\tr\\a.wav", None, "/l") == "/l/./tr/a.wav"
            and resolve_path("/a.wav", "/d", "/l") == "/a.wav"
        )
        monkeypatch.chdir(tmp_path)
        (tmp_path / "a\\b.wav").touch()  # that is its name
        assert resolve_path("a\\b.wav", None) == "a\\b.wav"
        with pytest.raises(InputError, match=r"\$data_root is not set"):
            resolve_path("$data_root/a.wav", None)

    def test_likely_causes(self, tmp_path):
        write_wav(tmp_path / "new" / "tr" / "mix" / "a.wav")
        told = likely_cause("/old/place/tr/mix/a.wav", tmp_path / "new")
        assert "replace '/old/place' with '$data_root'" in told and str(tmp_path / "new/tr/mix/a.wav") in told
        assert "Windows path" in likely_cause("C:\\data\\a.wav") and likely_cause("/none/a.wav", tmp_path) == ""


class TestManifests:
    HEADER = "ID,duration,sample_rate,mix_wav,s1_wav,s2_wav"

    @pytest.fixture
    def folder(self, tmp_path):
        for name in ("m", "s1", "s2"):
            write_wav(tmp_path / f"{name}.wav")
        return tmp_path

    def data(self, folder, text, root=None, **options):
        (folder / "t.csv").write_text(text)
        return MixtureDataset(folder / "t.csv", folder if root is None else root, **options)

    def row(self, duration=FRAMES / 8000, rate=8000):
        return f"{self.HEADER}\na,{duration},{rate},$data_root/m.wav,$data_root/s1.wav,$data_root/s2.wav\n"

    @pytest.mark.parametrize("frames", [FRAMES - 1, FRAMES + 1, 800, 8000])
    def test_a_file_of_another_length(self, folder, frames):
        with pytest.raises(InputError, match=rf"m.wav: has {FRAMES} frames, expected {frames}"):
            self.data(folder, self.row(frames / 8000))

    def test_stereo(self, folder):
        soundfile.write(folder / "s2.wav", np.zeros((FRAMES, 2)), 8000)
        with pytest.raises(InputError, match=r"s2.wav: has 2 channels; .*t.csv needs files of one channel"):
            self.data(folder, self.row())

    def test_one_that_is_found_when_it_is_read(self, folder, monkeypatch):
        monkeypatch.setattr("mossformer_sb.data.datasets.check_lengths", lambda *arguments: None)
        with pytest.raises(InputError, match=rf"has {FRAMES} frames, expected 800.*remove the column duration"):
            self.data(folder, self.row(0.1))[0]

    def test_trim(self, folder):
        short = self.row((FRAMES - 3) / 8000)
        with pytest.raises(InputError, match="--trim 3 removes these samples"):
            self.data(folder, short)
        with pytest.raises(InputError, match="--trim 3"):
            self.data(folder, short, trim=2)
        assert len(self.data(folder, short, trim=3)[0].mixture) == FRAMES - 3
        with pytest.raises(InputError, match="expected 1602"):
            self.data(folder, self.row(1602 / 8000), trim=5)
        with pytest.raises(InputError, match="trim is -1: give a number of samples"):
            self.data(folder, self.row(), trim=-1)

    def test_lengths_from_the_files_where_the_table_has_none(self, folder):
        data = self.data(folder, "ID,mix_wav,s1_wav,s2_wav\na,$data_root/m.wav,$data_root/s1.wav,$data_root/s2.wav\n")
        assert data.table["num_samples"].tolist() == [FRAMES] and len(data[0].mixture) == FRAMES

    def test_tables_of_speechbrain_recipes(self, folder, caplog):
        caplog.set_level("INFO")
        names = ("m", "s1", "s2")
        columns = [f"{kind}_wav{more}" for kind in ("mix", "s1", "s2") for more in ("", "_format", "_opts")]
        cells = [cell for name in names for cell in (str(folder / f"{name}.wav"), "wav", "")]
        data = self.data(folder, ",".join(["ID", "duration", *columns]) + "\n" + ",".join(["0", "1.0", *cells]) + "\n")
        assert data.table["num_samples"].tolist() == [FRAMES] and data.table["sample_rate"].tolist() == [8000]
        assert len(data[0].mixture) == FRAMES and "read from the files, not from the table" in caplog.text

    @pytest.mark.parametrize(
        "text, message",
        [
            ("ID;x\na;b\n", "column mix_wav, s1_wav, s2_wav is missing; found ID, x. Check that num_spks: 2 is right"),
            ("ID mix_wav s1_wav\n", "values of a line are separated by commas, semicolons or tabs"),
            ("mixture_ID,mixture_path,source_1_path,length\n", "one of LibriMix's own tables"),
            (HEADER + "\na,x,8000,m,s,s\n", "duration of 'a' is 'x'; expected a number above zero"),
            (HEADER + "\na,1,-8000,m,s,s\n", "sample_rate of 'a' is '-8000'; expected a number above zero"),
            (HEADER + "\na,nan,8000,m,s,s\n", "duration of 'a' is 'nan'"),
            (HEADER + "\na,1,8000,m,,s\n", "s1_wav of mixture 1 is empty"),
            (HEADER + "\na,1,8000,m,s,s\na,1,8000,m,s,s\n", "the ID a occurs twice"),
            ("ID,mix_wav,s1_wav,s2_wav\na,/no/m.wav,s,s\n", "/no/m.wav does not exist"),
        ],
    )
    def test_messages(self, folder, text, message):
        (folder / "t.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            read_manifest(folder / "t.csv", folder, 2)

    def test_the_rate_of_all_recordings_is_advised(self, folder):
        with pytest.raises(InputError, match="but sample_rate is 16000. Give --sample_rate 8000."):
            self.data(folder, self.row(), sample_rate=16000)

    def test_decimal_commas(self, folder):
        text = self.row().replace(",", ";").replace(str(FRAMES / 8000), str(FRAMES / 8000).replace(".", ","))
        assert self.data(folder, text).table["num_samples"].tolist() == [FRAMES]

    def test_home_folder(self, folder, monkeypatch):
        monkeypatch.setenv("HOME", str(folder))
        assert len(self.data(folder, self.row(), root="~")[0].mixture) == FRAMES
        assert len(MixtureDataset("~/t.csv", "~")[0].mixture) == FRAMES


class TestOwnTables:
    """Lists of one's own data."""

    def prepare(self, tmp_path, text, root=None, encoding="utf-8", **options):
        (tmp_path / "list.csv").write_bytes(text.encode(encoding))
        return prepare_custom(root, tmp_path / "out", csv_file=str(tmp_path / "list.csv"), **options)

    def table(self, root, split=str, path=str, separator=","):
        lines = [["ID", "split", "mix_wav", "s1_wav", "s2_wav"]]
        for number, name in enumerate(("tr", "cv", "tt")):
            for stem in ("a", "b b"):
                files = [path(f"{root}/{name}/{kind}/{stem}.wav") for kind in ("mix", "s1", "s2")]
                lines.append([f"{number}{stem}", split(name), *files])
        return "\n".join(separator.join(line) for line in lines) + "\n"

    def test_absolute_paths_need_no_data_folder(self, tmp_path):
        root = write_custom(tmp_path / "own")
        manifests = self.prepare(tmp_path, self.table(root))
        data = MixtureDataset(manifests["tr"], None)
        assert len(data) == 2 and len(data[0].mixture) == FRAMES
        assert data.table["mix_wav"][0] == f"{root}/tr/mix/a.wav"

    def test_a_data_folder_that_is_a_link(self, tmp_path):
        root, link = write_custom(tmp_path / "deep" / "own"), tmp_path / "link"
        (tmp_path / "deep" / "empty").mkdir()
        link.symlink_to(tmp_path / "deep" / "empty", target_is_directory=True)
        (tmp_path / "list.csv").write_text(self.table(root))
        manifests = prepare_custom(link, tmp_path / "out", csv_file=tmp_path / "list.csv")
        assert len(MixtureDataset(manifests["tr"], link)[0].mixture) == FRAMES

    def test_relative_paths_are_those_of_the_table_then(self, tmp_path):
        write_custom(tmp_path / "own")
        manifests = self.prepare(tmp_path, self.table("own", separator=";"), encoding="utf-16")
        assert len(MixtureDataset(manifests["cv"], None)[1].mixture) == FRAMES

    @pytest.mark.parametrize("form", ["$data_root/{}", "./{}", "$data_root\\{}", "{}"])
    def test_ways_to_write_a_path(self, tmp_path, form):
        root = write_custom(tmp_path / "own")
        table = self.table("", path=lambda path: form.format(path[1:].replace("/", "\\" if "\\" in form else "/")))
        first = MixtureDataset(self.prepare(tmp_path, table, root)["tr"], root)
        assert os.path.normpath(first.table["mix_wav"][0]) == str(root / "tr/mix/a.wav")
        assert '"$data_root/tr/mix' in '"' + (tmp_path / "out/custom_tr.csv").read_text().split("\n")[1].split(",")[3]

    @pytest.mark.parametrize("names", [("train", "valid", "test"), ("Train", "val", "TEST"), ("training", "dev", "tt")])
    def test_names_of_splits(self, tmp_path, names):
        root = write_custom(tmp_path / "own")
        table = self.table(root, split=dict(zip(("tr", "cv", "tt"), names, strict=True)).get)
        assert list(self.prepare(tmp_path, table, root)) == ["tr", "cv", "tt"]

    def test_moved_recordings(self, tmp_path):
        root = write_custom(tmp_path / "own")
        with pytest.raises(InputError, match=r"18 missing files(.|\n)*replace '/old/own' with '\$data_root'"):
            self.prepare(tmp_path, self.table("/old/own"), root)

    def test_a_manifest_in_place_of_a_list(self, tmp_path):
        message = "lacks the columns split; .* It is a manifest, of one split"
        with pytest.raises(InputError, match=message):
            self.prepare(tmp_path, "ID,duration,sample_rate,mix_wav,s1_wav,s2_wav\n", tmp_path)

    def test_nothing_is_given(self, tmp_path):
        with pytest.raises(InputError, match="data_folder is missing: give the folder of the data, or a csv"):
            prepare_custom(None, tmp_path)


class TestFolders:
    @pytest.mark.parametrize("names", [("train", "valid", "test"), ("train", "dev", "test"), ("tr", "val", "tt")])
    def test_names_of_splits(self, tmp_path, names):
        root = write_custom(tmp_path / "own")
        for split, name in zip(("tr", "cv", "tt"), names, strict=True):
            (root / split).rename(root / name)
        manifests = prepare_custom(root, tmp_path / "out")
        assert f"$data_root/{names[1]}/mix/" in (tmp_path / "out/custom_cv.csv").read_text()
        assert len(MixtureDataset(manifests["cv"], root)) == 2

    def one_folder_a_mixture(self, root, signals=("mixture", "s1", "s2"), splits=("tr", "cv", "tt")):
        for split in splits:
            for number in range(2):
                for signal in signals:
                    write_wav(root / split / f"mix_{number:05}" / f"{signal}.wav")
        return root

    @pytest.mark.parametrize(
        "signals", [("mixture", "s1", "s2"), ("mix", "spk1", "spk2"), ("mix", "source1", "source2")]
    )
    def test_one_folder_a_mixture(self, tmp_path, signals):
        root = self.one_folder_a_mixture(tmp_path / "own", signals, ("train", "valid", "test"))
        data = MixtureDataset(prepare_custom(root, tmp_path / "out")["tt"], root)
        assert data.table["ID"].tolist() == ["mix_00000", "mix_00001"]
        assert data.table["s2_wav"][1] == str(root / "test" / "mix_00001" / f"{signals[2]}.wav")

    @pytest.mark.skipif(sys.platform != "linux", reason="names are text")
    def test_problems_of_a_name_that_is_not_utf_8(self, tmp_path):
        root = self.one_folder_a_mixture(tmp_path / "own")
        name = os.fsdecode(b"caf\xe9")
        (root / "tr" / "mix_00000").rename(root / "tr" / name)
        (root / "tr" / name / "s2.wav").unlink()
        with pytest.raises(InputError, match=r"tr/caf.udce9/s2 does not exist; found mixture, s1 there"):
            prepare_custom(root, tmp_path / "out")
        manifests = prepare_custom(root, tmp_path / "out", on_invalid="skip")
        assert read_manifest(manifests["tr"], root)["ID"].tolist() == ["mix_00001"]

    def test_problems_of_such_folders_are_listed(self, tmp_path):
        root = self.one_folder_a_mixture(tmp_path / "own")
        (root / "tr/mix_00000/s2.wav").unlink()
        write_wav(root / "tr/mix_00001/s1.flac", subtype="PCM_16")
        write_wav(root / "cv/mix_00000/s3.wav")
        (root / "tt/mix_00000/mixture.wav").unlink()
        with pytest.raises(InputError) as caught:
            prepare_custom(root, tmp_path / "out")
        for part in (
            "2 missing files, 1 files of one name, 1 sources too many",
            "tr/mix_00000/s2 does not exist; found mixture, s1 there",
            "tr/mix_00001/s1.flac has the same name as s1.wav",
            "cv/mix_00000/s3.wav is one source more than num_spks, 2",
            "tt/mix_00000/mix does not exist; found s1, s2 there",
        ):
            assert part in str(caught.value)
        manifests = prepare_custom(root, tmp_path / "out", on_invalid="skip", splits=("cv", "tt"))
        assert [len(read_manifest(path, root)) for path in manifests.values()] == [1, 1]

    def test_more_sources_than_speakers(self, tmp_path):
        root = write_custom(tmp_path / "own", num_spks=3)
        with pytest.raises(InputError, match="has a folder 's3', but num_spks is 2: give that of the data"):
            prepare_custom(root, tmp_path / "out")


class TestAdvice:
    def test_all_files_have_another_rate(self, tmp_path):
        root = write_custom(tmp_path / "own", sample_rate=16000)
        message = (
            "18 wrong sample rates(.|\n)*All files have 16000 Hz, and sample_rate is 8000: give --sample_rate 16000."
        )
        for on_invalid in ("error", "skip"):
            with pytest.raises(InputError, match=message if on_invalid == "error" else "give --sample_rate 16000"):
                prepare_custom(root, tmp_path / "out", on_invalid=on_invalid)
        assert list(prepare_custom(root, tmp_path / "out", sample_rate=16000)) == ["tr", "cv", "tt"]

    def test_no_such_advice_where_rates_differ(self, tmp_path):
        root = write_custom(tmp_path / "own", sample_rate=16000)
        write_wav(root / "tr/s1/a.wav", sample_rate=44100)
        with pytest.raises(InputError, match="Repair these files"):
            prepare_custom(root, tmp_path / "out")

    def test_files_that_differ_by_some_samples(self, tmp_path):
        root = write_custom(tmp_path / "own")
        signal, _ = soundfile.read(root / "tr/s1/a.wav")
        soundfile.write(root / "tr/s1/a.wav", signal[:-5], 8000, subtype="FLOAT")
        with pytest.raises(InputError, match="2 different lengths|1 different lengths") as caught:
            prepare_custom(root, tmp_path / "out")
        assert "The files of a mixture differ by 5 samples at most: --trim 5 cuts all to the shortest." in str(
            caught.value
        )
        with pytest.raises(InputError, match="--trim 5"):
            prepare_custom(root, tmp_path / "out", trim=4)
        manifests = prepare_custom(root, tmp_path / "out", trim=5, check_samples=True)
        item = MixtureDataset(manifests["tr"], root, trim=5)[0]
        assert len(item.mixture) == FRAMES - 5 and np.allclose(item.sources[:, 0], signal[:-5])

    def test_no_such_advice_where_they_differ_much(self, tmp_path):
        root = write_custom(tmp_path / "own")
        write_wav(root / "tr/s1/a.wav", frames=FRAMES // 2)
        with pytest.raises(InputError, match="Repair these files") as caught:
            prepare_custom(root, tmp_path / "out")
        assert "--trim" not in str(caught.value)
