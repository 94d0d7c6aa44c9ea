"""Separating recordings with a trained model.

Shapes: B batch, T samples, S speakers.
"""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import torch
from speechbrain.inference.interfaces import Pretrained
from speechbrain.utils.fetching import FetchConfig, LocalStrategy
from tqdm import tqdm

from mossformer_sb.data.audio_io import Recording, as_float32, is_array
from mossformer_sb.data.audio_writing import check_format, write_recordings
from mossformer_sb.errors import InputError
from mossformer_sb.inference.batches import BatchLimit, result_or_raise, separate_pieces
from mossformer_sb.inference.block_store import BlockStore
from mossformer_sb.inference.chunking import Chunking
from mossformer_sb.inference.load_options import (
    fetch_config_from,
    has_yaml,
    model_hparams,
    prepared_for_speechbrain,
    with_device,
)
from mossformer_sb.inference.output_files import Output, made_folders, reduction_without_clipping
from mossformer_sb.inference.output_gain import LEVELS, check_level
from mossformer_sb.inference.output_writer import measure, write_separated
from mossformer_sb.inference.prepared import PreparedRecording
from mossformer_sb.inference.shifts import delays, mean_of_delayed
from mossformer_sb.network.checks import check_shifts
from mossformer_sb.network.lengths import check_lengths
from mossformer_sb.network.separator import separate
from mossformer_sb.pretrained import default_model
from mossformer_sb.sharing.folder import HPARAMS_FILE
from mossformer_sb.sharing.loading import find_model
from mossformer_sb.sharing.released_cache import resolve_source
from mossformer_sb.utils.files import expanded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, BinaryIO, Literal

    from mossformer_sb.inference.activity import ActivityDetector
    from mossformer_sb.inference.output_files import SeparatedRecording

logger = logging.getLogger(__name__)


class MossFormerSeparation(Pretrained):
    """A trained separator, for inference.

    Loading a model runs no code from its folder, unless you set ``trust``.

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
    _shifts: int | None = None  # None: the model's own

    @classmethod
    def from_hparams(
        cls,
        source: str | Path | None = None,
        hparams_file: str = HPARAMS_FILE,
        device: str | torch.device | None = None,
        trust: bool = False,
        overrides: Mapping | None = None,
        overrides_must_match: bool = True,
        savedir: str | Path | None = None,
        download_only: bool = False,
        local_strategy: LocalStrategy = LocalStrategy.COPY,
        fetch_config: FetchConfig | None = None,
        shifts: int | None = None,
        **kwargs: Any,
    ) -> MossFormerSeparation:
        """Load an exported model.

        Arguments
        ---------
        source : str or Path, optional
            A local folder, that of an exported model or of a training, whose export is loaded; the name of a model that
            the authors released, see `mossformer_sb.sharing.released`, which is downloaded and converted at its first
            use; or a model hub's id. Default: the model that comes with the package.
        hparams_file : str
            Name of the YAML file; only with ``trust``.
        device : str or torch.device, optional
            "cpu", "cuda", "cuda:1", "mps", or "auto": the best available one. Default: as in ``run_opts``, or "auto".
        trust : bool
            False: ``config.json`` and ``model.safetensors`` are read, and no code of the model is run. True: if there
            is a ``hyperparams.yaml``, it is loaded as by SpeechBrain, and code that it and its checkpoints refer to is
            run.
        overrides : mapping, optional
            New values for keys of ``config.json``, or of the YAML.
        overrides_must_match : bool
            Whether unknown keys in ``overrides`` are errors.
        savedir : str or Path, optional
            Folder for a copy of the downloaded files. Files of another model in it are never loaded instead.
            Default: the hub's cache; local folders are read in place.
        download_only : bool
            Only download, and return None.
        local_strategy : speechbrain.utils.fetching.LocalStrategy
            How files get into ``savedir``. Default: copied, since not all systems have symbolic links.
        fetch_config : speechbrain.utils.fetching.FetchConfig, optional
            Settings for a model hub, such as a revision or a token.
        shifts : int, optional
            Value of the property `shifts`. Default: the model's own.
        **kwargs
            ``run_opts`` and ``freeze_params`` of SpeechBrain's ``Pretrained``; and ``use_auth_token``, ``revision`` and
            ``huggingface_cache_dir``, which went into ``fetch_config`` in SpeechBrain 1.0.

        Returns
        -------
        MossFormerSeparation

        Raises
        ------
        InputError
            If there is no such model, the device is not available, or a file in the folder is refused or inconsistent.
        """
        if shifts is not None:
            check_shifts(shifts)
        named = default_model() if source is None else source
        source = resolve_source(named)
        trust = trust and source is named  # a released model is converted locally, and needs no trust
        fetch_config = fetch_config_from(fetch_config or FetchConfig(token=None), kwargs)
        run_opts = with_device(kwargs.pop("run_opts", None), device)
        source = find_model(source, savedir=savedir, local_strategy=local_strategy, fetch_config=fetch_config)
        checking: dict[str, Any] = {"overrides": overrides or {}, "overrides_must_match": overrides_must_match}
        if trust and has_yaml(source, hparams_file):
            options = {**checking, **prepared_for_speechbrain(source, hparams_file), "download_only": download_only}
            model = super().from_hparams(hparams_file=hparams_file, run_opts=run_opts, **options, **kwargs)
            return _with_shifts(model, shifts)
        if hparams_file != HPARAMS_FILE:
            raise InputError(
                f"hparams_file {hparams_file!r} is only read with trust=True: set that, or remove hparams_file."
            )
        hparams = model_hparams(source, **checking)
        if download_only:
            return None
        model = cls(modules=hparams["modules"], hparams={**hparams, "savedir": savedir}, run_opts=run_opts, **kwargs)
        return _with_shifts(model, shifts)

    @property
    def shifts(self) -> int:
        """How many delayed copies of a mixture are separated, and averaged: see `mossformer_sb.inference.shifts`.

        1 for none, the fastest. The default is the model's own. It applies to all methods, and can be set.

        Example
        -------
        >>> model = MossFormerSeparation.from_hparams(device="cpu")
        >>> model.shifts = 2
        >>> model.separate_batch(torch.randn(1, 4000)).shape
        torch.Size([1, 4000, 2])
        """
        return self._shifts or check_shifts(getattr(self.hparams, "shifts", 1))

    @shifts.setter
    def shifts(self, shifts: int) -> None:
        self._shifts = check_shifts(shifts)

    def separate_batch(self, mix: torch.Tensor | np.ndarray, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Separate a batch of mixtures at the model's sample rate.

        Arguments
        ---------
        mix : torch.Tensor or numpy.ndarray
            [B, T]. Types other than the network's are converted, see `mossformer_sb.data.audio_io.as_float32`.
        lengths : torch.Tensor, optional
            [B], int64, samples of each item of a padded batch. Default: all T.

        Returns
        -------
        torch.Tensor
            [B, T, S], on the model's device, unscaled: their level is arbitrary.

        Raises
        ------
        InputError
            If a shape or a length is wrong, or a value is NaN or infinite, of the mixtures or of the network's output.
        """
        needed = self.mods.encoder.conv1d.weight.dtype
        if not (torch.is_tensor(mix) and mix.is_floating_point()):
            if not is_array(mix):
                raise InputError(
                    f"mix must be an array or a tensor, [batch, samples]; found {type(mix).__name__}. For one "
                    "recording of any kind, use `separate`."
                )
            mix = torch.from_numpy(np.ascontiguousarray(as_float32(mix)))
        if lengths is not None and mix.dim() == 2:
            check_lengths(lengths, mix.shape[0], maximum=mix.shape[1])
        with torch.no_grad(), self.inference_ctx:
            mix = mix.to(self.device, needed)
            networks = [self.mods[name] for name in self.MODULES_NEEDED]
            once = functools.partial(separate, *networks)
            estimates = mean_of_delayed(once, mix, lengths, delays(self.shifts, *networks[:2]))
        _check_finite(mix, estimates, lengths)
        return estimates

    def separate(
        self,
        recording: str | Path | bytes | BinaryIO | np.ndarray | torch.Tensor | list,
        sample_rate: int | None = None,
        channel: int | None = None,
        level: str = LEVELS[0],
        chunking: Chunking | None = None,
        progress: bool | Callable = False,
        batch_size: int | None = None,
    ) -> torch.Tensor:
        """Separate a recording of any kind.

        The network gets one channel at the model's rate; the estimates have the recording's rate and length, and are
        aligned with it to the sample. Long recordings are separated in chunks, see
        `mossformer_sb.inference.chunking.Chunking`. The recording's loudness and a constant offset have no influence:
        each chunk is normalised to one level, see `mossformer_sb.inference.input_level.normalise`. The estimates of a
        network that applies no masks have an arbitrary level: each chunk's are scaled to the mixture's, see
        `mossformer_sb.inference.output_gain.mapping_gain`.

        Arguments
        ---------
        recording : str, Path, bytes, file object, numpy.ndarray, torch.Tensor or list
            An audio file in any format that libsndfile or PyAV reads, by its path, content or open file; or samples,
            [T], [T, channels] or, as from torchaudio, [channels, T], of any type: see
            `mossformer_sb.data.audio_io.as_float32`.
        sample_rate : int, optional
            Sample rate in Hz, only for samples; files have their own. Default: the model's.
        channel : int, optional
            Channel to separate, from 0. Default: the mean of all.
        level : str
            "speakers": a gain for each speaker, constant over the whole recording, fits the estimates' sum to the
            recording; networks are trained by SI-SNR, so their output levels are arbitrary. "mixture": the same with
            one gain for all. "peak": one gain scales the loudest sample of all estimates to full scale. "none": no
            further gain; their level is then arbitrary, but follows the recording's.
        chunking : Chunking, optional
            When and how recordings are cut into chunks. Default: ``Chunking()``.
        progress : bool or callable
            Whether to show a progress bar; or a function that is called, after each part of the recording, with the
            numbers of separated and of all samples (None if unknown). An exception in it ends the separation.
        batch_size : int, optional
            Number of chunks per batch. Default: on a GPU as many as fit its memory, one elsewhere, see
            `mossformer_sb.inference.batches.BatchLimit`.

        Returns
        -------
        torch.Tensor
            [T, S], on the CPU. Silence gives silence.

        Raises
        ------
        InputError
            If the recording can't be read, has NaN or infinite samples, or is too short.
        """
        check_level(level)
        if sample_rate is None and is_array(recording):
            sample_rate = self.hparams.sample_rate
        return self._separate(Recording(recording, sample_rate, channel), level, chunking, progress, batch_size)

    def _separate(self, recording, level=LEVELS[0], chunking=None, progress=False, batch_size=None):
        estimates = np.concatenate(list(self._estimates(recording, chunking or Chunking(), progress, batch_size)))
        meter = measure([estimates], recording)
        return torch.from_numpy(estimates * np.asarray(meter.gain(level), dtype=np.float32))

    @overload
    def separate_file(
        self,
        path: str | Path | bytes | BinaryIO,
        output_folder: str | Path | None = None,
        format: str = "wav",
        savedir: None = None,
        *,
        name: str | None = None,
        return_estimates: Literal[True] = True,
        **options: Any,
    ) -> torch.Tensor: ...

    @overload
    def separate_file(
        self,
        path: str | Path | bytes | BinaryIO,
        output_folder: str | Path,
        format: str = "wav",
        savedir: None = None,
        *,
        name: str | None = None,
        return_estimates: Literal[False],
        **options: Any,
    ) -> list[Path]: ...

    def separate_file(
        self,
        path: str | Path | bytes | BinaryIO,
        output_folder: str | Path | None = None,
        format: str = "wav",
        savedir: None = None,
        *,
        name: str | None = None,
        return_estimates: bool = True,
        **options: Any,
    ) -> torch.Tensor | list[Path]:
        """Separate a recording, write one file per speaker, and return the estimates or, in bounded memory, the paths.

        Arguments
        ---------
        path : str, Path, bytes or file object
            An audio file.
        output_folder : str or Path, optional
            Folder for ``<name>_spk1.wav`` and so on, at the recording's rate. Default: nothing is written.
        format : str
            Format of the files: "wav" (32 bits, floating point), "flac" (24 bits), "ogg" or "mp3". Where a format would
            clip, all outputs are attenuated.
        savedir : None
            Not supported: the folder for downloads of SpeechBrain's ``SepformerSeparation``. Here paths are local.
        name : str, optional
            Beginning of the files' names. Default: as ``path``; required where that has no name.
        return_estimates : bool
            False: memory is independent of the recording's length, and the paths are returned. It needs
            ``output_folder``.
        **options
            ``channel``, ``level``, ``chunking``, ``progress``, ``batch_size``, as for `separate`.

        Returns
        -------
        torch.Tensor or list of Path
            [T, S], as `separate` gives them; with ``return_estimates=False`` the S files.

        Raises
        ------
        InputError
            If the recording can't be separated, or the files can't be written. Incomplete files are removed.
        """
        if savedir is not None:
            raise InputError(
                f"savedir {savedir}: has no effect here, since only local files are separated. Remove it; to write the "
                f"estimates, give output_folder."
            )
        output = Output(format=format)
        if not return_estimates:
            if output_folder is None:
                raise InputError(
                    "return_estimates=False needs output_folder: give the folder for the estimates' files."
                )
            return self.separate_recording(path, output_folder, name, output, **options).audio_paths
        if output_folder is None:
            return self.separate(path, **options)
        check_level(options.get("level", LEVELS[0]))
        # Made once: a file object can be read by one Recording only.
        given, name, recording = path, name or stem(path), Recording(path, channel=options.pop("channel", None))
        output_folder = expanded(output_folder)
        check_format(format, recording.sample_rate)
        paths = output.audio_paths(output_folder, name, self.hparams.num_spks)
        with made_folders(output_folder, paths, given):
            estimates = self._separate(recording, **options)
            gain = reduction_without_clipping(estimates.abs().max().item(), output, recording.name)
            write_recordings(paths, [gain * estimates.numpy()], recording.sample_rate, format, len(estimates))
        return estimates

    def separate_recording(
        self,
        recording: str | Path | bytes | BinaryIO,
        output_folder: str | Path,
        name: str | None = None,
        output: Output | None = None,
        channel: int | None = None,
        level: str = LEVELS[0],
        chunking: Chunking | None = None,
        progress: bool | Callable = False,
        batch_size: int | None = None,
    ) -> SeparatedRecording:
        """Separate a recording of any length into files, in bounded memory, with all options of the output.

        The estimates go through a temporary file in the output folder, since their common gain is known only when the
        whole recording has been separated. The files get their names when all are complete.

        Arguments
        ---------
        recording : str, Path, bytes or file object
            An audio file.
        output_folder : str or Path
            Created if it does not exist.
        name : str, optional
            Name of the files, ``{stem}`` in their pattern. Default: as ``recording``; required where that has no name.
        output : mossformer_sb.inference.output_files.Output, optional
            Files to write. Default: one WAV file per speaker.
        channel, level, chunking, progress, batch_size
            As for `separate`. Where samples would be clipped, all outputs are attenuated.

        Returns
        -------
        mossformer_sb.inference.output_files.SeparatedRecording

        Raises
        ------
        InputError
            If the recording can't be separated, or the files can't be written. Incomplete files are removed.

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
        output, name, given = output or Output(), name or stem(recording), recording
        output_folder = expanded(output_folder)
        recording = Recording(recording, channel=channel)
        check_format(output.format, recording.sample_rate)
        detector = self.activity_detector(recording) if output.activity else None
        paths = output.paths(output_folder, name, self.hparams.num_spks)
        with made_folders(output_folder, paths, given), BlockStore(self.hparams.num_spks, output_folder) as store:
            for block in self._estimates(recording, chunking or Chunking(), progress, batch_size):
                store.append(block)
            return write_separated(recording, store, output, output_folder, name, level, detector)

    def activity_detector(self, recording: Recording) -> ActivityDetector:
        """The detector of speech activity, for the band that the network's outputs fill."""
        from mossformer_sb.inference.activity import ActivityDetector

        rate = min(recording.sample_rate, self.hparams.sample_rate)
        return ActivityDetector(self.hparams.num_spks, recording.sample_rate, analysed_rate=rate)

    def separate_signals(self, signals: list[np.ndarray]) -> list[np.ndarray]:
        """Separate signals of any lengths as one batch.

        Arguments
        ---------
        signals : list of numpy.ndarray
            [T] each, at the model's rate.

        Returns
        -------
        list of numpy.ndarray
            [T, S] each, float32, equal to those of separate calls, up to rounding.

        Example
        -------
        >>> from mossformer_sb import MossFormerSeparator
        >>> from mossformer_sb.sharing.folder import export
        >>> separator = dict(MossFormerSeparator.from_size("mini").named_children())
        >>> folder = export(getfixture("tmp_path") / "model", separator, sample_rate=8000)
        >>> model = MossFormerSeparation.from_hparams(source=folder, device="cpu")
        >>> [estimates.shape for estimates in model.separate_signals([np.random.randn(4000), np.random.randn(3000)])]
        [(4000, 2), (3000, 2)]
        """
        counts = [len(signal) for signal in signals]
        mix = np.zeros((len(signals), max(counts)), dtype=np.result_type(*signals))
        for row, signal in zip(mix, signals, strict=True):
            row[: len(signal)] = signal
        padded = {} if min(counts) == max(counts) else {"lengths": torch.tensor(counts)}
        estimates = self.separate_batch(torch.from_numpy(mix), **padded).float().cpu().numpy()
        return [item[:count] for item, count in zip(estimates, counts, strict=True)]

    def _estimates(self, recording, chunking, progress, batch_size):
        """Blocks [t, S] of the estimates at the recording's rate, before their common gain."""
        prepared = PreparedRecording(recording, self, chunking)
        pieces = ((None, piece) for piece in prepared.pieces())
        separated = separate_pieces(self.separate_signals, pieces, BatchLimit(batch_size, self.device))
        report = progress if callable(progress) else lambda num_done, num_samples: None
        hidden = progress is not True
        bar = tqdm(total=recording.num_samples, unit="sample", unit_scale=True, disable=hidden, leave=False)
        num_given = 0
        with bar:
            for block in prepared.blocks((piece, result_or_raise(found)) for _, piece, found in separated):
                num_given += len(block)
                bar.update(len(block))
                report(num_given, recording.num_samples)
                yield block

    def forward(self, mix: torch.Tensor | np.ndarray, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """As `separate_batch`."""
        return self.separate_batch(mix, lengths)


def _with_shifts(model, shifts):
    """A model with a number of shifts, if both are given."""
    if model is not None and shifts is not None:
        model.shifts = shifts
    return model


def _check_finite(mix, estimates, lengths):
    """Raise if an item of a batch, and so its estimates, holds NaN or infinity."""
    if bool(estimates.isfinite().all()):
        return
    finite = mix.isfinite()
    if lengths is not None:
        finite |= torch.arange(mix.shape[1], device=mix.device) >= lengths.to(mix.device)[:, None]
    items = (~finite.all(1)).nonzero().flatten().tolist()
    if items:
        raise InputError(f"mix: items {', '.join(map(str, items))} of the batch hold NaN or infinity: repair them.")
    raise InputError(
        "the network's output is NaN or infinite, and the mixture is not: compute in fp32, or, if that is so already, "
        "give another model, since this one's weights are damaged."
    )


def stem(recording: str | Path | bytes | BinaryIO) -> str:
    """Beginning of the names of a recording's output files.

    Arguments
    ---------
    recording : str, Path or file object
        The recording.

    Returns
    -------
    str

    Raises
    ------
    InputError
        If the recording has no name.

    Example
    -------
    >>> stem("calls/monday.2.mp3")
    'monday.2'
    """
    name = recording if isinstance(recording, (str, os.PathLike)) else getattr(recording, "name", None)
    if not isinstance(name, (str, os.PathLike)) or not Path(name).stem:
        raise InputError("the recording has no name for the files: give one (name=...).")
    return Path(name).stem
