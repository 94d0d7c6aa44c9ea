"""What a program imports before it starts to work: each second of it is one that somebody waits for."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from mossformer_sb import MossFormerSeparator
from mossformer_sb.sharing.folder import export

ROOT = Path(__file__).parents[2]
# What separating a WAV file at the model's rate has no use for.
NOT_NEEDED = """
    scipy.stats scipy.signal scipy.optimize scipy.sparse scipy.ndimage pandas matplotlib pyloudnorm joblib sklearn
    torchmetrics pesq pystoi onnx onnxruntime onnxscript silero_vad av jinja2 tensorboard gradio fastapi starlette
    uvicorn distributed dask espeakng_loader modelscope addict einops torch._dynamo torch._inductor
    mossformer_sb.training mossformer_sb.evaluation.plots mossformer_sb.evaluation.results mossformer_sb.data.datasets
""".split()
SEPARATE = """
import sys
from mossformer_sb.cli import main
assert main(sys.argv[1:]) == 0
print(*sorted(sys.modules), sep="\\n")
"""
SAMPLER = """
import sys
from mossformer_sb.utils.deferred import deferred
with deferred("scipy.stats"):
    from speechbrain.dataio.sampler import DynamicBatchSampler
assert "scipy.stats" not in sys.modules
from speechbrain.dataio.dataset import DynamicItemDataset
data = DynamicItemDataset({str(n): {"duration": float(n)} for n in (1, 2, 3, 4, 50)}, output_keys=["duration"])
sampler = DynamicBatchSampler(data, 60.0, num_buckets=3, length_func=lambda item: item["duration"])
assert "scipy.stats" in sys.modules
print(sampler._bucket_boundaries.tolist())
import scipy.stats
assert scipy.stats.__file__
"""


def run(program, *words):
    done = subprocess.run([sys.executable, "-c", program, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_separating_a_wav_file_imports_nothing_that_it_does_not_need(tmp_path):
    separator = dict(MossFormerSeparator.from_size("mini").named_children())
    model = export(tmp_path / "model", separator, sample_rate=8000)
    soundfile.write(tmp_path / "talk.wav", 0.1 * np.random.default_rng(0).standard_normal(8000), 8000)
    words = [tmp_path / "talk.wav", "--model", model, "--output_folder", tmp_path / "out", "--quiet", "--shifts", "2"]
    imported = set(run(SEPARATE, "separate", *map(str, words)))
    assert "torch" in imported and (tmp_path / "out" / "talk_spk1.wav").is_file()
    assert not imported & set(NOT_NEEDED)


def test_what_was_deferred_works_when_it_is_used():
    """SpeechBrain's sampler has SciPy's quantiles, as without the stand-in."""
    (found,) = run(SAMPLER)
    directly = SAMPLER.replace('with deferred("scipy.stats"):', "if True:").replace('assert "scipy.stats" not in', "#")
    assert [found] == run(directly)


def test_a_module_that_is_there_already_stays():
    program = 'import colorsys\nfrom mossformer_sb.utils.deferred import deferred\nwith deferred("colorsys"):\n'
    program += "    from colorsys import rgb_to_hsv\nprint(rgb_to_hsv is colorsys.rgb_to_hsv)\n"
    assert run(program) == ["True"]
