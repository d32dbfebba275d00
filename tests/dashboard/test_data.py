"""Data sets and baselines in the app: what is not here is offered, and pages say what they cannot show."""

import gzip
import hashlib
import threading
import time
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from streamlit.testing.v1 import AppTest

from dashboard import data as data_sets
from dashboard import session
from engine import ModelConfig, build_model, datasets, save_checkpoint
from engine.datasets import Remote, get
from engine.datasets.idx import TEST, TRAIN
from tests.dashboard.apps import APP, WAIT, finished, healthy, serving
from tests.engine.test_aedat import aedat_bytes

PAGES = ("overview", "gamma", "spikes", "early_exit", "robustness")
FILES = (*TRAIN, *TEST)
NETWORKS = {
    "mnist": ("mnist", dict(in_shape=(1, 28, 28), steps=2)),
    "rows": ("sequential-mnist", dict(arch="mlp", layout="F6", encoding="rows", in_shape=(1, 28, 28), steps=28)),
    "events": ("cifar10-dvs", dict(encoding="events", in_shape=(2, 16, 16), steps=3)),
    "bn": ("digits", dict(norm="bn")),
    "none": ("digits", dict(norm="none")),
    "ann": ("digits", dict(kind="ann", norm="bn", encoding="direct", steps=1)),
    "converted": ("digits", dict(kind="converted", norm="folded", leak=1.0)),
}


@pytest.fixture(scope="module", autouse=True)
def runs(tmp_path_factory):
    """A folder with a tiny network of each kind, in a set of runs, and the work queue, closed at the end."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    for name, (dataset, change) in NETWORKS.items():
        values = dict(arch="vgg-small", layout="C4 P F8", steps=3, in_shape=(1, 16, 16)) | change
        entry = get(dataset)
        model = build_model(ModelConfig(**values))
        save_checkpoint(
            folder / "set" / name / "model.safetensors", model, dataset=dataset, mean=entry.mean, std=entry.std
        )
    with serving(folder):
        yield folder


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty data folder."""
    monkeypatch.setenv("BNTT_DATA", str(tmp_path))
    for kept in (data_sets._known, data_sets._downloads, session._fitted):
        kept.clear()
    return tmp_path


def opened(page, name, **query) -> AppTest:
    app = AppTest.from_file(APP, default_timeout=WAIT)
    app.query_params.update({"model": f"runs/set/{name}", **query})
    app.run()
    return app if page == "overview" else app.switch_page(f"../pages/{page}.py").run()


def said(app) -> str:
    return " ".join(str(e.value) for kind in (app.info, app.markdown, app.caption, app.warning) for e in kind)


def choose_data(app, name) -> AppTest:
    box = next(box for box in app.sidebar.selectbox if box.label == "Data set")
    return box.set_value(name).run()


def write_mnist(place: Path, count: int = 30) -> dict[str, bytes]:
    """Drawn images in MNIST's four files."""
    place.mkdir(parents=True, exist_ok=True)
    draw, files = np.random.default_rng(0), {}
    for stem in FILES:
        header = bytes((0, 0, 8, 3 if "images" in stem else 1)) + count.to_bytes(4, "big")
        if "images" in stem:
            body = draw.integers(0, 256, count * 784, dtype=np.uint8).tobytes()
            header += (28).to_bytes(4, "big") * 2
        else:
            body = (np.arange(count) % 10).astype(np.uint8).tobytes()
        files[f"{stem}.gz"] = gzip.compress(header + body, mtime=0)
        (place / f"{stem}.gz").write_bytes(files[f"{stem}.gz"])
    return files


# --------------------------------------------------------------------------------------------- what is not here


def test_the_data_set_sits_in_the_url():
    app = healthy(opened("spikes", "mnist", data=""))
    name = next(box.key for box in app.sidebar.selectbox if box.label == "Data set")
    assert "MNIST is not here" in said(healthy(opened("spikes", "mnist", **{name: "mnist"})))


@pytest.mark.parametrize("page", PAGES)
def test_a_data_set_that_is_not_here_is_a_sentence_and_a_button(page, folder):
    app = healthy(choose_data(opened(page, "mnist"), "mnist"))
    assert not app.error
    if page == "gamma":
        assert "MNIST is not here. " not in said(app), "γ needs no data"
        return
    assert f"MNIST is not here. {folder} holds no MNIST; put train-images-idx3-ubyte.gz" in said(app)
    assert [b.label for b in app.main.button if "Download" in b.label] == ["Download MNIST (12 MB)"]


def test_a_network_is_shown_digits_until_its_own_data_is_here(folder):
    app = opened("overview", "mnist")
    assert "was trained on mnist and gets Digits here" in said(finished(app))
    write_mnist(folder / "MNIST")
    data_sets._known.clear()
    app = finished(opened("overview", "mnist"))
    assert "gets Digits" not in said(app) and "· MNIST, sample 0" in said(app)


def test_events_are_not_shown_to_a_network_for_images_nor_the_other_way_round(folder):
    boxes = {name: opened("overview", name).sidebar.selectbox for name in ("mnist", "events")}
    offered = {name: next(b for b in found if b.label == "Data set").options for name, found in boxes.items()}
    assert offered["events"] == ["cifar10-dvs", "cifar10-dvs-duration"]
    assert offered["mnist"][0] == "digits" and not set(offered["events"]) & set(offered["mnist"])
    app = healthy(opened("spikes", "events"))
    assert "CIFAR10-DVS is not here." in said(app)


def test_results_follow_the_files_of_a_data_set(folder):
    """Images that were replaced are other images, though the data set has the same name."""

    def spikes(level):
        for split in ("train", "test"):
            for name in ("cats", "dogs"):
                (folder / "pets" / split / name).mkdir(parents=True, exist_ok=True)
                for number in range(3):
                    image = np.full((16, 16), level, np.uint8)
                    Image.fromarray(image).save(folder / "pets" / split / name / f"{number}.{level}.png")
        for old in (folder / "pets").rglob("*.png"):
            if f".{level}." not in old.name:
                old.unlink()
        data_sets._known.clear()
        app = finished(choose_data(opened("early_exit", "bn"), "pets"))
        return next(metric.value for metric in app.metric if metric.label == "Spikes a sample")

    assert spikes(10) != spikes(250)


def test_a_data_set_that_vanishes_while_it_is_looked_at_is_a_sentence(folder):
    write_mnist(folder / "MNIST")
    app = choose_data(opened("spikes", "mnist"), "mnist")
    for path in (folder / "MNIST").iterdir():
        path.unlink()
    assert "MNIST is not here." in said(healthy(app.run()))


def test_damaged_files_are_a_sentence(folder):
    for name, content in write_mnist(folder / "MNIST").items():
        (folder / "MNIST" / name).write_bytes(content[: len(content) // 2])
    app = healthy(choose_data(opened("early_exit", "mnist"), "mnist"))
    assert "MNIST cannot be read. t10k-images-idx3-ubyte.gz is cut off" in said(app)


@pytest.fixture
def served(tmp_path_factory, monkeypatch):
    """MNIST's address leads to a server here, which has drawn images."""
    site = tmp_path_factory.mktemp("site")
    files = write_mnist(site)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    remote = tuple(
        Remote(
            f"MNIST/raw/{name}",
            f"http://127.0.0.1:{server.server_port}/{name}",
            f"sha256:{hashlib.sha256(body).hexdigest()}",
            len(body),
        )
        for name, body in files.items()
    )
    fixed = tuple(replace(entry, remote=remote) if entry.name == "mnist" else entry for entry in datasets._FIXED)
    monkeypatch.setattr(datasets, "_FIXED", fixed)
    yield site
    server.shutdown()
    server.server_close()


def transferred(app) -> AppTest:
    """The page once the transfer has ended."""
    deadline = time.monotonic() + WAIT
    while not data_sets._downloads()["mnist"].over and time.monotonic() < deadline:
        time.sleep(0.05)
    data_sets._known.clear()
    return healthy(app.run())


def download_button(app):
    return next(button for button in app.main.button if button.label.startswith("Download MNIST"))


def test_the_button_fetches_it_and_the_page_goes_on(served, folder):
    app = choose_data(opened("spikes", "mnist"), "mnist")
    download_button(app).click().run()
    app = transferred(app)
    assert "not here" not in said(app) and "**Sample 0** · it shows **0**" in said(app)
    assert sorted(path.name for path in (folder / "MNIST" / "raw").iterdir()) == sorted(f"{stem}.gz" for stem in FILES)


def test_a_transfer_that_fails_says_why_and_can_be_tried_again(served, folder):
    hidden = {path: path.read_bytes() for path in served.iterdir()}
    for path in hidden:
        path.unlink()
    app = choose_data(opened("spikes", "mnist"), "mnist")
    download_button(app).click().run()
    app = transferred(app)
    assert "404" in app.error[0].value and "\n" not in app.error[0].value
    for path, content in hidden.items():
        path.write_bytes(content)
    download_button(app).click().run()
    assert "it shows **0**" in said(transferred(app))


def test_a_folder_of_images_is_offered(folder):
    for split in ("train", "test"):
        for label, name in enumerate(("cats", "dogs")):
            (folder / "Pets" / split / name).mkdir(parents=True)
            for number in range(3):
                image = np.full((32, 32, 3), 60 * label + 10 * number, np.uint8)
                Image.fromarray(image).save(folder / "Pets" / split / name / f"{number}.png")
    app = choose_data(opened("spikes", "bn"), "pets")
    assert "Pets, sample 0" in said(healthy(app))


# --------------------------------------------------------------------------------------------- kinds of network


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", ["bn", "none", "ann", "converted"])
def test_pages_say_what_a_baseline_can_show(page, name):
    app = finished(opened(page, name))
    assert not app.error
    words = {"ann": "ordinary network", "converted": "converted network"}.get(name, "baseline")
    assert words in said(app)
    if page == "gamma":
        assert not app.main.selectbox and not app.main.slider
    if page == "early_exit":
        assert "γ rule leaves" not in said(app) and bool(app.main.slider) == (name != "ann")
        assert app.metric[0].label == "Accuracy"


@pytest.mark.parametrize("page", PAGES)
def test_sequences_work_on_every_page(page, folder):
    write_mnist(folder / "MNIST")
    app = finished(opened(page, "rows"))
    assert not app.error and "Sequential MNIST (rows), sample 0" in said(app)
    if page == "spikes":
        assert "one row of the image is the current at every timestep" in said(app)


@pytest.mark.parametrize("page", PAGES)
def test_events_work_on_every_page(page, folder):
    draw = np.random.default_rng(0)
    for name in get("cifar10-dvs").classes:
        (folder / "CIFAR10-DVS" / name).mkdir(parents=True)
        for number in range(2):
            events = [(t * 100, *draw.integers(0, 128, 2).tolist(), t % 2) for t in range(300)]
            (folder / "CIFAR10-DVS" / name / f"cifar10_{name}_{number}.aedat").write_bytes(aedat_bytes(events))
    app = finished(opened(page, "events"))
    assert not app.error and "CIFAR10-DVS, sample 0" in said(app)
    if page == "spikes":
        assert "ON minus OFF events" in said(app)
    if page == "robustness":
        assert "act on the frames of events" in said(app) and "Perturbation, summed over the frames" in said(app)
        kinds = ["deletion", "insertion", "jitter", "pgdl2"]
        app.button_group(key="attacks").set_value(kinds).run()
        app.text_input(key="share").set_value("0.5").run()
        app.number_input(key="samples").set_value(2).run()
        app.button(key="run_sweep").click().run()
        told = [table.value["Disturbance"].tolist() for table in finished(app).main.dataframe if "Right" in table.value]
        assert told == [["none (clean)", "Event deletion", "Event insertion", "Event jitter", *["PGD L2"] * 4]]
        assert not app.error


def test_large_test_sets_are_run_in_part(folder, monkeypatch):
    write_mnist(folder / "MNIST", 230)
    monkeypatch.setattr("engine.analysis.evaluation._MINUTE_MACS", {"cpu": 0, "cuda": 0})
    app = finished(opened("early_exit", "mnist"))
    box = next(box for box in app.sidebar.number_input if box.label == "Test samples")
    assert box.value == 100 and "of 100 samples right" in app.metric[0].help
    box.set_value(230).run()
    assert "of 230 samples right" in finished(app).metric[0].help
