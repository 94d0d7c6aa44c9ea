"""All of an audio file is read, or an error says what is missing; the same wherever it is read."""

import logging
import time

import numpy as np
import pytest
import soundfile

from data_prep.generate.reading import count_frames
from data_prep.generate.recordings import name_noise
from data_prep.manifests.checks import Fault, read_header
from data_prep.manifests.source_tables import measure_noise
from mossformer_sb.data.audio_io import Recording, read_audio
from mossformer_sb.data.audio_reader import AudioReader, _notify
from mossformer_sb.data.containers.sizes import is_placeholder
from mossformer_sb.data.containers.survey import survey_file
from mossformer_sb.data.resampling import SpeedResampler
from mossformer_sb.errors import InputError
from tests.unit.sound_files import (
    ID3V1,
    encode,
    id3v2,
    mp3,
    mp3_frames,
    ogg_pages,
    with_flac_total,
    with_wav_size,
    without_tag,
)

FRAMES = 12000
WAV = encode("WAV", "PCM_16")
FLAC = encode("FLAC", "PCM_16", 40000)  # ten frames
OGG = encode("OGG", "VORBIS", 40000)
KINDS = [(8000, "VARIABLE", 1), (16000, "VARIABLE", 2), (44100, "CONSTANT", 1), (44100, "VARIABLE", 2)]


@pytest.fixture(autouse=True)
def nothing_was_said():
    _notify.cache_clear()


def blocks(content, size=5000):
    return np.concatenate(list(Recording(content)._blocks(size)))


def two_dimensional(samples):
    return samples.reshape(len(samples), -1)


def same_everywhere(path, content):
    """The samples [T, C] of a file: of its path, of its bytes, of its parts."""
    path.write_bytes(content)
    samples, rate = read_audio(path)
    samples = two_dimensional(samples)
    assert np.abs(blocks(content) - samples).max() < 1e-6
    header = read_header(path)
    assert (header.frames, header.sample_rate, header.channels) == (len(samples), rate, samples.shape[1])
    assert count_frames(path, resample=True) == -(-len(samples) * 16000 // rate)
    assert measure_noise((str(path), None)) == (str(path), len(samples), rate)
    for start in np.random.default_rng(0).integers(0, len(samples) - 1000, 8):
        part = two_dimensional(read_audio(path, start, 1000)[0])
        assert np.abs(part - samples[start : start + 1000]).max() < 1e-6
    return samples


def refused_everywhere(path, content, message):
    path.write_bytes(content)
    ways = [
        lambda: read_audio(path),
        lambda: read_audio(path, 10, 10),
        lambda: Recording(path),
        lambda: Recording(content),
        lambda: count_frames(path, resample=True),
        lambda: measure_noise((str(path), None)),
        lambda: SpeedResampler.between(16000, 8000).read(path, 8000, 100, 100),
    ]
    for read in ways:
        with pytest.raises(InputError, match=message):
            read()
    header = read_header(path)
    assert isinstance(header, Fault) and message in header.text
    return header.kind


class TestMp3:
    @pytest.fixture(params=KINDS, ids=str)
    def content(self, request):
        rate, mode, channels = request.param
        return mp3(mode, rate=rate, channels=channels)

    @pytest.fixture
    def whole(self, content, tmp_path):
        """What libsndfile reads at once of a file with a right tag."""
        (tmp_path / "whole.mp3").write_bytes(content)
        samples = soundfile.read(tmp_path / "whole.mp3", dtype="float32", always_2d=True)[0]
        assert len(samples) == 6 * soundfile.info(tmp_path / "whole.mp3").samplerate
        return samples

    def of_all_frames(self, content, frames):
        version = content[1] >> 3 & 3
        return frames * (1152 if version == 3 else 576)

    def test_as_it_is(self, content, whole, tmp_path):
        assert np.abs(same_everywhere(tmp_path / "a.mp3", content) - whole).max() < 1e-6

    @pytest.mark.parametrize("between", [b"", ID3V1 + id3v2()], ids=["joined", "with tags between"])
    def test_joined(self, content, whole, tmp_path, between):
        samples = same_everywhere(tmp_path / "a.mp3", content + between + content)
        assert len(samples) == 2 * len(whole)
        assert np.abs(samples - np.concatenate([whole, whole])).max() < 1e-6

    @pytest.mark.parametrize("before, behind", [(b"", b""), (id3v2(), ID3V1)], ids=["bare", "between tags"])
    def test_without_a_tag(self, content, whole, tmp_path, before, behind):
        samples = same_everywhere(tmp_path / "a.mp3", before + without_tag(content) + behind)
        assert len(samples) == self.of_all_frames(content, len(mp3_frames(content)) - 1)
        delay = 529 + 576  # samples, of decoder and encoder: what the tag would have cut off
        assert np.abs(samples[delay : delay + len(whole)] - whole).max() < 1e-6

    def test_joined_to_one_without_a_tag(self, content, whole, tmp_path):
        samples = same_everywhere(tmp_path / "a.mp3", content + without_tag(content))
        assert len(samples) == len(whole) + self.of_all_frames(content, len(mp3_frames(content)) - 1)

    def test_cut_out_of_a_stream(self, content, tmp_path, caplog):
        frames = mp3_frames(content)
        samples = same_everywhere(tmp_path / "a.mp3", content[frames[5][0] + 7 : frames[-1][0] + 20])
        assert len(samples) == self.of_all_frames(content, len(frames) - 7)
        assert "a.mp3: ends within an MPEG frame (20 bytes of it exist)" in caplog.text
        assert "bytes between its MPEG frames or at its ends that are not audio" in caplog.text
        assert len([record for record in caplog.records if "a.mp3" in record.message]) == 2  # not at each reading

    def test_something_else_in_the_middle(self, content, tmp_path, caplog):
        start = mp3_frames(without_tag(content))[50][0]
        bare = without_tag(content)
        samples = same_everywhere(tmp_path / "a.mp3", bare[:start] + bytes(5000) + bare[start:])
        assert len(samples) == len(blocks(bare)) and "has 5000 bytes between its MPEG frames" in caplog.text

    @pytest.mark.parametrize("lost", [1, 3000])
    def test_truncated(self, content, tmp_path, lost):
        kind = refused_everywhere(tmp_path / "a.mp3", content[:-lost], "is truncated: it has ")
        assert kind == "truncated files"

    def test_a_tag_that_counts_too_few(self, content, whole, tmp_path):
        place = content.index(b"Xing" if b"Xing" in content else b"Info") + 8
        samples = same_everywhere(tmp_path / "a.mp3", content[:place] + b"\0\0\0\x14" + content[place + 4 :])
        assert np.abs(samples - whole).max() < 1e-6

    def test_a_free_bit_rate(self, tmp_path):
        content = bytearray(without_tag(mp3("CONSTANT")))
        for start, _ in mp3_frames(bytes(content)):
            content[start + 2] &= 0x0F
        assert len(same_everywhere(tmp_path / "a.mp3", bytes(content))) == len(mp3_frames(mp3("CONSTANT"))[1:]) * 576

    def test_two_rates(self, tmp_path):
        content = mp3(rate=8000) + mp3(rate=16000)
        refused_everywhere(tmp_path / "a.mp3", content, "changes its format in the middle: 8000 Hz with ")


class TestWav:
    @pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x80000000, 0x7FFFFFFF, 0xFFFFFFDB])
    def test_of_a_stream(self, tmp_path, caplog, size):
        content = with_wav_size(WAV, size)
        assert len(same_everywhere(tmp_path / "a.wav", content)) == FRAMES and not caplog.records
        assert is_placeholder(size)

    def test_a_size_that_was_never_written(self, tmp_path, caplog):
        assert len(same_everywhere(tmp_path / "a.wav", with_wav_size(WAV, 0, 0))) == FRAMES
        assert "has a wrong size of 0 bytes in its header" in caplog.text

    def test_a_size_of_some_bytes_too_many(self, tmp_path, caplog):
        """The size of the whole file shows that nothing was cut off."""
        assert len(same_everywhere(tmp_path / "a.wav", with_wav_size(WAV, 2 * FRAMES + 16))) == FRAMES
        assert f"has {2 * FRAMES} bytes of audio and {2 * FRAMES + 16} in its header" in caplog.text

    def test_more_than_32_bits_can_say(self, tmp_path):
        """Its size wrapped around; the file is a hole but for its ends."""
        path, end = tmp_path / "a.wav", 2**32 + 44 + 2000
        with open(path, "wb") as stream:
            stream.write(with_wav_size(WAV, 2000)[:44])
            stream.seek(end - 2)
            stream.write(b"\1\0")
        with AudioReader(path) as reader:
            assert reader.frames == (2**32 + 2000) // 2
            reader.seek(reader.frames - 1)
            assert reader.read(10).tolist() == [[2.0**-15]]

    @pytest.mark.parametrize("behind", [b"LIST\4\0\0\0INFO", b"", b"\0" * 6])
    def test_chunks_behind_the_audio(self, tmp_path, caplog, behind):
        assert len(same_everywhere(tmp_path / "a.wav", WAV + behind)) == FRAMES and not caplog.records

    def test_something_behind_the_audio(self, tmp_path, caplog):
        assert len(same_everywhere(tmp_path / "a.wav", WAV + b"\1garbage" * 9)) == FRAMES
        assert "has 72 bytes after its audio that are not a chunk of a WAV" in caplog.text

    @pytest.mark.parametrize(
        "content, message",
        [
            (WAV + WAV, "holds another WAV file after its first 24000 bytes of audio"),
            (with_wav_size(WAV, 12000), "has 12000 bytes after the audio of its header that are not a chunk"),
        ],
    )
    def test_audio_behind_the_audio(self, tmp_path, content, message):
        assert refused_everywhere(tmp_path / "a.wav", content, message) == "unreadable files"


class TestFlac:
    def test_no_number_of_samples(self, tmp_path, caplog):
        samples = same_everywhere(tmp_path / "a.flac", with_flac_total(FLAC, 0))
        assert np.array_equal(samples, blocks(FLAC)) and len(samples) == 40000 and not caplog.records

    def test_too_small_a_number(self, tmp_path, caplog):
        assert np.array_equal(same_everywhere(tmp_path / "a.flac", with_flac_total(FLAC, 30000)), blocks(FLAC))
        assert "states 30000 samples in its header and has 40000; all of them are read" in caplog.text

    @pytest.mark.parametrize(
        "content, message",
        [
            (with_flac_total(FLAC, 50000), "is truncated: it has at most 40000 of the 50000 samples"),
            (with_flac_total(FLAC, 0)[:-100], "is truncated: it ends within its last frame"),
            (FLAC[:-1], "is truncated: it ends within its last frame"),
            (FLAC[: len(FLAC) // 2], "is truncated: it has at most "),
            (FLAC[:60], "is truncated: it has a header and no complete frame"),
            (FLAC + FLAC, "holds another FLAC file after the first"),
            (FLAC + encode("FLAC", "PCM_16", 20000), "holds another FLAC file after the first"),
        ],
    )
    def test_refused(self, tmp_path, content, message):
        refused_everywhere(tmp_path / "a.flac", content, message)


class TestOgg:
    @pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
    def test_chained(self, tmp_path, subtype):
        content = encode("OGG", subtype, 40000)
        samples = same_everywhere(tmp_path / "a.ogg", content + content)
        assert np.abs(samples - np.concatenate([blocks(content)] * 2)).max() < 1e-6

    def test_no_last_page(self, tmp_path, caplog):
        assert len(same_everywhere(tmp_path / "a.ogg", OGG[: ogg_pages(OGG)[-1]])) > 20000
        assert "has no last page" in caplog.text

    @pytest.mark.parametrize(
        "content, message",
        [
            (OGG[:-1], "is truncated: its last page lacks 1 bytes"),
            (OGG[: ogg_pages(OGG)[-1] + 10], "is truncated: its last page lacks 17 bytes"),
            (OGG[: ogg_pages(OGG)[3]] + OGG[ogg_pages(OGG)[4] :], "lacks pages in 1 place"),
        ],
    )
    def test_refused(self, tmp_path, content, message):
        refused_everywhere(tmp_path / "a.ogg", content, message)


OF_WAV = "PCM_U8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ULAW ALAW GSM610 IMA_ADPCM MS_ADPCM G721_32".split()
OF_OTHERS = """
    WAVEX/PCM_16 RF64/PCM_16 W64/PCM_16 AIFF/PCM_16 AIFF/FLOAT CAF/PCM_16 CAF/ALAC_16 AU/PCM_16 AU/ULAW NIST/PCM_16
    NIST/ULAW OGG/VORBIS OGG/OPUS FLAC/PCM_16 FLAC/PCM_24 MP3/MPEG_LAYER_III VOC/PCM_16 SVX/PCM_16 AVR/PCM_16
    MPC2K/PCM_16 WVE/ALAW MAT4/PCM_16 MAT5/PCM_16 SDS/PCM_16 PAF/PCM_16 IRCAM/PCM_16 PVF/PCM_16
"""
SUBTYPES = [("WAV", subtype) for subtype in OF_WAV] + [tuple(name.split("/")) for name in OF_OTHERS.split()]
SAYS_NO_LENGTH = ("PAF", "IRCAM", "PVF")


@pytest.mark.parametrize("container, subtype", SUBTYPES)
class TestSubtypes:
    def test_whole(self, tmp_path, caplog, container, subtype):
        path = tmp_path / "a"
        path.write_bytes(encode(container, subtype))
        samples, rate = read_audio(path)
        assert FRAMES <= len(samples) <= FRAMES + 500 and rate == 8000 and not caplog.records  # ADPCM has blocks
        assert np.abs(blocks(path.read_bytes())[:, 0] - samples).max() < 1e-6
        assert np.abs(read_audio(path, 7000, 1000)[0] - samples[7000:8000]).max() < 1e-6

    def test_truncated(self, tmp_path, container, subtype):
        if container in SAYS_NO_LENGTH:
            pytest.skip("its header says no length")
        content = encode(container, subtype)
        refused_everywhere(tmp_path / "a", content[: len(content) // 2 + 300], "is truncated")


def test_padding_takes_no_quadratic_time(tmp_path):
    """Bytes of 0xFF could each begin a frame."""
    soundfile.write(tmp_path / "a.mp3", np.random.default_rng(0).uniform(-0.1, 0.1, 16000), 16000)
    with open(tmp_path / "a.mp3", "ab") as file:
        file.write(b"\xff" * 2**21)
    start = time.process_time()
    with AudioReader(tmp_path / "a.mp3") as reader:
        assert reader.frames >= 16000
    assert time.process_time() - start < 10


@pytest.mark.parametrize("rate", [4000, 11127, 44101, 96000])
@pytest.mark.parametrize("name", ["a.wav", "music.mp3", "no ending"])
def test_rates_and_names(tmp_path, rate, name):
    """The content says what a file is, not its name."""
    assert len(same_everywhere(tmp_path / name, encode("WAV", "PCM_16", rate=rate))) == FRAMES


@pytest.mark.parametrize("container", ["WAV", "FLAC", "MP3"])
def test_an_id3_tag_in_front(tmp_path, container):
    content = encode(container, {"MP3": "MPEG_LAYER_III"}.get(container, "PCM_16"))
    assert len(same_everywhere(tmp_path / "a", id3v2(300) + content)) == FRAMES


@pytest.mark.parametrize(
    "content, message",
    [(b"", "is empty"), (b"404 not found" * 9, "can't be read as audio"), (WAV[:30], "can't be read as audio")],
)
def test_no_audio(tmp_path, content, message):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_audio(tmp_path / "a.wav")


def test_shorten(tmp_path):
    content = encode("NIST", "PCM_16").replace(b"-s3 pcm\n", b"-s26 pcm,embedded-shorten-v2.00\n")[:1024]
    refused_everywhere(tmp_path / "a.wv1", content + bytes(5000), "is compressed with shorten")


def test_a_folder(tmp_path):
    with pytest.raises(InputError, match="is a folder, not an audio file"):
        read_audio(tmp_path)


def test_a_changed_file_is_looked_at_again(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(WAV)
    assert survey_file(path).damage is None
    path.write_bytes(WAV[:-100])
    assert survey_file(path).damage.text == "is truncated: its last 100 bytes of audio are missing"


class TestChannelsOfTheirOwn:
    """Voices as noise with a changing level, since speech has other levels from syllable to syllable."""

    RATE, SECONDS = 8000, 10

    def voice(self, rng):
        levels = np.repeat(rng.uniform(0, 1, 5 * self.SECONDS) ** 2, self.RATE // 5)
        return levels * rng.standard_normal(self.RATE * self.SECONDS)

    def scene(self, kind):
        rng = np.random.default_rng(0)
        one, other = self.voice(rng), self.voice(rng)
        if kind == "two microphones":
            return np.stack([one + 0.7 * np.roll(other, 20), 0.7 * np.roll(one, 20) + other], 1)
        if kind == "the same twice":
            return np.stack([one, one], 1)
        if kind == "one silent":
            return np.stack([one, 0 * one], 1)
        if kind == "turns":
            turn = np.repeat([[1, 0], [0, 1]], len(one) // 2, axis=0)
            return turn * np.stack([one, other], 1) + 1e-4 * rng.standard_normal((len(one), 2))
        call = np.stack([one, other], 1)
        return {"call": call, "crosstalk": call + 0.1 * call[:, ::-1], "short": call[: self.RATE]}[kind]

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [("call", True), ("crosstalk", True), ("turns", True), ("two microphones", False)]
        + [("the same twice", False), ("one silent", False), ("short", False)],
    )
    @pytest.mark.parametrize(("offset", "first"), [(0, 3000), (0.1, 3000), (0, 100)])
    def test_are_mentioned_once(self, kind, expected, offset, first, caplog):
        recording = Recording(self.scene(kind) + offset, sample_rate=self.RATE)
        for size in (first, 2**17):
            list(recording.blocks(size))
        found = [message for message in caplog.messages if "its two channels have nothing in common" in message]
        assert len(found) == expected

    @pytest.mark.parametrize("options", [{"channel": 0}, {"third": True}])
    def test_are_not_for_one_channel_or_three(self, options, caplog):
        call = self.scene("call")
        if options.pop("third", False):
            call = np.concatenate([call, call[:, :1]], 1)
        list(Recording(call, sample_rate=self.RATE, **options).blocks())
        assert not caplog.messages


class TestChannelsThatCancel:
    def warned(self, samples, caplog, **options):
        with caplog.at_level(logging.WARNING):
            recording = Recording(samples, sample_rate=8000, **options)
            for _ in range(2):
                list(recording.blocks())
        return [record.message for record in caplog.records]

    def test_logged_once(self, caplog):
        one = np.random.default_rng(0).standard_normal(20000)
        (message,) = self.warned(np.stack([one, -0.99 * one], 1), caplog)
        assert "its channels cancel each other out" in message and "46 dB softer" in message

    @pytest.mark.filterwarnings("error")
    def test_nothing_is_left(self, caplog):
        one = np.random.default_rng(0).standard_normal(20000)
        (message,) = self.warned(np.stack([one, -one], 1), caplog)
        assert "so their mean is silent. Use one of them" in message

    def test_not_of_others(self, caplog):
        two = np.random.default_rng(0).standard_normal((15000, 2))
        assert not self.warned(two, caplog) and not self.warned(np.zeros((9000, 2)), caplog)
        assert not self.warned(np.stack([two[:, 0], -two[:, 0]], 1), caplog, channel=1)


def test_generators_count_skipped_files(tmp_path, caplog):
    (tmp_path / "b.m4a").touch()
    with pytest.raises(InputError, match=r"holds no recording; .* Skipped 1 files .* \(1 .m4a\)"):
        name_noise(tmp_path)
    (tmp_path / "a.wav").write_bytes(WAV)
    assert name_noise(tmp_path) == ["a.wav"] and "Skipped 1 files" in caplog.text
