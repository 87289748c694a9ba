"""Sound: the published training on Speech Commands, and recipes that run on a laptop."""

from __future__ import annotations

from unireplknet.modalities.audio import AudioAugment, AudioInput
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer


def speech_commands() -> Recipe:
    """Speech Commands v0.02, 35 words, as published, UniRepLKNet-S.

    Settings are those of the authors' script (https://github.com/AILab-CVC/UniRepLKNet, Audio). Differences: mixup
    blends maps instead of waveforms, one ratio a batch; AdamW instead of Adam, which a weight decay of 5e-7 cannot tell
    apart; time shifts reach 10 frames both ways instead of 10 and 9. They compute in float16 without a gradient scaler;
    ``--trainer.precision 16-mixed`` does with one.

    Command: unireplknet train speech_commands --data PATH
    Hardware: 1 GPU.
    Time: about 1 h on an A100 (estimate: the paper's training speed of S at 224 pixels, by MACs), if 8 processor cores
        keep up with it.
    Score: 98.5% of the test list (journal version, table 8). Not run.
    """
    return Recipe(
        "speech_commands",
        model=Model("unireplknet_s", drop_path=0.4),
        data=Data("speechcommands", workers=8),
        input=AudioInput(mean=-6.845978, std=5.5654526),
        augment=AudioAugment(time_mask=48, frequency_mask=48, shift=10, grain=0.1),
        optim=Optim(
            epochs=100,
            batch_size=128,
            lr=2.5e-4,
            warmup_epochs=0,
            epoch_decay=0.85,
            steady_epochs=5,
            betas=(0.95, 0.999),
            weight_decay=5e-7,
            loss="bce",
            label_smoothing=0.0,
            mixup=10.0,
            mix_prob=0.6,
        ),
    )


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
        model=_small(),
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
        model=_small(),
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
        model=_small(),
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


ALL = (speech_commands, keywords, language, speakers)


def _small() -> Model:
    return Model(
        "unireplknet_a",
        depths=(1, 1, 2, 1),
        dims=(24, 48, 96, 192),
        kernel_sizes=((7,), (7,), (7, 7), (3,)),
        drop_path=0.1,
    )
