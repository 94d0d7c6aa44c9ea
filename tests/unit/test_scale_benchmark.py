"""`python -m benchmarks.scale` keeps what it has measured, goes on from there, and draws it. No time is asserted."""

import json

import pytest

from benchmarks import scale
from mossformer_sb import InputError


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(scale, "BASE", {"seconds": 0.2, "batch": 1, "threads": 1, "blocks": 2, "speakers": 2})
    points = {"seconds": (0.1, 0.2), "batch": (1, 2), "threads": (1,), "blocks": (1, 6), "speakers": (1, 3)}
    monkeypatch.setattr(scale, "POINTS", points)


def run(path, *words):
    assert scale.main(["--output", str(path), "--size", "mini", "--rounds", "1", *words]) == 0
    return json.loads(path.with_suffix(".json").read_text())["points"]


def test_points_are_kept_and_gone_on_from(few, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    cases, measure = [], scale.measure
    monkeypatch.setattr(scale, "measure", lambda case, *rest: cases.append(case) or measure(case, *rest))
    first = run(tmp_path / "scale.png", "--budget", "0.001")
    assert len(first) == 1 and "8 points are left: the same command measures them." in capsys.readouterr().out
    assert run(tmp_path / "scale.png")[:1] == first and len(cases) == 9
    assert all(point["seconds"] > 0 for point in run(tmp_path / "scale.png")) and len(cases) == 9
    printed = capsys.readouterr().out
    assert "| mixtures at once | 2 |" in printed and "are left" not in printed
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_varied_is_what_the_network_has(monkeypatch):
    seen = {}

    class Stopped(Exception):
        pass

    def forward(self, mixture):
        seen.update(blocks=len(self.masknet.blocks), speakers=self.masknet.num_spks)
        if mixture.shape[1] > scale.SAMPLE_RATE:
            seen.update(shape=tuple(mixture.shape), threads=scale.torch.get_num_threads())
            raise Stopped

    before = scale.torch.get_num_threads()
    monkeypatch.setattr(scale.MossFormerSeparator, "forward", forward)
    with pytest.raises(Stopped):
        scale.measure({"seconds": 2.0, "batch": 3, "threads": 2, "blocks": 6, "speakers": 3}, "mini", 1)
    scale.torch.set_num_threads(before)
    assert seen == {"blocks": 6, "speakers": 3, "shape": (3, 16000), "threads": 2}


def test_points_of_another_machine_are_not_mixed_in(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"machine": "Z80", "size": "mini", "torch": "1.0", "points": []}))
    with pytest.raises(InputError, match=r"x.json: holds points of machine 'Z80'; now it is .* Give another --output"):
        scale.main(["--output", str(tmp_path / "x.png"), "--size", "mini"])
