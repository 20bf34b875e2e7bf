"""CUDA graphs, by a double that holds inputs and outputs as a graph does: what is captured, kept and dropped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from robustkit import load_codec
from robustkit.codecs.rcc import codebook
from robustkit.images import photographs
from robustkit.priors import graphs as module
from robustkit.priors.graphs import SWITCH, Captured, Graphs, GraphsError, Work, graphs_of


class Recorder:
    """Captures as a GPU does: what the work was then is done again, on the same inputs, into the same outputs."""

    def __init__(self, broken: bool = False) -> None:
        self.captures: list[tuple[tuple[int, ...], ...]] = []
        self.replays, self.broken = 0, broken

    def __call__(self, work: Work, inputs: Sequence[Tensor]) -> Captured:
        self.captures.append(tuple(tuple(given.shape) for given in inputs))
        if self.broken:
            raise torch.OutOfMemoryError("no memory left for a graph")
        held = [given.clone() for given in inputs]
        outputs = [made.clone() for made in work(*held)]

        def replay(*given: Tensor) -> tuple[Tensor, ...]:
            self.replays += 1
            for place, tensor in zip(held, given, strict=True):
                place.copy_(tensor)
            for place, made in zip(outputs, work(*held), strict=True):
                place.copy_(made)
            return tuple(place.clone() for place in outputs)

        return replay


def double(values: Tensor) -> tuple[Tensor]:
    return (2 * values,)


def test_work_is_captured_once_it_has_repeated() -> None:
    recorder = Recorder()
    graphs = Graphs(recorder, plainly=2)
    found = [graphs.run("double", double, torch.full((3,), float(number)))[0] for number in range(5)]
    # Copies: a later replay leaves them as they are.
    assert [made.tolist() for made in found] == [[2.0 * number] * 3 for number in range(5)]
    assert (recorder.captures, recorder.replays) == ([((3,),)], 3)


def test_another_name_shape_or_type_is_another_graph() -> None:
    recorder = Recorder()
    graphs = Graphs(recorder, plainly=0)
    for name, values in [
        ("a", torch.ones(3)),
        ("b", torch.ones(3)),
        ("a", torch.ones(4)),
        ("a", torch.ones(3).double()),
    ]:
        for _ in range(2):
            (made,) = graphs.run(name, double, values)
            assert made.dtype == values.dtype
            assert torch.equal(made, 2 * values)
    assert recorder.captures == [((3,),), ((3,),), ((4,),), ((3,),)]


def test_the_graph_used_longest_ago_is_dropped() -> None:
    recorder = Recorder()
    graphs = Graphs(recorder, plainly=0, most=2)
    for name in "abacaba":
        graphs.run(name, double, torch.ones(1))
    # c drops b, b drops c; a is used all the time.
    assert len(recorder.captures) == 4
    assert len(graphs._graphs) == 2


def test_numbers_of_all_graphs_are_bounded() -> None:
    recorder = Recorder()
    graphs = Graphs(recorder, plainly=0, numbers=10)
    for count in (4, 5, 4, 11, 6, 4):
        (made,) = graphs.run("double", double, torch.ones(count))
        assert made.tolist() == [2.0] * count
        assert graphs._held() <= 10
    # 11 is never captured; 6 drops 5 alone, which had been used longest ago, and 4 stays.
    assert recorder.captures == [((4,),), ((5,),), ((6,),)]


def test_what_is_seen_once_is_not_remembered_for_ever() -> None:
    graphs = Graphs(Recorder(), plainly=1)
    for count in range(1, module.COUNTED + 50):
        graphs.run("double", double, torch.ones(count))
    assert len(graphs._done) == module.COUNTED


def test_what_cannot_be_captured_runs_plainly_and_is_not_tried_again() -> None:
    recorder = Recorder(broken=True)
    graphs = Graphs(recorder, plainly=1)
    graphs.run("double", double, torch.ones(2))
    with pytest.warns(RuntimeWarning, match="no memory left"):
        (made,) = graphs.run("double", double, torch.ones(2))
    assert made.tolist() == [2.0, 2.0]
    for _ in range(3):
        assert graphs.run("double", double, torch.ones(2))[0].tolist() == [2.0, 2.0]
    assert len(recorder.captures) == 1


def test_mistakes_of_the_work_itself_are_not_hidden() -> None:
    def wrong(values: Tensor) -> tuple[Tensor]:
        raise LookupError("not torch's")

    with pytest.raises(LookupError):
        Graphs(Recorder(), plainly=0).run("wrong", wrong, torch.ones(1))


def test_a_forked_process_captures_anew_and_frees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, parent = Recorder(), os.getpid()
    graphs = Graphs(recorder, plainly=0)
    graphs.run("double", double, torch.ones(2))
    inherited = graphs._graphs
    monkeypatch.setattr(module, "_abandoned", [])
    monkeypatch.setattr(module.os, "getpid", lambda: parent + 1)
    for _ in range(2):
        graphs.run("double", double, torch.ones(2))
    assert len(recorder.captures) == 2
    assert module._abandoned == [inherited]
    assert inherited


def test_threads_take_turns() -> None:
    graphs = Graphs(Recorder(), plainly=0)
    with ThreadPoolExecutor(8) as pool:
        made = pool.map(lambda number: graphs.run("double", double, torch.full((64,), number))[0], range(200))
        assert all(torch.equal(values, torch.full((64,), 2 * number)) for number, values in enumerate(made))


def test_graphs_are_for_cuda_alone_and_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, processor = torch.device("cuda"), torch.device("cpu")
    for said, on in [(None, False), ("", False), ("0", False), ("1", True)]:
        monkeypatch.delenv(SWITCH, raising=False)
        if said is not None:
            monkeypatch.setenv(SWITCH, said)
        assert (graphs_of(cuda) is not None) == on
        assert graphs_of(processor) is None
    assert graphs_of(cuda) is graphs_of(torch.device("cuda"))
    monkeypatch.setenv(SWITCH, "yes")
    with pytest.raises(GraphsError, match=f"{SWITCH}=yes"):
        graphs_of(processor)


@pytest.mark.parametrize("name", ["robust-turbo-ddcm", "robust-turbo-ddcm-uep", "turbo-ddcm"])
def test_codecs_code_the_same_by_graphs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = photographs(crop=64)["astronaut"]
    settings = {"T": 7, "bpp": 0.3, "K": 1 << 12}
    plain = load_codec(name, **settings)
    stream = plain.encode(image)
    recorder = Recorder()
    graphs = Graphs(recorder)
    monkeypatch.setattr(codebook, "graphs_of", lambda _: graphs)
    captured = load_codec(name, **settings)
    monkeypatch.setattr(captured.prior, "graphs", graphs)
    assert captured.encode(image) == stream
    assert np.array_equal(captured.decode(stream), plain.decode(stream))
    # The denoiser, the choice of atoms and their sum: of one image, one graph each, and none for any step of its own.
    assert len(recorder.captures) == 3
    assert recorder.replays > 15
