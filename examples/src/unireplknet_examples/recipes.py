"""Recipes that run on a laptop, of data sets that :mod:`unireplknet_examples` installs."""

from __future__ import annotations

from typing import Any

from unireplknet.modalities.audio import AudioAugment, AudioInput
from unireplknet.modalities.image import ImageAugment, ImageInput
from unireplknet.modalities.points import PointsAugment, PointsInput
from unireplknet.modalities.series import SeriesAugment
from unireplknet.modalities.video import VideoAugment, VideoInput
from unireplknet.recipes.detect import boxes
from unireplknet.recipes.network import small_network
from unireplknet.recipes.segment import masks
from unireplknet.tasks.detect.inputs import DetectAugment, DetectInput
from unireplknet.tasks.detect.task import DetectHead
from unireplknet.tasks.forecast.inputs import ForecastInput
from unireplknet.tasks.segment.inputs import SegmentAugment
from unireplknet.tasks.segment.task import SegmentHead
from unireplknet.training.plan import Samples
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer

MNIST = Samples(classes=10, splits={"train": 60_000, "test": 10_000})


def mnist() -> Recipe:
    """Handwritten digits of 28 x 28 pixels: 60,000 to learn from, 10,000 to test with.

    Command: unireplknet fetch mnist && unireplknet train mnist --data data/mnist
    Hardware: a CPU; two cores are enough.
    Time: a quarter of an hour.
    Score: 99.46% of the test split, seed 0 (benchmarks/results/small_runs.json); 1-nearest-neighbour: 96.91%. Run.
    """
    return Recipe(
        "mnist",
        model=small_network((16, 32, 64, 128), stem_stride=2),
        data=Data("mnist", val_fraction=0.05, workers=1),
        input=ImageInput(size=28, channels=1, fit="squash", mean=(0.13,), std=(0.31,)),
        augment=ImageAugment(rotate=10, translate=0.08, zoom=0.1, shear=5),
        optim=Optim(epochs=12, batch_size=128, lr=4e-3, warmup_epochs=1, ema=0.998),
        trainer=Trainer(select="loss"),
    )


def emoji() -> Recipe:
    """Colour emoji of one vendor in nine categories: 3,781 drawings, of which skin tones and genders stay together.

    Command: npm pack emoji-datasource-google && tar xf emoji-datasource-google-*.tgz
        && unireplknet train emoji --data package
    Hardware: a CPU; two cores are enough.
    Time: about ten minutes.
    Score: 77.9% on subjects that were held out (77.2 to 78.6, three seeds; extremely randomised trees 66.4%), mean over
        the classes 43.2%: most drawings are people. ``unireplknet evaluate RUN --data PATH`` with another vendor's
        package scores that vendor's drawings of the same subjects: 75.6% (74.1 to 76.8; trees 32.8%). Run:
        benchmarks/results/small_runs.json.
    """
    return Recipe(
        "emoji",
        model=small_network(
            (24, 48, 96, 192), depths=(1, 1, 3, 1), kernel_sizes=((7,), (7,), (7, 7, 7), (3,)), stem_stride=2
        ),
        data=Data("emoji", val_fraction=0.15),
        input=ImageInput(size=48, fit="squash"),
        augment=ImageAugment(crop_scale=(0.5, 1.0), flip=0.5, rotate=15, fill=255, brightness=0.4),
        optim=Optim(epochs=40, lr=4e-3, warmup_epochs=3, ema=0.99),
        trainer=Trainer(select="loss"),
    )


SCENE_NETWORK: dict[str, Any] = {
    "name": "unireplknet_a",
    "depths": (1, 1, 3, 1),
    "dims": (32, 64, 128, 256),
    "kernel_sizes": ((3,), (13,), (13, 13, 13), (3,)),
    "drop_path": 0.1,
}
"""What masks and boxes of scenes are learnt by: the backbone of one starts the other."""


def scenes() -> Recipe:
    """Emoji of eight categories on photographs, by a small network under UPerNet.

    Command: unireplknet fetch scenes && unireplknet train scenes --data data/scenes
    Hardware: a CPU; two cores are enough.
    Time: about fifteen minutes on one core.
    Score: 27.1% mIoU (27.0 to 27.2), three seeds; a ConvNeXt of as many parameters
        25.0% (24.7 to 25.1). Run: benchmarks/results/scene_runs.json.
    """
    recipe = masks()
    recipe.name = "scenes"
    recipe.model, recipe.head = Model(**SCENE_NETWORK), SegmentHead("upernet", 64)
    recipe.augment = SegmentAugment(scale=(0.8, 1.25), flip=0.5)
    recipe.optim = Optim(epochs=16, batch_size=16, lr=3e-3, warmup_epochs=1, label_smoothing=0.0, ema=0.99)
    return recipe


def scene_boxes() -> Recipe:
    """Boxes of emoji of eight categories on photographs, by a small network under Faster R-CNN.

    It starts from the backbone that has learnt their masks, by the recipe scenes, as it learns slowly from scratch.

    Command: unireplknet train scene_boxes --data data/scenes --model.weights runs/scenes-1
    Hardware: a CPU; two cores are enough.
    Time: about nine minutes on one core.
    Score: 11.3% box AP (10.2 to 11.9), three seeds; a ConvNeXt of as many parameters
        7.4% (7.2 to 7.5). Run: benchmarks/results/scene_runs.json.
    """
    recipe = boxes()
    recipe.name = "scene_boxes"
    recipe.model = Model(**SCENE_NETWORK)
    recipe.head = DetectHead(width=64, anchors=(8, 16, 32, 64), head_width=256, proposals=100, rois=32)
    recipe.input = DetectInput(short=96, long=128)
    # No larger than they are: batches are filled up to a multiple of 32 pixels.
    recipe.augment = DetectAugment(scale=(0.75, 1.0), flip=0.5)
    recipe.optim = Optim(epochs=6, batch_size=8, lr=1.5e-3, warmup_epochs=0.5, clip_grad=10.0, ema=0.99)
    return recipe


def keywords() -> Recipe:
    """Ten words spoken by a synthesiser, tested with voices that were not trained with.

    Command: unireplknet fetch keywords && unireplknet train keywords --data data/keywords
    Hardware: a CPU; two cores are enough.
    Time: 27 minutes on one core of a busy machine.
    Score: 97.3% on the test voices (97.0, 97.1 and 97.6 for seeds 0, 1 and 2; a forest on cepstra 98.7%;
        benchmarks/results/audio_runs.json). Run.
    """
    return Recipe(
        "keywords",
        model=small_network((24, 48, 96, 192)),
        data=Data("folder", workers=1),
        input=AudioInput(rate=11025, frames=96, mels=64, level="bands", span=40, std=2.0),
        augment=AudioAugment(speed=0.25, tempo=0.2, noise=0.2, time_mask=12, frequency_mask=10, masks=2, shift=8),
        optim=Optim(epochs=24, batch_size=32, lr=3e-3, warmup_epochs=1, mixup=0.2, ema=0.998),
        trainer=Trainer(select="loss"),
    )


def language() -> Recipe:
    """Spanish, French or Russian, tested with speakers and recordings that were not trained with.

    One speaker a language is all there is to train with. What tells these speakers apart, but not languages, is taken
    away where it can be: each band's mean (microphone, room), pitch and pace (random speed and tempo), what is above
    the telephone's 3,800 Hz, and 50 dB and more below the loudest point.

    Command: unireplknet fetch language && unireplknet train language --data data/language
    Hardware: a CPU; two cores are enough.
    Time: about five minutes.
    Score: 45.3% balanced accuracy on the test speakers (39.7, 52.5 and 43.6 for seeds 0, 1 and 2; chance 33.3%, a
        forest on cepstra 21.9%; benchmarks/results/audio_runs.json). Run.
    """
    return Recipe(
        "language",
        model=small_network((24, 48, 96, 192)),
        data=Data("folder", workers=1),
        input=AudioInput(
            rate=8000,
            frames=128,
            mels=40,
            low=100,
            high=3800,
            window=32,
            fill="repeat",
            span=50,
            level="bands",
            std=2.0,
        ),
        augment=AudioAugment(speed=0.3, tempo=0.2, noise=0.3, time_mask=16, frequency_mask=6),
        optim=Optim(epochs=30, batch_size=32, lr=3e-3, warmup_epochs=2, mixup=0.2, ema=0.99),
        trainer=Trainer(select="loss"),
    )


def speakers() -> Recipe:
    """Five languages with one speaker each, tested with other sounds of the same speakers: speaker = language.

    Command: unireplknet fetch speakers && unireplknet train speakers --data data/speakers
    Hardware: a CPU; two cores are enough.
    Time: 16 minutes on one core of a busy machine.
    Score: 96.6% of the test sounds (96.5, 97.1 and 96.2 for seeds 0, 1 and 2; a forest on cepstra 94.2%;
        benchmarks/results/audio_runs.json). Run.
    """
    return Recipe(
        "speakers",
        model=small_network((24, 48, 96, 192)),
        data=Data("folder", workers=1),
        input=AudioInput(
            rate=8000,
            frames=160,
            clips=4,
            mels=40,
            low=100,
            high=3800,
            window=32,
            fill="repeat",
            span=60,
            mean=-4.0,
            std=3.5,
        ),
        augment=AudioAugment(tempo=0.2, noise=0.1, time_mask=12, frequency_mask=4),  # pitch tells speakers apart
        optim=Optim(epochs=30, batch_size=16, lr=2e-3, warmup_epochs=2, mixup=0.2, ema=0.99),
        trainer=Trainer(select="loss"),
    )


AROUND = ((0.0, 0.0), (90.0, 0.0), (180.0, 0.0), (270.0, 0.0), (0.0, 90.0), (0.0, -90.0))
"""Front, both sides, back, top and bottom."""


def furniture() -> Recipe:
    """Furniture in ten classes, 307 models, tested on models by other authors.

    Command: unireplknet fetch furniture && unireplknet train furniture --data data/furniture
    Hardware: a CPU; two cores are enough.
    Time: about a minute.
    Score: 77.1% overall accuracy over five repeats of five folds (75.2 to 78.8 from repeat to repeat), mean over the
        classes 74.7%; a forest on hand-made features on the same folds 75.3%. Run: benchmarks/results/points_runs.json.
    """
    return Recipe(
        "furniture",
        model=small_network((24, 48, 96, 192)),
        data=Data("grouped", val_fraction=0.06, workers=1),
        input=PointsInput(points=2048, sampling="random", up="y", directions=AROUND, size=64, rotations=3, arc=30),
        augment=PointsAugment(mirror=0.5, scale=(0.8, 1.25), turn=15, tilt=5, jitter=0.01, translate=0.05),
        optim=Optim(epochs=60, batch_size=16, lr=4e-3, warmup_epochs=3, ema=0.98),
        trainer=Trainer(select="last"),
    )


def weather() -> Recipe:
    """Temperature and wind of the next 24 hours at three airports.

    Command: unireplknet fetch weather && unireplknet train weather --data data/weather
    Hardware: a CPU; two cores are enough.
    Time: a minute, and a minute for the baselines.
    Score: temperature MSE 8.82, MAE 2.11 (°C), wind speed MSE 4.62, MAE 1.65 (m/s) on the last quarter of the year,
        mean of seeds 0, 1, 2 (benchmarks/results/series_runs.json); ridge 9.07, 2.14, 4.72, 1.67. Run.
    """
    return Recipe(
        "weather",
        model=small_network((16, 16, 24, 24), drop_path=0.2, drop=0.5),
        data=Data("series", val_fraction=0.15, test_fraction=0.25),
        input=ForecastInput(
            horizon=24,
            past=48,
            station="station",
            variables=("temp", "dewp", "humid", "wind_dir", "wind_speed", "pressure"),
            targets=("temp", "wind_speed"),
            units=("°C", "m/s"),
            angles=("wind_dir",),
            calendar=("hour",),
            normalise="none",
            embed_dim=24,
            stations_per_map=1,
            drop=0.5,
        ),
        augment=SeriesAugment(),
        optim=Optim(epochs=5, batch_size=128, lr=1e-3, warmup_epochs=1, ema=0.95),
        trainer=Trainer(select="loss"),
    )


def motion() -> Recipe:
    """Which way a digit moves, 8 directions: the frames alone say nothing, only their order tells.

    Command: unireplknet fetch motion && unireplknet train motion --data data/motion
    Hardware: a CPU; two cores are enough.
    Time: a quarter of an hour beside other jobs, on one thread.
    Score: 99.88% (seeds 0, 1, 2: 100, 99.88, 99.75); with the frames shuffled 12.3%, chance 12.5%
        (benchmarks/results/video_runs.json). Run.
    """
    return Recipe(
        "motion",
        model=Model(
            "unireplknet_a",
            depths=(1, 1, 2, 1),
            dims=(32, 64, 96, 128),
            # A frame is 4 x 4 at stage 1: its kernel sees the neighbouring frames, and how far things went meanwhile.
            kernel_sizes=((13,), (13,), (13, 13), (3,)),
        ),
        data=Data("folder", val_fraction=0.1),
        input=VideoInput(
            frames=16,
            stride=1,
            size=16,
            channels=1,
            fit="squash",
            mean=(0.25,),
            std=(0.25,),
        ),
        augment=VideoAugment(),
        optim=Optim(epochs=10, batch_size=32, lr=3e-3, warmup_epochs=2, clip_grad=1.0, ema=0.99),
        trainer=Trainer(select="loss"),
    )
