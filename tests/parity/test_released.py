"""Each released model by its name, its files written by the authors' classes: the output is that of their network."""

import pytest
import torch

from mossformer_sb.inference import MossFormerSeparation
from mossformer_sb.network.separator import separate
from mossformer_sb.sharing.folder import MODULES
from mossformer_sb.sharing.released import RELEASED
from tests.parity.authors import modelscope_network
from tests.parity.reference import random_reference, relative_error
from tests.unit.released_server import Hubs, serve, small_models, use, write_files

pytestmark = pytest.mark.parity
MODELS = small_models(channels=64, num_blocks=2)


def authors_modules(model):
    """Encoder, mask net and decoder of the authors'."""
    whole = modelscope_network(model.num_spks, model.channels, model.num_blocks)
    masknet = whole.mask_net
    if model.network == "MossFormer":
        pytest.importorskip("modelscope.models.audio.separation.mossformer", reason="needs the extra 'parity'")
        masknet = random_reference(model.channels, model.num_blocks, model.num_spks, 256, 128)
    masknet.apply_masks = model.apply_masks
    return dict(zip(MODULES, (whole.enc, masknet, whole.dec), strict=True))


@pytest.mark.parametrize("name", RELEASED)
def test_output(name, monkeypatch, tmp_path):
    model = MODELS[name]
    modules = authors_modules(model)
    states = {key: module.state_dict() for key, module in modules.items()}
    folder = write_files(model, states, tmp_path / "files")
    with serve(Hubs({model.hub_id: folder})) as endpoint:
        use(monkeypatch, tmp_path, endpoint, MODELS)
        ours = MossFormerSeparation.from_hparams(name, device="cpu")
    mixture = torch.randn(2, 4001)
    with torch.no_grad():
        expected = separate(*modules.values(), mixture)
    assert relative_error(ours.separate_batch(mixture), expected) <= 1e-5
