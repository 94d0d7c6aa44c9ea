"""That docs/architecture.md says where things are, and which implementation computes a call in each situation."""

import ast
import re
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad

from mossformer_sb import MossFormerMaskNet
from mossformer_sb.network import dispatch
from mossformer_sb.network.block import MossFormerBlock
from mossformer_sb.network.fast import choice

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def rows(heading):
    """The cells of the rows of the table that has a heading."""
    table = PAGE[PAGE.index(heading) :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[2:]]


# ---- where things are


def defined(path):
    """Names of functions, classes and their members that a file defines."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
            attributes = [inner for inner in ast.walk(node) if isinstance(inner, ast.Attribute)]
            names |= {f"{node.name}.{inner.attr}" for inner in attributes if isinstance(inner.ctx, ast.Store)}
    return names


@pytest.mark.parametrize("heading", ["| to read | file |", "| in the paper | shape |"])
def test_functions_are_in_the_files_that_the_page_names(heading):
    for cells in rows(heading):
        code = re.findall(r"`([^`]+)`", " ".join(cells))
        files = [one for one in code if one.endswith(".py")]
        paths = [ROOT / one if one == "train.py" else ROOT / "mossformer_sb" / one for one in files]
        found = set().union(*(defined(path) for path in paths)) | {"Encoder", "Decoder"}  # SpeechBrain's
        found |= defined(ROOT / "mossformer_sb/network/sizes.py")
        named = {one for one in code if one not in files}
        assert named and files and named <= found, cells


# ---- which implementation computes a call


def network(**options):
    return MossFormerMaskNet(in_channels=16, out_channels=16, num_blocks=1, group_size=16, query_key_dim=32, **options)


def train(masknet, device="cpu"):
    masknet.to(device).train()(torch.rand(1, 16, 50, device=device)).sum().backward()


def evaluate(masknet, device="cpu"):
    with torch.no_grad():
        masknet.to(device).eval()(torch.rand(1, 16, 50, device=device))


def hooked(find):
    masknet = network()
    find(masknet).register_forward_hook(lambda *arguments: None)
    return masknet


def subclassed():
    class Block(MossFormerBlock):
        pass

    masknet = network()
    masknet.blocks[0].__class__ = Block
    return masknet


def with_hook_on_all(run):
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *arguments: None)
    try:
        run(network())
    finally:
        handle.remove()


def frozen(masknet):
    return masknet.requires_grad_(False)


def in_training_mode_without_gradient():
    with torch.no_grad():
        network().train()(torch.rand(1, 16, 50))


def transformed():
    masknet, x = network(), torch.rand(1, 16, 50)
    parameters = dict(masknet.named_parameters())
    torch.func.grad(lambda values: torch.func.functional_call(masknet, values, (x,)).sum())(parameters)


def forward_mode():
    with forward_ad.dual_level():
        network()(forward_ad.make_dual(torch.rand(1, 16, 50), torch.ones(1, 16, 50)))


def as_a_compiler_does(run):
    """What compilers and exporters set while they record; test_compile.py has them themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        run(network())


def layer(masknet):
    return masknet.blocks[0].to_values.linear


# Device, gradients, hooks and tracing as the page writes them, and what brings them about.
SITUATIONS = {
    ("CPU", "recorded", "none, or on the mask net or a block itself", "no"): [
        lambda: train(network()),
        lambda: train(hooked(lambda masknet: masknet)),
        lambda: train(hooked(lambda masknet: masknet.blocks[0])),
    ],
    ("CPU", "recorded", "hook on a layer of a block", "no"): [lambda: train(hooked(layer))],
    ("CPU", "recorded", "hook on all modules", "no"): [lambda: with_hook_on_all(train)],
    ("CPU", "recorded", "subclass of a block", "no"): [lambda: train(subclassed())],
    ("CPU", "none, evaluation mode", "none, or on the mask net itself", "no"): [
        lambda: evaluate(network()),
        lambda: evaluate(hooked(lambda masknet: masknet)),
        lambda: frozen(network()).eval()(torch.rand(1, 16, 50)),
    ],
    (
        "CPU",
        "none, evaluation mode",
        "hook on a layer or block, hook on all modules, subclass of a block",
        "no",
    ): [
        lambda: evaluate(hooked(layer)),
        lambda: evaluate(hooked(lambda masknet: masknet.blocks[0])),
        lambda: with_hook_on_all(evaluate),
        lambda: evaluate(subclassed()),
    ],
    ("CPU", "none, training mode", "none", "no"): [in_training_mode_without_gradient],
    # A device without memory or values, for which the same rules hold as for a GPU.
    ("other", "any", "any", "no"): [
        lambda: network().to("meta").train()(torch.rand(1, 16, 50, device="meta")),
    ],
    ("any", "any", "any", "`torch.compile`, `torch.export`, `torch.jit.trace`"): [
        lambda: as_a_compiler_does(train),
        lambda: as_a_compiler_does(evaluate),
        lambda: torch.jit.trace(network().eval(), (torch.rand(1, 16, 50),), check_trace=False),
    ],
    ("any", "`torch.func`, forward-mode differentiation", "any", "no"): [transformed, forward_mode],
}


@pytest.fixture
def chosen(monkeypatch):
    """What was chosen since the fixture was made: ``module.function``."""
    found = set()

    def recording(rule):
        def choose(*arguments, **keywords):
            implementation = rule(*arguments, **keywords)
            if implementation is not None:
                found.add(f"{implementation.__module__.split('.')[-1]}.{implementation.__name__}")
            return implementation

        return choose

    for call, rule in dispatch._rules.items():
        if rule is not None:
            monkeypatch.setitem(dispatch._rules, call, recording(rule))
    monkeypatch.setattr(choice, "is_wide_amd", lambda: False)  # which is said below the table
    return found


TABLE = {tuple(cells[:4]): cells[4] for cells in rows("| device | gradients |")}


def test_every_row_has_its_situation():
    assert list(TABLE) == list(SITUATIONS)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("situation", SITUATIONS, ids=" - ".join)
def test_what_computes_is_what_the_page_says(situation, chosen):
    cell = TABLE[situation]
    named = set(re.findall(r"`(\w+\.\w+)`", cell))
    if "the same four" in cell:
        named |= set(re.findall(r"`(\w+\.\w+)`", TABLE[next(iter(TABLE))]))
    for run in SITUATIONS[situation]:
        chosen.clear()
        run()
        assert chosen == named
