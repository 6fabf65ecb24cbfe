"""However a demo ends, it leaves nothing behind, and reports the reason."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image
from pillow_heif import register_heif_opener
from typer.testing import CliRunner

from tests.demo.running import start_demo
from tests.waiting import wait_until
from worker.cli import app
from worker.demo.drawing.person import Person, Scene
from worker.demo.drawing.portrait import draw


@pytest.fixture
def own_photos(tmp_path: Path) -> Path:
    register_heif_opener()
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, suffix in enumerate(["jpg", "JPG", "png", "heic", "HEIC", "webp"]):
        draw(Person.random(3), Scene(turn=number / 6), (192, 256)).save(folder / f"Ich {number} (Köln).{suffix}")
    return folder


def test_ctrl_c_in_the_middle_of_training_leaves_nothing_running(own_photos: Path, tmp_path: Path) -> None:
    demo = start_demo(tmp_path, "--photos", str(own_photos))
    wait_until(lambda: demo.says("Start `worker run`"), "the worker to be up", 200)
    with demo.database() as database:
        training = "select from public.training_jobs where status = 'running' and progress > 0"
        wait_until(lambda: database.execute(training).fetchall(), "training to progress", 60)
    assert demo.end(signal.SIGINT) == 130, demo.screen.read_text()
    assert "Interrupted by SIGINT" in demo.screen.read_text()
    demo.assert_nothing_is_left()
    assert not (demo.output / "summary.json").exists()


def test_sigterm_between_the_servers_and_the_worker_leaves_nothing_running(own_photos: Path, tmp_path: Path) -> None:
    demo = start_demo(tmp_path, "--photos", str(own_photos))
    wait_until(lambda: demo.says("Migrate"), "the servers to be up", 200)
    assert demo.running("worker.demo.servers")
    assert demo.end(signal.SIGTERM) == 143, demo.screen.read_text()
    demo.assert_nothing_is_left()


INTERRUPTED_IN_A_QUERY = """
import pathlib, signal, sys
import psycopg
from tests.demo.tiny_demo import TINY
from worker.demo.run import main
from worker.demo.demo import Demo

def interrupted(demo, album):
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        raise psycopg.ProgrammingError("another command is already in progress")

Demo.run = interrupted
sys.exit(main(pathlib.Path(sys.argv[1]), None, keep=False, config=TINY))
"""


def test_an_interrupt_that_surfaces_as_an_error_of_a_query_is_reported_as_an_interrupt(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED_IN_A_QUERY, str(tmp_path / "output")]
    demo = subprocess.run(command, capture_output=True, text=True, check=False)
    assert demo.returncode == 143, demo.stdout + demo.stderr
    assert "Interrupted by SIGTERM" in demo.stdout
    assert "failed" not in demo.stdout


def test_a_worker_that_dies_ends_the_demo_with_the_reason_and_its_log(own_photos: Path, tmp_path: Path) -> None:
    demo = start_demo(tmp_path, "--photos", str(own_photos))
    wait_until(lambda: demo.says("Consent") and demo.running("worker run"), "the worker process", 200)
    demo.look()
    for pid in demo.running("worker run"):
        os.kill(pid, signal.SIGKILL)
    assert demo.process.wait(60) == 1
    assert "the worker process died unexpectedly, with exit code 137" in demo.screen.read_text()
    assert str(demo.output / "worker.log") in demo.screen.read_text()
    demo.assert_nothing_is_left()


def run_demo_with_photos(folder: Path) -> Result:
    words = ["demo", "--photos", str(folder), "--output", str(folder / "output")]
    return CliRunner().invoke(app, words, env={"COLUMNS": "300"})


def test_too_few_photos_are_refused_before_anything_starts(tmp_path: Path) -> None:
    for number in range(5):
        Image.new("RGB", (64, 64)).save(tmp_path / f"{number}.jpg")
    (tmp_path / "notes.txt").write_text("not a picture, and not counted as one")
    refused = run_demo_with_photos(tmp_path)
    assert refused.exit_code == 2
    assert "holds 5 pictures" in refused.stdout
    assert "at least 6" in refused.stdout
    assert not (tmp_path / "output").exists()


def test_a_file_that_is_not_a_picture_is_named(tmp_path: Path) -> None:
    for number in range(6):
        Image.new("RGB", (64, 64)).save(tmp_path / f"{number}.png")
    (tmp_path / "holiday.heic").write_bytes(b"this is not a photo")
    refused = run_demo_with_photos(tmp_path)
    assert refused.exit_code == 2
    assert "holiday.heic is not a readable picture" in refused.stdout
