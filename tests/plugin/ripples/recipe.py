from ripples.modality import RippleAugment, RippleInput
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer


def ripples() -> Recipe:
    """Wavelengths of ripples on a grid.

    Command: unireplknet train ripples --data PATH
    """
    return Recipe(
        "ripples",
        model=Model("test_unireplknet", stem_stride=1, dims=(8, 8, 16, 16)),
        data=Data("ripples"),
        input=RippleInput(),
        augment=RippleAugment(),
        optim=Optim(epochs=6, batch_size=8, lr=1e-2, warmup_epochs=1, label_smoothing=0.0, ema=0.5),
        trainer=Trainer(progress=False, accelerator="cpu"),
        task_name="regression",
    )
