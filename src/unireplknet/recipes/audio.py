"""Sound: the published training on Speech Commands."""

from __future__ import annotations

from unireplknet.modalities.audio import AudioAugment, AudioInput
from unireplknet.training.recipe import Data, Model, Optim, Recipe


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


ALL = (speech_commands,)
