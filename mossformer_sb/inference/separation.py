"""Separating recordings with a trained model.

Shapes: B batch, T samples, S speakers.
"""

import dataclasses
import logging
import os
from pathlib import Path

import numpy as np
import torch
from speechbrain.inference.interfaces import Pretrained
from speechbrain.utils.fetching import FetchConfig, LocalStrategy
from speechbrain.utils.run_opts import RunOptions
from tqdm import tqdm

from mossformer_sb.data.audio_io import Recording, check_format, write_recordings
from mossformer_sb.data.resampling import resample_blocks
from mossformer_sb.errors import InputError
from mossformer_sb.inference.block_store import BlockStore
from mossformer_sb.inference.chunking import Chunking, separate_in_chunks
from mossformer_sb.inference.input_level import normalise
from mossformer_sb.inference.output_files import Output, made_folders, reduction_without_clipping
from mossformer_sb.inference.output_gain import check_level
from mossformer_sb.inference.output_writer import measure, write_separated
from mossformer_sb.network.separator import separate
from mossformer_sb.pretrained import default_model
from mossformer_sb.sharing.loading import check_folder, load_model
from mossformer_sb.utils.devices import choose_device

logger = logging.getLogger(__name__)

# Keys that SpeechBrain would take from a model's YAML file to configure itself. How to compute is the caller's matter.
_RUN_OPTIONS = {*RunOptions().as_dict(), "audio_normalizer"}


class MossFormerSeparation(Pretrained):
    """A trained separator, ready to use.

    Loading a model runs no code that its folder brings along, unless you say that you trust it.

    Example
    -------
    >>> from mossformer_sb import MossFormerSeparator
    >>> from mossformer_sb.sharing.folder import export
    >>> separator = MossFormerSeparator.from_size("mini")
    >>> folder = export(getfixture("tmp_path") / "model", dict(separator.named_children()), sample_rate=8000)
    >>> model = MossFormerSeparation.from_hparams(source=folder, device="cpu")
    >>> model.separate_batch(torch.randn(2, 4000)).shape
    torch.Size([2, 4000, 2])
    >>> stereo = np.random.randn(44100, 2)
    >>> model.separate(stereo, sample_rate=44100).shape
    torch.Size([44100, 2])
    """

    MODULES_NEEDED = ["encoder", "masknet", "decoder"]
    HPARAMS_NEEDED = ["sample_rate", "num_spks"]

    @classmethod
    def from_hparams(
        cls,
        source=None,
        hparams_file="hyperparams.yaml",
        device=None,
        trust=False,
        overrides=None,
        overrides_must_match=True,
        savedir=None,
        download_only=False,
        local_strategy=LocalStrategy.COPY,
        fetch_config=None,
        **kwargs,
    ):
        """Load an exported model.

        Arguments
        ---------
        source : str or Path, optional
            A local folder, or a model hub's id. Default: the model that comes with the package.
        hparams_file : str
            Name of the YAML file in it.
        device : str, optional
            "cpu", "cuda", "cuda:1", "mps", or "auto": the best that this machine has. Default: as in ``run_opts``, or
            "auto".
        trust : bool
            True: code that the YAML file and its checkpoints name is run, as in SpeechBrain. False: see
            `mossformer_sb.sharing.loading`.
        overrides : mapping, optional
            Other values for the YAML's keys.
        overrides_must_match : bool
            Whether each of these has to be a key of the YAML.
        savedir : str or Path, optional
            Where to keep what is fetched. Default: the hub's cache; local folders are read where they are.
        download_only : bool
            Fetch, and return None.
        local_strategy : speechbrain.utils.fetching.LocalStrategy
            How files come into ``savedir``. Default: as copies, since symbolic links are not everywhere.
        fetch_config : speechbrain.utils.fetching.FetchConfig, optional
            A revision, a token and so on, for a model hub.
        **kwargs
            ``run_opts`` and ``freeze_params`` of SpeechBrain's ``Pretrained``.

        Returns
        -------
        MossFormerSeparation

        Raises
        ------
        InputError
            If there is no such model, the device is not there, or something in the folder is refused or doesn't fit.
        """
        source = default_model() if source is None else source
        check_folder(source, hparams_file)
        run_opts = _with_device(kwargs.pop("run_opts", None), device)
        fetching = {
            "savedir": savedir,
            "local_strategy": local_strategy,
            "fetch_config": fetch_config or FetchConfig(),
        }
        checking = {"overrides": overrides or {}, "overrides_must_match": overrides_must_match}
        if trust:
            options = {**checking, **fetching, "download_only": download_only, "run_opts": run_opts, **kwargs}
            return super().from_hparams(source=str(source), hparams_file=hparams_file, **options)
        hparams = load_model(source, hparams_file, **checking, **fetching)
        ignored = sorted(hparams.keys() & _RUN_OPTIONS - set(overrides or {}))
        if ignored:
            logger.warning("%s: its %s can't set %s for this program.", source, hparams_file, ", ".join(ignored))
            hparams = {key: value for key, value in hparams.items() if key not in ignored}
        if download_only:
            return None
        return cls(modules=hparams["modules"], hparams={**hparams, "savedir": savedir}, run_opts=run_opts, **kwargs)

    def separate_batch(self, mix, lengths=None):
        """Separate a batch of mixtures at the model's sample rate.

        Arguments
        ---------
        mix : torch.Tensor
            [B, T].
        lengths : torch.Tensor, optional
            [B], int64, samples of each item of a padded batch. Default: all T.

        Returns
        -------
        torch.Tensor
            [B, T, S], on the model's device, as the network gives them: their level is arbitrary.

        Raises
        ------
        InputError
            If a shape, a length or the type is wrong.
        """
        needed = self.mods.encoder.conv1d.weight.dtype
        if not torch.is_tensor(mix) or mix.dtype != needed:
            found = mix.dtype if torch.is_tensor(mix) else type(mix).__name__
            raise InputError(
                f"mix must be a tensor [batch, samples] of {needed}; found {found}. `separate` takes one recording of "
                f"any kind."
            )
        with torch.no_grad(), self.inference_ctx:
            return separate(
                self.mods.encoder, self.mods.masknet, self.mods.decoder, mix.to(self.device), lengths=lengths
            )

    def separate(self, recording, sample_rate=None, channel=None, level="mixture", chunking=None, progress=False):
        """Separate a recording of any kind.

        Inside it is always one channel at the model's rate; what comes out has the recording's rate and length, and is
        aligned with it to the sample. Long recordings are separated in chunks, see
        `mossformer_sb.inference.chunking.Chunking`. How loud the recording is makes no difference, nor does a constant
        offset: the network gets each chunk at one level, see `mossformer_sb.inference.input_level.normalise`.

        Arguments
        ---------
        recording : str, Path, bytes, file object, numpy.ndarray or torch.Tensor
            An audio file in any format that libsndfile or PyAV reads, by its path, content or open file; or samples,
            [T] or [T, channels].
        sample_rate : int, optional
            Hz, for samples alone; files have their own. Default: the model's.
        channel : int, optional
            Which channel to separate, from 0. Default: the mean of all.
        level : str
            "mixture": one gain, common to all speakers and constant over the whole recording, fits the estimates' sum
            to the recording. "speakers": the same with a gain for each speaker, for networks that leave the relation of
            the speakers' levels open. "peak": one such gain brings the loudest sample of all estimates to full scale.
            "none": no further gain; their level is then arbitrary, but goes up and down with the recording's.
        chunking : Chunking, optional
            How long recordings are cut. Default: ``Chunking()``.
        progress : bool or callable
            Whether to show a progress bar; or what is called, after each part of the recording, with how many samples
            are separated and how many there are, None where that is not known. What it raises ends the separation.

        Returns
        -------
        torch.Tensor
            [T, S], on the CPU. Silence gives silence.

        Raises
        ------
        InputError
            If the recording can't be read, has a sample that is no number, or is too short.
        """
        check_level(level)
        if sample_rate is None and isinstance(recording, (np.ndarray, torch.Tensor)):
            sample_rate = self.hparams.sample_rate
        recording = Recording(recording, sample_rate, channel)
        estimates = np.concatenate(list(self._estimates(recording, chunking or Chunking(), progress)))
        meter = measure([estimates], recording)
        return torch.from_numpy(estimates * np.asarray(meter.gain(level), dtype=np.float32))

    def separate_file(self, path, output_folder=None, format="wav", **options):
        """Separate a recording, write one file per speaker, and return the estimates.

        Arguments
        ---------
        path : str or Path
            An audio file.
        output_folder : str or Path, optional
            Where to write ``<name>_spk1.wav`` and so on, at the recording's rate. Default: nothing is written.
        format : str
            Of the written files: "wav" (32 bits, floating point), "flac" (24 bits), "ogg" or "mp3".
        **options
            ``channel``, ``level``, ``chunking``, ``progress``, as for `separate`.

        Returns
        -------
        torch.Tensor
            [T, S], as `separate` gives them. Where that is too much for the memory, take `separate_to_files`.

        Raises
        ------
        InputError
            If the file can't be separated, or nothing can be written.
        """
        if output_folder is None:
            return self.separate(path, **options)
        output, sample_rate = Output(format=format), Recording(path).sample_rate
        check_format(format, sample_rate)
        paths = output.audio_paths(output_folder, stem(path), self.hparams.num_spks)
        with made_folders(output_folder, paths):
            estimates = self.separate(path, **options)
            gain = reduction_without_clipping(estimates.abs().max().item(), output, path)
            write_recordings(paths, [gain * estimates.numpy()], sample_rate, format, len(estimates))
        return estimates

    def separate_to_files(
        self, path, output_folder, name=None, format="wav", channel=None, level="mixture", chunking=None, progress=False
    ):
        """Separate a recording of any length into files, one for each speaker, in bounded memory.

        Arguments
        ---------
        path : str, Path, bytes or file object
            An audio file.
        output_folder : str or Path
            Made if it is not there.
        name : str, optional
            What the files' names begin with. Default: as ``path``; needed where that has no name.
        format : str
            As for `separate_file`. Where a format would cut off what exceeds full scale, the common gain is lowered.
        channel, level, chunking, progress
            As for `separate`.

        Returns
        -------
        list of Path
            S files.

        Raises
        ------
        InputError
            If the recording can't be separated, or the files can't be written; none of them is there then.
        """
        options = {"channel": channel, "level": level, "chunking": chunking, "progress": progress}
        return self.separate_recording(path, output_folder, name, Output(format=format), **options).audio_paths

    def separate_recording(
        self,
        recording,
        output_folder,
        name=None,
        output=None,
        channel=None,
        level="mixture",
        chunking=None,
        progress=False,
    ):
        """Separate a recording of any length into files of any kind, in bounded memory, and tell what came of it.

        The estimates go through a temporary file in the output folder, since their common gain is known only when the
        whole recording has been separated. The files get their names when all are complete.

        Arguments
        ---------
        recording : str, Path, bytes or file object
            An audio file.
        output_folder : str or Path
            Made if it is not there.
        name : str, optional
            What the files are called by, ``{stem}`` in their pattern. Default: as ``recording``; needed where that has
            no name.
        output : mossformer_sb.inference.output_files.Output, optional
            Which files to write. Default: one WAV a speaker.
        channel, level, chunking, progress
            As for `separate`. Where samples would be clipped, the common gain is lowered.

        Returns
        -------
        mossformer_sb.inference.output_files.SeparatedRecording

        Raises
        ------
        InputError
            If the recording can't be separated, or the files can't be written; none of them is there then.

        Example
        -------
        >>> import soundfile
        >>> from mossformer_sb import MossFormerSeparator
        >>> from mossformer_sb.sharing.folder import export
        >>> separator, folder = MossFormerSeparator.from_size("mini"), getfixture("tmp_path")
        >>> model = export(folder / "model", dict(separator.named_children()), sample_rate=8000)
        >>> model = MossFormerSeparation.from_hparams(source=model, device="cpu")
        >>> soundfile.write(folder / "talk.wav", 0.1 * np.random.randn(4000), 8000)
        >>> output = Output(format="flac", pattern="{stem}/s{n}", rest=True)
        >>> found = model.separate_recording(folder / "talk.wav", folder / "out", output=output)
        >>> [path.relative_to(folder).as_posix() for path in found.audio_paths]
        ['out/talk/s1.flac', 'out/talk/s2.flac', 'out/talk/rest.flac']
        """
        check_level(level)
        output, name = output or Output(), name or stem(recording)
        recording = Recording(recording, channel=channel)
        check_format(output.format, recording.sample_rate)
        detector = self._activity_detector(recording) if output.activity else None
        paths = output.paths(output_folder, name, self.hparams.num_spks)
        with made_folders(output_folder, paths), BlockStore(self.hparams.num_spks, output_folder) as store:
            for block in self._estimates(recording, chunking or Chunking(), progress):
                store.append(block)
            return write_separated(recording, store, output, output_folder, name, level, detector)

    def _activity_detector(self, recording):
        """What finds when each speaker speaks, at the rate up to which the network's outputs have content."""
        from mossformer_sb.inference.activity import ActivityDetector

        rate = min(recording.sample_rate, self.hparams.sample_rate)
        return ActivityDetector(self.hparams.num_spks, recording.sample_rate, analysed_rate=rate)

    def _estimates(self, recording, chunking, progress):
        """Blocks [t, S] of the estimates at the recording's rate, before their common gain.

        Each chunk reaches the network at one level, see `normalise`, which is undone after it.
        """
        rate, model_rate = recording.sample_rate, self.hparams.sample_rate
        num_read, offset = 0, None

        def centred():
            """The recording without its first block's mean: at its ends, resampling takes an offset for a step."""
            nonlocal num_read, offset
            for block in recording.blocks():
                num_read += len(block)
                offset = block.mean(dtype=np.float64).astype(block.dtype) if offset is None else offset
                yield block - offset

        def separate_chunk(samples):
            shortest = self.mods.encoder.conv1d.kernel_size[0]
            if len(samples) < shortest:
                raise InputError(
                    f"{recording.name}: has {len(samples)} samples at the model's {model_rate} Hz; it takes at least "
                    f"{shortest}."
                )
            normalised, gain = normalise(samples)
            if not normalised.any():
                return np.zeros((len(samples), self.hparams.num_spks), dtype=np.float32)
            estimates = self.separate_batch(torch.from_numpy(normalised)[None])[0]
            return estimates.float().cpu().numpy() / np.float32(gain)

        mixture = resample_blocks(centred(), rate, model_rate)
        is_long = recording.num_samples is None or recording.num_samples > chunking.above * rate
        if is_long:
            estimates = separate_in_chunks(separate_chunk, mixture, *chunking.samples(model_rate))
        else:
            estimates = (separate_chunk(np.concatenate(list(mixture))) for _ in range(1))
        report = progress if callable(progress) else lambda num_done, num_samples: None
        hidden = progress is not True
        bar = tqdm(total=recording.num_samples, unit="sample", unit_scale=True, disable=hidden, leave=False)
        num_given = 0
        with bar:
            for block in resample_blocks(estimates, model_rate, rate):
                block = block[: num_read - num_given]  # there and back again can give a sample too many
                num_given += len(block)
                bar.update(len(block))
                report(num_given, recording.num_samples)
                yield block

    def forward(self, mix, lengths=None):
        """As `separate_batch`."""
        return self.separate_batch(mix, lengths)


def _with_device(run_opts, device):
    """SpeechBrain's run options, a dict or its own class, with a device that is there."""
    if isinstance(run_opts, RunOptions):
        return run_opts if device is None else dataclasses.replace(run_opts, device=choose_device(device))
    run_opts = dict(run_opts or {})
    if device is not None or run_opts.get("device") is None:
        run_opts["device"] = choose_device(device or "auto")
    return run_opts


def stem(recording):
    """What the names of a recording's output files begin with.

    Arguments
    ---------
    recording : str, Path or file object

    Returns
    -------
    str

    Raises
    ------
    InputError
        If it has no name.

    Example
    -------
    >>> stem("calls/monday.2.mp3")
    'monday.2'
    """
    name = recording if isinstance(recording, (str, os.PathLike)) else getattr(recording, "name", None)
    if not isinstance(name, (str, os.PathLike)) or not Path(name).stem:
        raise InputError("the recording has no name to call the files by: give one (name=...).")
    return Path(name).stem
