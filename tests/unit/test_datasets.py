"""Reading manifests, crops, and batches."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mossformer_sb.data.audio_writing import write_audio
from mossformer_sb.data.augmentation import Augmentation
from mossformer_sb.data.datasets import Mixture, MixtureDataset, SeparationBatch
from mossformer_sb.data.manifests import read_manifest
from mossformer_sb.data.training_data import training_data
from mossformer_sb.errors import InputError

RATE = 8000


@pytest.fixture
def corpus(tmp_path):
    """Ten recordings of 1.0 to 1.9 s whose samples count up, so that a crop shows where it was cut."""
    rows = ["ID,duration,sample_rate,mix_wav,s1_wav,s2_wav"]
    for index in range(10):
        length = RATE + 800 * index
        ramp = np.arange(length) / 2**15
        for kind, samples in (("mix", ramp), ("s1", ramp / 2), ("s2", ramp / 2)):
            write_audio(tmp_path / f"{index}_{kind}.wav", samples, RATE)
        paths = ",".join(f"$data_root/{index}_{kind}.wav" for kind in ("mix", "s1", "s2"))
        rows.append(f"{index},{length / RATE},{RATE},{paths}")
    (tmp_path / "tr.csv").write_text("\n".join(rows))
    return tmp_path


def dataset(corpus, **arguments):
    return MixtureDataset(corpus / "tr.csv", corpus, **{"segment": 0.5, "seed": 3, **arguments})


class TestDataset:
    def test_whole_recordings(self, corpus):
        item = dataset(corpus, segment=None)[3]
        assert item.id == "3"
        assert item.mixture.shape == (RATE + 2400,) and item.sources.shape == (RATE + 2400, 2)
        torch.testing.assert_close(item.sources.sum(1), item.mixture)

    def test_crops_of_all_signals_agree(self, corpus):
        item = dataset(corpus)[3]
        assert item.mixture.shape == (RATE // 2,)
        torch.testing.assert_close(item.sources.sum(1), item.mixture)

    def test_short_recordings_are_taken_whole(self, corpus):
        assert dataset(corpus, segment=1.5)[2].mixture.shape == (RATE + 1600,)

    def test_crops_depend_on_seed_epoch_and_index_only(self, corpus):
        one, two = dataset(corpus), dataset(corpus)
        two[5]  # what was drawn before does not matter
        assert torch.equal(one[4].mixture, two[4].mixture)
        two.set_epoch(1)
        assert not torch.equal(one[4].mixture, two[4].mixture)
        assert not torch.equal(one[4].mixture, dataset(corpus, seed=4)[4].mixture)

    def test_crops_reach_both_ends(self, corpus):
        data = dataset(corpus, segment=0.999)  # 9 possible places in the first recording
        starts = set()
        for epoch in range(200):
            data.set_epoch(epoch)
            starts.add(round(data[0].mixture[0].item() * 2**15))
        assert starts == set(range(9))

    @pytest.mark.parametrize("context", ["fork", "spawn"])
    def test_workers_make_the_same_items(self, corpus, context):
        data = dataset(corpus)

        def epoch_of(workers, **arguments):
            loader = DataLoader(data, 4, collate_fn=SeparationBatch.collate, num_workers=workers, **arguments)
            return torch.cat([batch.mixture for batch in loader])

        alone = epoch_of(0)
        workers = {"multiprocessing_context": context, "persistent_workers": True}
        loader = DataLoader(data, 4, collate_fn=SeparationBatch.collate, num_workers=2, **workers)
        assert torch.equal(torch.cat([batch.mixture for batch in loader]), alone)
        data.set_epoch(1)  # workers that live on see it
        assert torch.equal(torch.cat([batch.mixture for batch in loader]), epoch_of(0))

    def test_picklable(self, corpus):
        data = pickle.loads(pickle.dumps(dataset(corpus)))
        assert torch.equal(data[1].mixture, dataset(corpus)[1].mixture)

    def test_rate_must_fit(self, corpus):
        with pytest.raises(InputError, match=r"tr.csv: recordings have \[8000\] Hz, but sample_rate is 16000"):
            dataset(corpus, sample_rate=16000)

    def test_segment_must_be_positive(self, corpus):
        with pytest.raises(InputError, match="segment must be a length in seconds"):
            dataset(corpus, segment=0)

    @pytest.mark.parametrize(("channels", "rate"), [(2, RATE), (1, 2 * RATE)])
    def test_a_file_of_another_kind_is_named(self, corpus, channels, rate):
        data = dataset(corpus, segment=None)  # looks at some of the files
        write_audio(corpus / "3_s2.wav", np.zeros((RATE + 2400, channels)).squeeze(), rate)
        with pytest.raises(InputError, match=rf"3_s2.wav: has {channels} channels at {rate} Hz; .*tr.csv needs one at"):
            data[3]

    @pytest.mark.parametrize("is_sum", ["true", "false"])
    @pytest.mark.parametrize(("channels", "rate"), [(2, RATE), (1, 2 * RATE)])
    def test_augmentation_does_not_take_a_file_of_another_kind(self, corpus, is_sum, channels, rate):
        (corpus / "tr.json").write_text(f'{{"mixture_is_sum": {is_sum}}}')
        augmentation = Augmentation("continuous")
        data = training_data(corpus / "tr.csv", corpus, segment=None, augmentation=augmentation)
        write_audio(corpus / "3_s2.wav", np.zeros((RATE + 2400, channels)).squeeze(), rate)
        with pytest.raises(InputError, match=rf"3_s2.wav: has {channels} channels at {rate} Hz; .*tr.csv needs one at"):
            data[3]

    def test_a_shift_is_shorter_than_a_segment(self, corpus):
        (corpus / "tr.json").write_text('{"mixture_is_sum": true}')
        files = corpus / "tr.csv", corpus
        training_data(*files, segment=0.5, augmentation=Augmentation(random_shift=0.49))
        with pytest.raises(InputError, match="random_shift 0.5 s is as long as the segments of 0.5 s"):
            training_data(*files, segment=0.5, augmentation=Augmentation(random_shift=0.5))

    def test_a_file_that_shrank_is_named(self, corpus):
        write_audio(corpus / "3_s2.wav", np.zeros(100), RATE)
        with pytest.raises(InputError, match=r"3_s2.wav: has 100 frames, expected \d+"):
            dataset(corpus, segment=None)[3]


class TestManifest:
    def test_number_of_speakers_must_fit(self, corpus):
        with pytest.raises(InputError, match=r"tr.csv: column s3_wav is missing.*num_spks: 3"):
            read_manifest(corpus / "tr.csv", corpus, num_spks=3)
        with pytest.raises(InputError, match=r"has a column s2_wav, but num_spks is 1"):
            read_manifest(corpus / "tr.csv", corpus, num_spks=1)

    def test_absent(self, tmp_path):
        with pytest.raises(InputError, match="no such manifest. Prepare the data first"):
            read_manifest(tmp_path / "none.csv", tmp_path)

    def test_empty(self, tmp_path):
        (tmp_path / "tr.csv").write_text("ID,duration,sample_rate,mix_wav,s1_wav\n")
        with pytest.raises(InputError, match="has no rows"):
            read_manifest(tmp_path / "tr.csv", tmp_path)

    def test_ids_stay_text(self, tmp_path):
        (tmp_path / "tr.csv").write_text("ID,duration,sample_rate,mix_wav,s1_wav\n007,1.0,8000,a,b\nNA,1.0,8000,a,b\n")
        assert read_manifest(tmp_path / "tr.csv", tmp_path)["ID"].tolist() == ["007", "NA"]


class TestBatch:
    def items(self, *lengths):
        return [Mixture(str(length), torch.ones(length), torch.ones(length, 2)) for length in lengths]

    def test_padding(self):
        batch = SeparationBatch.collate(self.items(5, 3))
        assert batch.mixture.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
        assert batch.sources.shape == (2, 5, 2)
        assert batch.padded_lengths.tolist() == [5, 3] and len(batch) == 2

    def test_equal_lengths_need_no_masking(self):
        assert SeparationBatch.collate(self.items(5, 5)).padded_lengths is None

    def test_to_moves_in_place(self):
        batch = SeparationBatch.collate(self.items(5))
        assert batch.to("meta") is batch and batch.mixture.device.type == "meta"
