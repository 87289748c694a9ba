"""ImageNet as published: from scratch, ImageNet-22K pretraining, fine-tuning at 384 pixels, and the design ablations.

Data are class-per-folder trees, ``PATH/train/CLASS/*.JPEG`` and ``PATH/val/CLASS/*.JPEG``.

Settings are those of the journal version's appendix B (tables 16 and 17) where it states them, and of the authors'
scripts where it does not: https://github.com/AILab-CVC/UniRepLKNet. Their parameter groups decay GRN's gamma and beta.
Colour jitter, which the scripts name too, has no effect beside RandAugment. Arithmetic is float32, as theirs is unless
asked otherwise; ``--trainer.precision bf16-mixed`` is faster on a GPU that has it.

Hours are estimates, not measurements: what ``--dry-run --tflops X`` says for the TFLOP/s that each recipe states. Those
come from the 6,642 images a second that the paper's table 18 gives for training S at 224 pixels on 8 A100 (46 TFLOP/s
each), scaled by the throughput of table 5 for the smaller ones, which keep a GPU less busy, and taken as they are for
the larger ones and other resolutions. An independent retraining of S in float32 on 8 A800 took about four times as long
(61 hours). ``--dry-run`` also tells the memory that a recipe wants of each device.

None of these has been run by this project.
"""

from __future__ import annotations

from unireplknet.modalities.image import ImageAugment, ImageInput
from unireplknet.training.plan import Samples
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer

IN1K = Samples(classes=1000, splits={"train": 1_281_167, "val": 50_000})
IN22K = Samples(classes=21_841, splits={"train": 14_197_122})

RELEASED = "DingXiaoH/UniRepLKNet"
"""Hub repository of the authors' weights."""


def in1k_a() -> Recipe:
    """ImageNet-1K from scratch, UniRepLKNet-A.

    Command: unireplknet train in1k_a --data PATH
    Hardware: 4 GPUs.
    Time: about 7 h on 4 A100 at 16 TFLOP/s each (estimate).
    Score: 77.0% top-1 (journal version, table 5). Not run.
    """
    return _scratch("a", mixup=0.3, cutmix=0.3, drop_path=0.0)


def in1k_f() -> Recipe:
    """ImageNet-1K from scratch, UniRepLKNet-F.

    Command: unireplknet train in1k_f --data PATH
    Hardware: 4 GPUs.
    Time: about 8 h on 4 A100 at 19 TFLOP/s each (estimate).
    Score: 78.6% top-1 (journal version, table 5). Not run.
    """
    return _scratch("f", mixup=0.3, cutmix=0.3, drop_path=0.0)


def in1k_p() -> Recipe:
    """ImageNet-1K from scratch, UniRepLKNet-P.

    Command: unireplknet train in1k_p --data PATH
    Hardware: 4 GPUs.
    Time: about 10 h on 4 A100 at 25 TFLOP/s each (estimate).
    Score: 80.2% top-1 (journal version, table 5). Not run.
    """
    return _scratch("p", mixup=0.3, cutmix=0.3, drop_path=0.1)


def in1k_n() -> Recipe:
    """ImageNet-1K from scratch, UniRepLKNet-N.

    Command: unireplknet train in1k_n --data PATH
    Hardware: 4 GPUs.
    Time: about 14 h on 4 A100 at 32 TFLOP/s each (estimate).
    Score: 81.6% top-1 (journal version, table 5). Not run.
    """
    return _scratch("n", mixup=0.5, cutmix=0.5, drop_path=0.1)


def in1k_t() -> Recipe:
    """ImageNet-1K from scratch, UniRepLKNet-T.

    Command: unireplknet train in1k_t --data PATH
    Hardware: 4 GPUs.
    Time: about 23 h on 4 A100 at 35 TFLOP/s each (estimate).
    Score: 83.2% top-1 (journal version, table 5). Not run.
    """
    return _scratch("t", mixup=0.8, cutmix=1.0, drop_path=0.2)


def in1k_s() -> Recipe:
    """ImageNet-1K from scratch, UniRepLKNet-S.

    Command: unireplknet train in1k_s --data PATH
    Hardware: 8 GPUs.
    Time: about 16 h on 8 A100 at 46 TFLOP/s each (estimate).
    Score: 83.9% top-1 (journal version, table 5). Not run.
    """
    return _scratch("s", mixup=0.8, cutmix=1.0, drop_path=0.4, devices=8)


def in22k_s() -> Recipe:
    """ImageNet-22K pretraining, UniRepLKNet-S.

    Command: unireplknet train in22k_s --data PATH
    Hardware: 8 GPUs.
    Time: about 53 h on 8 A100 at 46 TFLOP/s each (estimate).
    Score: none published for pretraining alone; see in1k384_s. Not run.
    """
    return _pretraining("s", drop_path=0.1)


def in22k_b() -> Recipe:
    """ImageNet-22K pretraining, UniRepLKNet-B.

    Command: unireplknet train in22k_b --data PATH
    Hardware: 8 GPUs.
    Time: about 94 h on 8 A100 at 46 TFLOP/s each (estimate).
    Score: none published for pretraining alone; see in1k384_b. Not run.
    """
    return _pretraining("b", drop_path=0.1)


def in22k_l() -> Recipe:
    """ImageNet-22K pretraining at 192 pixels, UniRepLKNet-L.

    The learning rate is that of the authors' README, chosen to match InternImage's; the paper's table 17 has 4e-3.

    Command: unireplknet train in22k_l --data PATH
    Hardware: 8 GPUs.
    Time: about 153 h on 8 A100 at 46 TFLOP/s each (estimate).
    Score: none published for pretraining alone; see in1k384_l. Not run.
    """
    return _pretraining("l", drop_path=0.1, size=192, lr=1e-3)


def in22k_xl() -> Recipe:
    """ImageNet-22K pretraining at 192 pixels, UniRepLKNet-XL.

    The learning rate is that of the authors' README, chosen to match InternImage's; the paper's table 17 has 4e-3.

    Command: unireplknet train in22k_xl --data PATH
    Hardware: 8 GPUs.
    Time: about 271 h on 8 A100 at 46 TFLOP/s each (estimate).
    Score: none published for pretraining alone; see in1k384_xl. Not run.
    """
    return _pretraining("xl", drop_path=0.2, size=192, lr=1e-3)


def in1k384_s() -> Recipe:
    """Fine-tuning on ImageNet-1K at 384 pixels after ImageNet-22K, UniRepLKNet-S.

    Command: unireplknet train in1k384_s --data PATH --model.weights runs/in22k_s-1
    Hardware: 8 GPUs.
    Time: about 5 h on 8 A100 at 46 TFLOP/s each (estimate).
    Score: 86.4% top-1 (journal version, table 5). Not run.
    """
    return _fine_tuning("s", drop_path=0.2)


def in1k384_b() -> Recipe:
    """Fine-tuning on ImageNet-1K at 384 pixels after ImageNet-22K, UniRepLKNet-B.

    Command: unireplknet train in1k384_b --data PATH --model.weights runs/in22k_b-1
    Hardware: 8 GPUs.
    Time: about 8 h on 8 A100 at 46 TFLOP/s each (estimate).
    Score: 87.4% top-1 (journal version, table 5). Not run.
    """
    return _fine_tuning("b", drop_path=0.2)


def in1k384_l() -> Recipe:
    """Fine-tuning on ImageNet-1K at 384 pixels after ImageNet-22K, UniRepLKNet-L.

    Command: unireplknet train in1k384_l --data PATH --model.weights runs/in22k_l-1
    Hardware: 8 GPUs.
    Time: about 12 h on 8 A100 at 46 TFLOP/s each (estimate).
    Score: 87.9% top-1 (journal version, table 5). Not run.
    """
    return _fine_tuning("l", drop_path=0.3, epochs=20, smoothing=0.3, ema=0.9999)


def in1k384_xl() -> Recipe:
    """Fine-tuning on ImageNet-1K at 384 pixels after ImageNet-22K, UniRepLKNet-XL.

    Command: unireplknet train in1k384_xl --data PATH --model.weights runs/in22k_xl-1
    Hardware: 8 GPUs.
    Time: about 22 h on 8 A100 at 46 TFLOP/s each (estimate).
    Score: 88.0% top-1 (journal version, table 5). Not run.
    """
    return _fine_tuning("xl", drop_path=0.3, epochs=20, smoothing=0.3, ema=0.9999)


def ablation() -> Recipe:
    """A row of the design tables 3a to 3d on ImageNet-1K: 100 epochs, drop path 0.1.

    ``unireplknet info --ablations`` names the rows. Mixup and cutmix, which the paper does not state for these, are
    those of T, the variant of this size.

    Command: unireplknet train ablation --data PATH --model.row "T3c 3-11-11-11"
    Hardware: 8 GPUs.
    Time: about 4 h on 8 A100 at 37 TFLOP/s each for the default row (estimate).
    Score: the row's, 81.2% to 82.3% top-1 (journal version, table 3); 81.6% for the default row. Not run.
    """
    recipe = _scratch("s", mixup=0.8, cutmix=1.0, drop_path=0.1, devices=8)
    recipe.name = "ablation"
    recipe.model = Model(row="T3d 9 LarK", drop_path=0.1)
    recipe.optim.epochs = 100
    return recipe


ALL = (
    *(in1k_a, in1k_f, in1k_p, in1k_n, in1k_t, in1k_s),
    *(in22k_s, in22k_b, in22k_l, in22k_xl),
    *(in1k384_s, in1k384_b, in1k384_l, in1k384_xl),
    ablation,
)


def _scratch(size: str, mixup: float, cutmix: float, drop_path: float, devices: int = 4) -> Recipe:
    return Recipe(
        f"in1k_{size}",
        model=Model(f"unireplknet_{size}", drop_path=drop_path),
        data=Data("folder", workers=10),
        input=ImageInput(),
        augment=_augmentation(),
        optim=Optim(
            epochs=300,
            batch_size=4096,
            accumulate=4096 // (128 * devices),
            lr=4e-3,
            warmup_epochs=5,  # table 16; the authors' script has 20, which their commands leave as it is
            mixup=mixup,
            cutmix=cutmix,
            decay_grn=True,
        ),
        trainer=Trainer(devices=devices),
    )


def _pretraining(name: str, drop_path: float, size: int = 224, lr: float = 4e-3) -> Recipe:
    recipe = _scratch(name, mixup=0.8, cutmix=1.0, drop_path=drop_path, devices=8)
    recipe.name = f"in22k_{name}"
    # The data have no val split; a validation of 71,000 images is long enough.
    recipe.data.val_fraction = 0.005
    recipe.input = ImageInput(size=size)
    recipe.optim.epochs = 90
    recipe.optim.lr = lr
    return recipe


def _fine_tuning(name: str, drop_path: float, epochs: int = 30, smoothing: float = 0.1, ema: float = 0.0) -> Recipe:
    return Recipe(
        f"in1k384_{name}",
        model=Model(
            f"unireplknet_{name}",
            weights=f"{RELEASED}/unireplknet_{name}_in22k_pretrain.pth",
            drop_path=drop_path,
            head_init_scale=0.001,
        ),
        data=Data("folder", workers=10),
        input=ImageInput(size=384, fit="squash"),
        augment=_augmentation(),
        optim=Optim(
            epochs=epochs,
            batch_size=512,
            accumulate=4,
            lr=5e-5,
            warmup_epochs=0,
            weight_decay=1e-8,
            label_smoothing=smoothing,
            ema=ema,
            decay_grn=True,
            # The authors' 0.8 counts ConvNeXt's 12 groups of up to three blocks, and the head. Here every block is a
            # group of its own; the stem comes to the same rate, 0.8 ** 13 = 0.925 ** 37.
            layer_decay=0.925,
        ),
        trainer=Trainer(devices=8),
    )


def _augmentation() -> ImageAugment:
    return ImageAugment(crop_scale=(0.08, 1.0), flip=0.5, policy="rand-m9-mstd0.5-inc1", erase=0.25, erase_with="noise")
