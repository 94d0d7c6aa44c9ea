"""Separating recordings with a trained model.

Shapes: B batch, T samples, S speakers.
"""

import contextlib
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

from mossformer_sb.data.audio_io import Recording, as_float32, check_format, is_array, write_recordings
from mossformer_sb.data.resampling import resample_blocks
from mossformer_sb.errors import InputError
from mossformer_sb.inference.block_store import BlockStore
from mossformer_sb.inference.chunking import Chunking, separate_in_chunks
from mossformer_sb.inference.input_level import check_input_level, normalise
from mossformer_sb.inference.output_files import Output, made_folders, reduction_without_clipping
from mossformer_sb.inference.output_gain import LEVELS, check_level, mapping_gain
from mossformer_sb.inference.output_writer import measure, write_separated
from mossformer_sb.network.separator import applies_masks, separate
from mossformer_sb.pretrained import default_model
from mossformer_sb.sharing.fetching import NoSuchFile
from mossformer_sb.sharing.folder import MODULES
from mossformer_sb.sharing.loading import find_model, load_model
from mossformer_sb.sharing.released_cache import resolve_source
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
            A local folder, that of an exported model or of a training, whose export is taken; the name of a model that
            the authors released, see `mossformer_sb.sharing.released`, which is downloaded and converted at its first
            use; or a model hub's id. Default: the model that comes with the package.
        hparams_file : str
            Name of the YAML file in it.
        device : str or torch.device, optional
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
            Where to keep a copy of what is fetched. What lies there of another model is never loaded in its place.
            Default: the hub's cache; local folders are read where they are.
        download_only : bool
            Fetch, and return None.
        local_strategy : speechbrain.utils.fetching.LocalStrategy
            How files come into ``savedir``. Default: as copies, since symbolic links are not everywhere.
        fetch_config : speechbrain.utils.fetching.FetchConfig, optional
            A revision, a token and so on, for a model hub.
        **kwargs
            ``run_opts`` and ``freeze_params`` of SpeechBrain's ``Pretrained``; and ``use_auth_token``, ``revision`` and
            ``huggingface_cache_dir``, which went into ``fetch_config`` in SpeechBrain 1.0.

        Returns
        -------
        MossFormerSeparation

        Raises
        ------
        InputError
            If there is no such model, the device is not there, or something in the folder is refused or doesn't fit.
        """
        named = default_model() if source is None else source
        source = resolve_source(named)
        trust = trust and source is named  # a released model was converted here, and is loaded as ours
        fetch_config = _fetch_config(fetch_config or FetchConfig(), kwargs)
        run_opts = _with_device(kwargs.pop("run_opts", None), device)
        source = find_model(
            source, hparams_file, savedir=savedir, local_strategy=local_strategy, fetch_config=fetch_config
        )
        checking = {"overrides": overrides or {}, "overrides_must_match": overrides_must_match}
        if trust:
            options = {**checking, **_prepared_for_speechbrain(source, hparams_file), "download_only": download_only}
            return super().from_hparams(hparams_file=hparams_file, run_opts=run_opts, **options, **kwargs)
        hparams = load_model(source, hparams_file, **checking)
        check_input_level(hparams.get("input_level", "rms"))
        ignored = sorted(hparams.keys() & _RUN_OPTIONS - set(overrides or {}))
        if ignored:
            logger.warning("%s: its %s can't set %s for this program.", source.name, hparams_file, ", ".join(ignored))
            hparams = {key: value for key, value in hparams.items() if key not in ignored}
        if download_only:
            return None
        return cls(modules=hparams["modules"], hparams={**hparams, "savedir": savedir}, run_opts=run_opts, **kwargs)

    def separate_batch(self, mix, lengths=None):
        """Separate a batch of mixtures at the model's sample rate.

        Arguments
        ---------
        mix : torch.Tensor or numpy.ndarray
            [B, T]. Other types than the network's are converted, see `mossformer_sb.data.audio_io.as_float32`.
        lengths : torch.Tensor, optional
            [B], int64, samples of each item of a padded batch. Default: all T.

        Returns
        -------
        torch.Tensor
            [B, T, S], on the model's device, as the network gives them: their level is arbitrary.

        Raises
        ------
        InputError
            If a shape or a length is wrong, or something is no sample or no number.
        """
        needed = self.mods.encoder.conv1d.weight.dtype
        if not (torch.is_tensor(mix) and mix.is_floating_point()):
            if not is_array(mix):
                raise InputError(
                    f"mix must be an array or a tensor, [batch, samples]; found {type(mix).__name__}. `separate` takes "
                    f"one recording of any kind."
                )
            mix = torch.from_numpy(np.ascontiguousarray(as_float32(mix)))
        with torch.no_grad(), self.inference_ctx:
            mix = mix.to(self.device, needed)
            estimates = separate(self.mods.encoder, self.mods.masknet, self.mods.decoder, mix, lengths=lengths)
        _check_finite(mix, estimates, lengths)
        return estimates

    def separate(self, recording, sample_rate=None, channel=None, level=LEVELS[0], chunking=None, progress=False):
        """Separate a recording of any kind.

        Inside it is always one channel at the model's rate; what comes out has the recording's rate and length, and is
        aligned with it to the sample. Long recordings are separated in chunks, see
        `mossformer_sb.inference.chunking.Chunking`. How loud the recording is makes no difference, nor does a constant
        offset: the network gets each chunk at one level, see `mossformer_sb.inference.input_level.normalise`. A network
        that applies no masks gives estimates of a level of its own: each chunk's are brought to the mixture's, see
        `mossformer_sb.inference.output_gain.mapping_gain`.

        Arguments
        ---------
        recording : str, Path, bytes, file object, numpy.ndarray, torch.Tensor or list
            An audio file in any format that libsndfile or PyAV reads, by its path, content or open file; or samples,
            [T], [T, channels] or, as from torchaudio, [channels, T], of any type: see
            `mossformer_sb.data.audio_io.as_float32`.
        sample_rate : int, optional
            Hz, for samples alone; files have their own. Default: the model's.
        channel : int, optional
            Which channel to separate, from 0. Default: the mean of all.
        level : str
            "speakers": a gain for each speaker, constant over the whole recording, fits the estimates' sum to the
            recording; SI-SNR, by which networks are trained, leaves each output's level open. "mixture": the same with
            one gain for all. "peak": one such gain brings the loudest sample of all estimates to full scale. "none": no
            further gain; their level is then arbitrary, but goes up and down with the recording's.
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
        if sample_rate is None and is_array(recording):
            sample_rate = self.hparams.sample_rate
        recording = Recording(recording, sample_rate, channel)
        estimates = np.concatenate(list(self._estimates(recording, chunking or Chunking(), progress)))
        meter = measure([estimates], recording)
        return torch.from_numpy(estimates * np.asarray(meter.gain(level), dtype=np.float32))

    def separate_file(self, path, output_folder=None, format="wav", savedir=None, **options):
        """Separate a recording, write one file per speaker, and return the estimates.

        Arguments
        ---------
        path : str or Path
            An audio file.
        output_folder : str or Path, optional
            Where to write ``<name>_spk1.wav`` and so on, at the recording's rate. Default: nothing is written.
        format : str
            Of the written files: "wav" (32 bits, floating point), "flac" (24 bits), "ogg" or "mp3".
        savedir : None
            Of SpeechBrain's ``SepformerSeparation``, which keeps there what it downloads. Here paths are local.
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
        if savedir is not None:
            raise InputError(
                f"savedir {savedir}: has no place here, for only local files are separated. Leave it out, and to "
                f"write the estimates, give output_folder."
            )
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
        self, path, output_folder, name=None, format="wav", channel=None, level=LEVELS[0], chunking=None, progress=False
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
        level=LEVELS[0],
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
            normalised, gain = normalise(samples, getattr(self.hparams, "input_level", "rms"))
            if not normalised.any():
                return np.zeros((len(samples), self.hparams.num_spks), dtype=np.float32)
            estimates = self.separate_batch(torch.from_numpy(normalised)[None])[0].float().cpu().numpy()
            if not applies_masks(self.mods.masknet):
                estimates *= np.float32(mapping_gain(estimates, normalised))
            return estimates / np.float32(gain)

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


def _check_finite(mix, estimates, lengths):
    """Raise if an item of a batch holds NaN or infinity, which its estimates then hold too."""
    if bool(estimates.isfinite().all()):
        return
    finite = mix.isfinite()
    if lengths is not None:
        finite |= torch.arange(mix.shape[1], device=mix.device) >= lengths.to(mix.device)[:, None]
    items = (~finite.all(1)).nonzero().flatten().tolist()
    if items:
        raise InputError(f"mix: items {', '.join(map(str, items))} of the batch hold NaN or infinity: repair them.")


def _with_device(run_opts, device):
    """SpeechBrain's run options, a dict or its own class, with a device that is there, as SpeechBrain reads it."""
    is_class = isinstance(run_opts, RunOptions)
    options = {} if is_class else dict(run_opts or {})
    if device is None:
        device = run_opts.device if is_class else options.get("device")
    device = choose_device("auto" if device is None else device)
    if device == "cuda":  # SpeechBrain takes the number from the name, and else warns that there is none
        device = f"cuda:{torch.cuda.current_device()}"
    if is_class:
        return dataclasses.replace(run_opts, device=device, overridden_args={*run_opts.overridden_args, "device"})
    return {**options, "device": device}


def _fetch_config(config, kwargs):
    """Take arguments out of ``kwargs`` that SpeechBrain had before it had ``FetchConfig``, and put them into one."""
    if kwargs.pop("pymodule_file", None) is not None:
        raise InputError("pymodule_file is not supported: no code of a model folder is loaded. Leave it out.")
    earlier = {"use_auth_token": "token", "revision": "revision", "huggingface_cache_dir": "huggingface_cache_dir"}
    given = {new: kwargs.pop(old, None) for old, new in earlier.items()}
    return dataclasses.replace(config, **{name: value for name, value in given.items() if value is not None})


def _prepared_for_speechbrain(source, hparams_file):
    """Arguments for SpeechBrain's loading, after what is in ``savedir`` has been found to be this model's."""
    source.file(hparams_file)
    for name in MODULES:
        with contextlib.suppress(NoSuchFile):  # a trusted YAML file may have other modules, and other names for them
            source.file(f"{name}.ckpt")
    return source.for_speechbrain()


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
