"""Sounds through the same commands as pictures: train, evaluate, predict, one class or several each."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unireplknet.cli import main
from unireplknet.modalities.audio import AudioAugment, AudioInput
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer

TONES = {"high": 2500, "low": 300}


def write(path: Path, *tones: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    time = np.arange(3000) / 8000
    wave = rng.normal(0, 0.02, len(time))
    for name in tones:
        wave += 0.3 * np.sin(2 * np.pi * TONES[name] * rng.uniform(0.9, 1.1) * time)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, 8000)


def recipe(path: Path, source: str, **optim: object) -> Recipe:
    return Recipe(
        "tones",
        model=Model("test_unireplknet", stem_stride=2, dims=(8, 8, 16, 16)),
        data=Data(source, str(path), val_fraction=0.25),
        input=AudioInput(rate=8000, frames=32, mels=16, window=32),
        augment=AudioAugment(shift=4, noise=0.1),
        optim=Optim(epochs=6, batch_size=8, lr=1e-2, warmup_epochs=1, ema=0.5, **optim),  # type: ignore[arg-type]
        trainer=Trainer(progress=False, accelerator="cpu"),
    )


def test_one_class_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(24):
        for name in TONES:
            write(tmp_path / "data" / name / f"{i}.wav", name, seed=i)
    soundfile.write(tmp_path / "data" / "low" / "empty.wav", np.zeros(0), 8000)
    recipe(tmp_path / "data", "folder").save(tmp_path / "tones.yaml")
    run = str(tmp_path / "run")
    assert main(["train", str(tmp_path / "tones.yaml"), "--out", run]) == 0
    scores = json.loads((tmp_path / "run" / "evaluation-test.json").read_text())
    assert scores["top1"] > 0.9
    capsys.readouterr()
    files = [str(tmp_path / "data" / "high" / "3.wav"), str(tmp_path / "data" / "low" / "empty.wav")]
    assert main(["predict", run, *files, "--format", "json", "--pictures", str(tmp_path / "seen")]) == 0
    good, bad = json.loads(capsys.readouterr().out)
    assert good["classes"][0] == "high"
    assert Path(good["picture"]).stat().st_size > 5000
    assert "the sound has no samples" in bad["problem"]
    assert "empty.wav" in bad["problem"]


def test_several_classes_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["path,labels"]
    for i in range(120):
        tones = [name for bit, name in enumerate(TONES) if i >> bit & 1]
        write(tmp_path / "sounds" / f"{i}.wav", *tones, seed=i)
        rows.append(f"sounds/{i}.wav,{';'.join(tones)}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    recipe(tmp_path / "list.csv", "list").save(tmp_path / "tones.yaml")
    words = ["train", str(tmp_path / "tones.yaml"), "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "add --optim.loss bce --trainer.select map" in capsys.readouterr().err
    assert main([*words, "--optim.loss", "bce", "--trainer.select", "map", "--optim.epochs", "12"]) == 0
    assert "mean average precision" in capsys.readouterr().out
    scores = json.loads((tmp_path / "run" / "evaluation-test.json").read_text())
    assert scores["map"] > 0.9
    assert (tmp_path / "run" / "curves.png").exists()
    both = str(tmp_path / "sounds" / "119.wav")
    assert main(["predict", str(tmp_path / "run"), both, "--format", "json"]) == 0
    assert sum(json.loads(capsys.readouterr().out)[0]["probabilities"]) > 1.2
