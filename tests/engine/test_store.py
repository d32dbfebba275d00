"""Results kept by content: what comes back, what is given up when something is wrong, and who meets whose results."""

import functools
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine import database, load_checkpoint, store
from engine.analysis import evaluation, robustness
from engine.analysis.early_exit import latency
from engine.analysis.robustness import Attack
from engine.datasets import get
from engine.job import Job
from engine.store import Store, StoreWarning, answered, place, question

from .evaluations import made_up
from .test_commands import write_model
from .test_result_codec import example, same

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_warning_unless_expected():
    with warnings.catch_warnings():
        warnings.simplefilter("error", StoreWarning)
        yield


@pytest.fixture
def checkpoint(tmp_path):
    return load_checkpoint(write_model(tmp_path / "tiny.safetensors"))


@pytest.fixture
def asked(checkpoint):
    return question(checkpoint, get("digits"), evaluation.evaluate_rows, seed=0, precision="float32")


def put(kept: Store, asked, number: int, result=None) -> str:
    key = asked.key((number,))
    kept.put(key, asked, (number,), example() if result is None else result)
    return key


# --------------------------------------------------------------------------------------- results come back


def test_results_come_back_and_are_listed(kept, asked):
    table = pd.DataFrame({"step": [1, 2], "latency_ms": [0.5, float("nan")], "measured": [True, False]})
    one, two = put(kept, asked, 1), put(kept, asked, 2, table)
    missing = asked.key((3,))
    found = kept.get([one, missing, two])
    assert set(found) == {one, two} == kept.present([missing, two, one])
    assert same(found[one], example())
    pd.testing.assert_frame_equal(found[two], table, check_exact=True)
    assert kept.get([]) == {} and kept.present([]) == set()
    assert put(kept, asked, 1, table) == one and isinstance(kept.get([one])[one], pd.DataFrame), "replaced"
    kept.clear()
    assert kept.size() == 0 and kept.present([one, two]) == set()


def test_many_keys_at_once(kept, asked):
    keys = [asked.key((number,)) for number in range(40_000)]  # more than SQLite takes parameters
    kept.put(keys[-1], asked, (39_999,), example())
    assert kept.present(keys) == set(kept.get(keys)) == {keys[-1]}


def test_a_person_can_read_what_was_asked(kept, asked):
    put(kept, asked, 7)
    with closing(sqlite3.connect(kept.path)) as file, file:
        said = json.loads(file.execute("SELECT question FROM results").fetchone()[0])
    assert said["model"] == "tiny.safetensors" and said["data"] == "digits" and said["part"] == "(7,)"
    assert said["settings"] == {"precision": "float32", "seed": 0}
    assert said["function"] == "engine.analysis.evaluation.evaluate_rows"
    assert len(said["weights"]) == 64 and said["engine"] == store.engine_version()


@pytest.mark.parametrize(
    "name",
    ["'); DROP TABLE results; --", '"quoted"\\', "γ ü 模型 \U0001f600", "line\nbreak\0nul", "bad \udcff byte", ""],
)
def test_hostile_names_are_text_like_any_other(name, kept, checkpoint):
    checkpoint.name = name
    asked = question(checkpoint, get("digits"), evaluation.evaluate_rows, note=name)
    key = put(kept, asked, 1)
    assert same(kept.get([key])[key], example())
    with closing(sqlite3.connect(kept.path)) as file, file:
        said = json.loads(file.execute("SELECT question FROM results").fetchone()[0])
    assert said["model"] == said["settings"]["note"] == name
    name = name.encode("utf-8", "replace").decode()  # a title has no half characters
    kept.record(Job(name, name, 3, where=(name, {name: [name]})))
    (record,) = kept.jobs()
    assert (record.key, record.title, record.page, record.query) == (name, name, name, {name: [name]})


def test_where_the_store_is(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("BNTT_STORE", str(tmp_path / "own"))
    assert store.store().path == tmp_path / "own" / "results.sqlite"
    monkeypatch.delenv("BNTT_STORE")
    assert store.store().path == tmp_path / "data" / ".results" / "results.sqlite"
    assert store.store() is store.store()
    (tmp_path / "file").touch()
    monkeypatch.setenv("BNTT_DATA", str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert store.store().path == tmp_path / "cache" / "bntt" / "results" / "results.sqlite"


def test_the_least_recently_used_go_first(tmp_path, asked):
    one = Store(tmp_path / "measure")
    put(one, asked, 0)
    size = one.size()
    kept = Store(tmp_path / "small", limit=3 * size + size // 2)
    keys = [put(kept, asked, number) for number in range(3)]
    kept.get(keys[:1])
    keys.append(put(kept, asked, 3))
    assert kept.present(keys) == {keys[0], keys[2], keys[3]}
    assert kept.size() == 3 * size
    kept.present([keys[2]])  # to look is not to use
    keys.append(put(kept, asked, 4))
    assert kept.present(keys) == {keys[0], keys[3], keys[4]}


def test_the_file_shrinks_when_results_go(kept, asked):
    noise = pd.DataFrame({"x": np.random.default_rng(0).random(200_000)})
    put(kept, asked, 1, noise)
    full = kept.path.stat().st_size
    kept.clear()
    kept.present([])
    assert full > 1_000_000 > 10 * kept.path.stat().st_size


# -------------------------------------------------------------------------------- damage and other trouble


@pytest.mark.parametrize("change", ["flip", "cut", "text", "null", "another type"])
def test_a_damaged_result_is_not_there_and_is_deleted(change, kept, asked):
    key, other = put(kept, asked, 1), put(kept, asked, 2)
    with closing(sqlite3.connect(kept.path)) as file, file:
        content = file.execute("SELECT result FROM results WHERE key = ?", [key]).fetchone()[0]
        middle = len(content) // 2
        changed = {
            "flip": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "cut": content[:middle],
            "text": "text",
            "null": None,
            "another type": 5,
        }[change]
        file.execute("UPDATE results SET result = ? WHERE key = ?", [changed, key])
    assert set(kept.get([key, other])) == {other}
    assert kept.present([key, other]) == {other}


def test_a_result_with_a_right_checksum_that_is_none_is_deleted_too(kept, asked):
    key, hostile = put(kept, asked, 1), b"cos\nsystem\n(S'touch here'\ntR."  # a pickle that would run a command
    with closing(sqlite3.connect(kept.path)) as file, file:
        file.execute("UPDATE results SET result = ?, checksum = ?", [hostile, store._checksum(hostile)])
    assert kept.get([key]) == {} and kept.present([key]) == set()


DAMAGE = {
    "text": lambda content: b"no database at all\n" * 300,
    "middle": lambda content: content[:4096] + os.urandom(len(content) - 8192) + content[-4096:],
    "header": lambda content: os.urandom(100) + content[100:],
    "cut": lambda content: content[: len(content) // 3],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_put_aside_and_a_new_one_made(damage, kept, asked):
    keys = [put(kept, asked, number) for number in range(40)]
    content = DAMAGE[damage](kept.path.read_bytes())
    kept.path.write_bytes(content)
    with pytest.warns(StoreWarning, match="was damaged and is called results.damaged.sqlite now") as said:
        kept.get(keys)
        key = put(kept, asked, 99)
    assert len(said) == 1 and str(said[0].message).count(". ") == 0
    assert (kept.path.parent / "results.damaged.sqlite").read_bytes() == content
    assert same(kept.get([key])[key], example())


def test_threads_that_meet_a_damaged_file_at_once_put_it_aside_once(kept, asked):
    put(kept, asked, 0)
    kept.path.write_bytes(b"no database at all\n" * 300)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=put, args=(kept, asked, number)) for number in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [entry.category for entry in said] == [StoreWarning]
    assert len(kept.get([asked.key((number,)) for number in range(1, 9)])) == 8


def test_what_another_process_has_made_anew_is_not_put_aside(kept, asked):
    key, damaged = put(kept, asked, 1), (1, 1)  # device and number of a file that is no longer there
    kept._file._put_aside(damaged)
    assert kept.present([key]) == {key} and not (kept.path.parent / "results.damaged.sqlite").exists()


def test_the_journal_of_a_damaged_file_goes_with_it(kept, asked, tmp_path):
    """A computer that was switched off leaves a journal with results in it; then the file itself is damaged."""
    for number in range(40):
        put(kept, asked, number)
    (tmp_path / "left").mkdir()
    with closing(sqlite3.connect(kept.path)) as other:
        other.execute("SELECT count(*) FROM results").fetchall()  # as long as it is open the journal stays
        put(kept, asked, 99)
        for path in kept.path.parent.glob("results.sqlite*"):
            (tmp_path / "left" / path.name).write_bytes(path.read_bytes())
    left = Store(tmp_path / "left")
    journal = left.path.with_name("results.sqlite-wal").read_bytes()
    assert len(journal) > 1000
    left.path.write_bytes(b"no database at all\n" * 300)
    with pytest.warns(StoreWarning, match="was damaged"):
        keys = [put(left, asked, number) for number in (0, 1)]
    assert left.path.with_name("results.damaged.sqlite-wal").read_bytes() == journal
    assert left.present([*keys, asked.key((99,))]) == set(keys) == set(left.get(keys))


def test_a_folder_that_cannot_be_made_fails_nothing_and_is_told_once(tmp_path, asked):
    (tmp_path / "file").touch()
    kept = Store(tmp_path / "file" / "store")
    with pytest.warns(StoreWarning, match="results are not kept") as said:
        key = put(kept, asked, 1)
        assert kept.get([key]) == {} and kept.present([key]) == set() and kept.size() == 0 and kept.jobs() == []
        kept.record(Job("key", "title", 3))
        kept.clear()
    assert len(said) == 1


def test_a_full_disk_fails_nothing(kept, asked):
    """The operating system lets no file grow beyond a limit: the write ends as on a full disk."""
    key = put(kept, asked, 1)
    big = pd.DataFrame({"x": np.random.default_rng(0).random(100_000)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.warns(StoreWarning, match="results are not kept"):
            put(kept, asked, 2, big)
        assert set(kept.get([key, asked.key((2,))])) == {key}, "what was there can be read"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert kept.get([put(kept, asked, 2, big)]), "and when there is room again all is as before"


def test_somebody_who_holds_the_file_for_too_long_fails_nothing(kept, asked, monkeypatch):
    key = put(kept, asked, 1)
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    with closing(sqlite3.connect(kept.path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.warns(StoreWarning, match="locked"):
            put(kept, asked, 2)
        assert same(kept.get([key])[key], example()), "reading waits for nobody"
        other.rollback()
    assert put(kept, asked, 2) in kept.present([asked.key((2,))])


def test_a_mistake_of_ours_is_not_swallowed(kept):
    with pytest.raises(sqlite3.OperationalError):
        kept._file.read(lambda sql: sql.execute("SELECT nothing FROM nowhere"), None)


def test_what_cannot_be_kept_is_a_mistake_of_ours(kept, asked):
    with pytest.raises(TypeError):
        kept.put(asked.key((1,)), asked, (1,), "text")


def test_without_pyarrow_nothing_is_kept(kept, asked, monkeypatch):
    key = put(kept, asked, 1)
    monkeypatch.setattr(store.result_codec, "available", lambda: False)
    put(kept, asked, 2)
    assert kept.get([key]) == {}
    assert answered(asked, [(1,), (3,)], lambda number: example(number)).__len__() == 2


# --------------------------------------------------------------------------------------- several processes

WRITER = """
import os, sys
import numpy as np, pandas as pd
from pathlib import Path
from engine.store import Question, Store
kept = Store(Path(sys.argv[1]))
asked = Question("m", "w", "n", None, "f", "{}", "e")
print("ready", flush=True)
for line in sys.stdin:  # each time in a process of its own, whose number is told
    name, count = line.split()
    child = os.fork()
    if not child:
        for number in range(int(count)):
            part = (name, number)
            kept.put(asked.key(part), asked, part, pd.DataFrame({"x": np.full(2000, number) + np.arange(2000)}))
            kept.put(asked.key(("both", number)), asked, part, pd.DataFrame({"x": [number]}))
        os._exit(0)
    print(child, flush=True)
    print("ended", os.waitpid(child, 0)[1], flush=True)
"""
WRITTEN = store.Question("m", "w", "n", None, "f", "{}", "e")
COUNT = 12


@pytest.fixture
def writer(tmp_path):
    """writer() → a process that writes into the store in tmp_path what it is told to."""
    made = []

    def start():
        made.append(
            subprocess.Popen(
                [sys.executable, "-W", "error", "-c", WRITER, str(tmp_path)],
                **dict(cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1),
            )
        )
        return made[-1]

    yield start
    for process in made:
        process.communicate(timeout=30)  # the end of its input ends it


def told(process) -> str:
    return process.stdout.readline().strip()


def test_two_processes_and_two_threads_write_at_once(tmp_path, writer):
    """Into a file that none of them has made yet; every result of each is there."""
    processes = [writer(), writer()]
    assert [told(process) for process in processes] == ["ready", "ready"]
    for process, name in zip(processes, ("one", "two")):
        process.stdin.write(f"{name} {COUNT}\n")
    kept = Store(tmp_path)

    def here(name):
        for number in range(COUNT):
            kept.put(WRITTEN.key((name, number)), WRITTEN, (name, number), pd.DataFrame({"x": [number]}))

    threads = [threading.Thread(target=here, args=(name,)) for name in ("three", "four")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process in processes:
        assert told(process).isdigit() and told(process) == "ended 0"
    for name in ("one", "two", "three", "four", "both"):
        keys = [WRITTEN.key((name, number)) for number in range(COUNT)]
        found = kept.get(keys)
        assert [found[key]["x"].iloc[0] for key in keys] == list(range(COUNT)), name


def test_killed_while_it_writes_a_store_stays_readable(tmp_path, writer):
    kept, chance, process = Store(tmp_path), np.random.default_rng(0), writer()
    assert told(process) == "ready"
    for attempt in range(5):
        process.stdin.write(f"killed-{attempt} 1000000\n")
        number = int(told(process))
        while not kept.present([WRITTEN.key((f"killed-{attempt}", 0))]):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.2))
        os.kill(number, signal.SIGKILL)
        assert told(process) == f"ended {signal.SIGKILL.value}"
        keys = [WRITTEN.key((f"killed-{attempt}", number)) for number in range(2000)]
        there = kept.present(keys)
        assert there == set(keys[: len(there)]), "in the order in which they were written, none missing"
        assert all(len(frame) == 2000 for frame in kept.get(keys).values())
        with closing(sqlite3.connect(kept.path)) as file, file:
            assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# ---------------------------------------------------------------------------- the command line and the app


@pytest.fixture
def calls(monkeypatch):
    """The parts that were really computed, in order."""
    seen = []
    for module, name in ((evaluation, "evaluate_rows"), (robustness, "attack_rows")):

        def counted(*part, function=getattr(module, name), **shared):
            seen.append(part)
            return function(*part, **shared)

        monkeypatch.setattr(module, name, functools.wraps(getattr(module, name))(counted))
    return seen


EVALUATE = ("--samples", "25", "--seed", "3")
ATTACK = ("--attack", "pgd", "--eps", "0", "8/255", "--attack-steps", "2", "--samples", "12")


@pytest.mark.parametrize(
    "command, options", [("evaluate", EVALUATE), ("robustness", ATTACK)], ids=["evaluate", "attack"]
)
def test_the_command_computes_once(command, options, kept, checkpoint, tmp_path, answer, calls):
    file = str(tmp_path / "tiny.safetensors")
    told = answer(command, file, *options)
    computed = len(calls)
    assert computed > 1
    assert answer(command, file, *options) == told and len(calls) == computed, "the second time from the store"
    answer(command, file, *options, "--leak", "0.3")
    assert len(calls) == 2 * computed, "another λ is another question"
    size = kept.size()
    assert answer(command, file, *options, "--leak", "0.4", "--no-store")["samples"] and len(calls) == 3 * computed
    assert answer(command, file, *options, "--no-store") == told and len(calls) == 4 * computed
    assert kept.size() == size, "--no-store keeps nothing and believes nothing"


def test_the_command_takes_what_the_app_computed(kept, checkpoint, tmp_path, answer, calls):
    """What the app keeps is put here by hand, with a result that no network gives; the command must tell that."""
    config, count = checkpoint.config, 25
    asked = question(checkpoint, get("digits"), evaluation.evaluate_rows, precision="float32", seed=3)
    labels = get("digits").load("test").labels[:count].numpy()
    for start, stop in evaluation.evaluation_parts(config, count):
        right = np.tile(labels[start:stop], (config.steps, 1)).astype(np.int32)
        spikes = np.full((config.steps, 3, stop - start), 5, np.int64)
        kept.put(asked.key((start, stop)), asked, (start, stop), made_up(right, labels[start:stop], spikes))
    told = answer("evaluate", str(tmp_path / "tiny.safetensors"), *EVALUATE)
    assert calls == [] and told["accuracy"] == 1.0
    assert [row["spikes"] for row in told["steps"]] == [10.0, 20.0, 30.0, 40.0], "5 in each of two layers a step"


def test_the_app_finds_what_the_command_computed(kept, checkpoint, tmp_path, answer):
    """As the app asks: of its own View's fingerprint, with an Attack from its form."""
    answer("robustness", str(tmp_path / "tiny.safetensors"), *ATTACK)
    asked = question(checkpoint, get("digits"), robustness.attack_rows, seed=0, encodings=1)
    assert asked.network == store.fingerprint(checkpoint, place(get("digits")))
    attacks = [Attack("pgd", 0.0, 2, None), Attack("pgd", 8 / 255, 2, None)]
    parts = robustness.sweep_parts(checkpoint.config, attacks, 12)
    found = kept.get([asked.key(part) for part in parts])
    pixels, labels = get("digits").load("test")
    shared = dict(model=checkpoint.model, mean=checkpoint.mean, std=checkpoint.std)
    for part in parts:
        assert same(
            found[asked.key(part)], robustness.attack_rows(*part, **shared, pixels=pixels, labels=labels, seed=0)
        )


def test_a_stopped_command_goes_on_where_it_was(kept, asked):
    parts, computed = [(number,) for number in range(6)], []

    def compute(number):
        if len(computed) == 4:
            raise KeyboardInterrupt
        computed.append(number)
        return pd.DataFrame({"x": [number]})

    with pytest.raises(KeyboardInterrupt):
        answered(asked, parts, compute)
    del computed[0]  # room for two more
    shown = []
    results = answered(asked, [*parts[:5], parts[0]], compute, progress=lambda left: shown.extend(left) or left)
    assert shown == [(4,)] and computed == [1, 2, 3, 4]
    assert [frame["x"].item() for frame in results] == [0, 1, 2, 3, 4, 0]


def test_the_command_tells_in_one_line_that_nothing_is_kept(checkpoint, tmp_path):
    (tmp_path / "file").touch()
    ended = subprocess.run(
        [sys.executable, "-m", "engine", "evaluate", str(tmp_path / "tiny.safetensors"), "--samples", "3", "--json"],
        cwd=ROOT,
        env={**os.environ, "BNTT_STORE": str(tmp_path / "file" / "store")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0 and json.loads(ended.stdout)["samples"] == 3
    assert ended.stderr.startswith("python -m engine: ") and ended.stderr.count("\n") == 1
    assert "results are not kept" in ended.stderr


def test_latency_is_kept_like_the_rest(kept, checkpoint):
    asked = question(checkpoint, None, latency, machine="here")
    (first,) = answered(asked, [()], lambda: latency(checkpoint.model, repeats=1))
    (again,) = answered(asked, [()], lambda: pytest.fail("it is known"))
    pd.testing.assert_frame_equal(again, first, check_exact=True)
