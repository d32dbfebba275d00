"""Images made on one network and shown to others: against attack_rows, a loop over single images, and SciPy."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest

from engine import ModelConfig, build_model
from engine.analysis import transfer
from engine.analysis.robustness import attack_rows
from engine.analysis.transfer import Target, accuracies, matrix, same_images, transfer_rows
from engine.attacks import Attack, perturb
from engine.comparison import BASELINES, config_of, is_twin

CONFIG = ModelConfig(arch="vgg-small", layout="C4 P F8", steps=4, in_shape=(1, 8, 8))
MEAN, STD = (0.4,), (0.3,)
PGD = Attack("pgd", 0.1, 3)


def network(config=CONFIG, seed=0):
    torch.manual_seed(seed)
    model = build_model(config).eval()
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            tensor.fill_(0.2)
    return model


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(1)
    pixels, labels = torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8), torch.randint(0, 10, (12,))
    return {"pixels": pixels, "labels": labels, "mean": MEAN, "std": STD, "seed": 5}


def test_shown_to_the_network_itself_they_are_the_direct_attack(data):
    model = network()
    direct = attack_rows(PGD, 2, 9, model=model, encodings=3, **data)
    found = transfer_rows(PGD, 2, 9, model=model, targets=[Target(model, MEAN, STD, 3)], **data)
    assert found["right"].tolist() == (direct.predictions[-1] == direct.labels).tolist()
    assert found["sample"].tolist() == [row for row in range(2, 9) for _ in range(3)]
    assert found["encoding"].tolist() == [0, 1, 2] * 7


def test_every_target_gets_the_same_images(data):
    """One image at a time, normalised and run by hand, with other moments for the other network."""
    first = network()
    second, third = (
        network(replace(CONFIG, norm="none"), 2),
        network(config_of("ann", CONFIG), 3),
    )
    targets = [Target(second, (0.2,), (0.5,), 2), Target(third, MEAN, STD, 1)]
    found = transfer_rows(PGD, 0, 6, model=first, targets=targets, **data)
    right = found.set_index(["target", "sample", "encoding"])["right"]
    rows = torch.arange(6)
    images = perturb(first, data["pixels"][:6], data["labels"][:6], rows, MEAN, STD, PGD, seed=5)
    for row in range(6):
        label = int(data["labels"][row])
        for encoding in range(2):
            sample = torch.tensor([row + encoding * 2**32])
            with torch.no_grad():
                scores = second((images[row : row + 1] - 0.2) / 0.5, seed=5, samples=sample)
            assert right[0, row, encoding] == (int(scores.argmax()) == label)
        with torch.no_grad():
            scores = third((images[row : row + 1] - 0.4) / 0.3)
        assert right[1, row, 0] == (int(scores.argmax()) == label)
    assert len(found) == 6 * 3


def test_parts_are_the_whole(data):
    model, targets = network(), [Target(network(seed=2), MEAN, STD, 2)]
    whole = transfer_rows(PGD, 0, 8, model=model, targets=targets, **data)
    parts = [transfer_rows(PGD, a, b, model=model, targets=targets, **data) for a, b in ((0, 3), (3, 8))]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)


def test_other_images_are_refused(data):
    wide = network(replace(CONFIG, in_shape=(1, 16, 16)))
    with pytest.raises(ValueError, match="the same images"):
        transfer_rows(PGD, 0, 2, model=network(), targets=[Target(wide, MEAN, STD, 1)], **data)


def test_frames_of_events_are_of_one_length():
    events = ModelConfig(arch="cnn7", in_shape=(2, 16, 16), layout="C4 P F8", steps=4, encoding="events")
    assert same_images(network(events), network(replace(events, norm="bn")))
    assert not same_images(network(events), network(replace(events, steps=5)))


def test_accuracies_count_right_answers():
    """Against counting by hand, SciPy's Wilson interval, and NumPy's standard deviation."""
    draw = np.random.default_rng(0)
    right = draw.random((2, 30, 3)) < np.array([0.9, 0.4])[:, None, None]
    index = pd.MultiIndex.from_product([range(2), range(30), range(3)], names=["target", "sample", "encoding"])
    answers = pd.DataFrame({"right": right.ravel()}, index=index).reset_index()
    found = accuracies(answers.sample(frac=1, random_state=1))
    for target, row in enumerate(found.itertuples()):
        assert row.target == target and row.samples == 30
        assert row.accuracy == pytest.approx(right[target].sum() / 90)
        assert row.spread == pytest.approx(right[target].mean(0).std(ddof=1))
    one = accuracies(answers[answers["encoding"] == 0])
    for row in one.itertuples():
        count = int(right[row.target, :, 0].sum())
        interval = binomtest(count, 30).proportion_ci(method="wilson")
        assert (row.low, row.high) == pytest.approx((interval.low, interval.high))
        assert np.isnan(row.spread)


def test_matrix_names_every_pair():
    answers = pd.DataFrame({"target": [0, 1], "sample": [0, 0], "encoding": [0, 0], "right": [False, True]})
    table = matrix({"b": answers}, {"a": 0.9}, ["a", "b"])
    assert table[["made_on", "tried_on", "accuracy"]].to_numpy().tolist() == [["b", "a", 0.0], ["b", "b", 1.0]]
    assert table["clean"].iloc[0] == 0.9 and np.isnan(table["clean"].iloc[1])
    assert matrix({}, {}, ["a"]).empty and list(matrix({}, {}, ["a"])) == list(table)


@pytest.mark.parametrize("name", [name for name in BASELINES if name not in ("ann", "converted")])
def test_the_twin_has_the_same_layers(name):
    ann, spiking = config_of("ann", CONFIG), config_of(name, CONFIG)
    assert is_twin(ann, spiking) and not is_twin(spiking, ann) and not is_twin(ann, ann)
    assert not is_twin(ann, replace(spiking, layout="C4 P F16"))
    assert transfer.same_images(build_model(ann), build_model(spiking))
