import pytest
import timm
from timm.models import get_pretrained_cfg

import unireplknet
from unireplknet.models.published import ACCURACIES, VARIANT_ROWS, Accuracy, find_accuracy


@pytest.mark.parametrize("row", ACCURACIES, ids=lambda row: f"{row.name}.{row.tag}")
def test_accuracies_are_of_weights_that_timm_knows(row: Accuracy) -> None:
    config = get_pretrained_cfg(f"{row.name}.{row.tag}", allow_unregistered=False)
    assert config.input_size == (3, row.size, row.size)
    assert config.num_classes == 1000
    assert 70 < row.top1 < 90


def test_every_accuracy_of_ours_is_there_once() -> None:
    assert timm.is_model(unireplknet.list_models()[0])
    printed = [(row.label, row.size, row.top1) for row in VARIANT_ROWS if row.top1 is not None]
    ours = [(a.name, a.size, a.top1) for a in ACCURACIES if a.name.startswith("unireplknet")]
    assert ours == printed
    assert len({(a.name, a.tag) for a in ACCURACIES}) == len(ACCURACIES)


def test_find_accuracy() -> None:
    assert find_accuracy("unireplknet_s", "in22k_ft_in1k_384", 384).top1 == 86.4
    assert find_accuracy("unireplknet_s", "in22k", 224) is None
    assert find_accuracy("unireplknet_s", "", 224).images_per_second == 1265
    assert find_accuracy("unireplknet_s", "", 192) is None
