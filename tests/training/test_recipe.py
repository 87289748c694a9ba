import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from unireplknet.errors import UserError, nearest, shorten
from unireplknet.modalities.image import ImageInput
from unireplknet.nn.batch_stats import SyncBatchNorm2d
from unireplknet.recipes import RECIPES, find_recipe
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer


@pytest.mark.parametrize("name", RECIPES)
def test_saved_recipes_come_back_equal(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]()
    recipe.save(tmp_path / "config.yaml")
    assert Recipe.load(tmp_path / "config.yaml") == recipe


def test_flags_and_yaml_have_the_same_names() -> None:
    recipe = find_recipe("digits")
    by_flag = recipe.override(
        ["--optim.lr", "1e-3", "--model.kernel_sizes", "[[3],[5],[7,9],[0]]", "--input.mean=[0.5]"]
    )
    by_yaml = recipe.override(
        {"optim": {"lr": 1e-3}, "model": {"kernel_sizes": [[3], [5], [7, 9], [0]]}, "input": {"mean": [0.5]}}
    )
    assert by_flag == by_yaml
    assert by_flag.optim == replace(recipe.optim, lr=1e-3)
    assert by_flag.model.kernel_sizes == ((3,), (5,), (7, 9), (0,))
    assert by_flag.input.mean == (0.5,)
    assert by_flag.augment == recipe.augment


def test_overriding_leaves_the_recipe_alone() -> None:
    recipe = find_recipe("digits")
    recipe.override(["--optim.epochs", "1"])
    assert recipe == find_recipe("digits")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--optim.lrr", "1"], "unknown flag --optim.lrr; did you mean --optim.lr?"),
        (["--optim.epoch=3"], "unknown flag --optim.epoch; did you mean --optim.epochs?"),
        (["--optim.lr", "fast"], "optim.lr.*Got value: fast"),
        (["--optim.epochs", "0"], "optim.epochs is 0; expected at least 1"),
        (["--input.channels", "3"], "input.mean has 1 numbers; expected one per channel, 3"),
        (["stray"], "stray"),
    ],
)
def test_wrong_flags_give_one_line(flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        find_recipe("digits").override(flags)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_recipe_is_named(tmp_path: Path) -> None:
    for text in (
        "",
        "[1, 2]",
        "name: x",
        "name: x\nmodality: smell",
        "a: [",
        "name: x\nmodality: image\noptim: {u: 1}",
    ):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(UserError):
            Recipe.load(tmp_path / "config.yaml")


def test_classes_follow_the_data_unless_they_contradict_it() -> None:
    model = Model("test_unireplknet")
    assert model.build(1, ["a", "b"]).num_classes == 2
    assert replace(model, num_classes=2).build(1, ["a", "b"]).num_classes == 2
    with pytest.raises(UserError, match=r"model.num_classes is 3, the data have 2 classes \(a, b\)"):
        replace(model, num_classes=3).build(1, ["a", "b"])


def test_model_settings_reach_the_network() -> None:
    model = Model(
        "test_unireplknet", depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), kernel_sizes=((3,), (9,), (3,), (3,)), stem_stride=1
    ).build(5, "ab")
    assert [info["num_chs"] for info in model.feature_info] == [8, 8, 8, 8]
    assert model.feature_info[0]["reduction"] == 1
    assert model.in_chans == 5


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Model("unireplknet_q"), "unireplknet_q.*did you mean"),
        (Model("test_unireplknet", depths=(1, 1, 3, 1)), r"kernel_sizes\[2\] has 2 entries, depths\[2\] is 3"),
        (Model("test_unireplknet", weights="nowhere.pth"), "nowhere.pth"),
    ],
)
def test_impossible_models_give_one_line(model: Model, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model.build(3, ["a", "b"])


def test_data_on_disk_need_a_path() -> None:
    with pytest.raises(UserError, match=r"data.source 'mnist' needs a path: add --data PATH"):
        Data("mnist").load(find_recipe("mnist").input)


def test_optim_is_checked() -> None:
    with pytest.raises(UserError, match=r"optim.batch_size is 0; expected at least 1"):
        Optim(batch_size=0)


def test_helpers() -> None:
    assert shorten("abc", 2) == "a, b, ..."
    assert shorten("ab", 2) == "a, b"
    assert nearest("digit", ["digits", "mnist"]) == "; did you mean digits?"
    assert nearest("zzz", ["digits", "mnist"]) == ""


def test_another_batch_scales_the_learning_rate_and_says_so(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    recipe = find_recipe("in1k_t")
    with caplog.at_level(logging.INFO, "unireplknet"):
        smaller = recipe.override(["--optim.batch_size", "1024"])
    assert smaller.optim.lr == pytest.approx(1e-3)
    assert caplog.messages == ["optim.lr is scaled with optim.batch_size, 1024 instead of 4096: 0.001 instead of 0.004"]
    assert recipe.override({"optim": {"batch_size": 8192}}).optim.lr == pytest.approx(8e-3)
    caplog.clear()
    assert recipe.override(["--optim.batch_size", "1024", "--optim.lr", "4e-3"]).optim.lr == 4e-3
    assert recipe.override(["--trainer.devices", "8", "--optim.accumulate", "1"]).optim.lr == 4e-3
    smaller.save(tmp_path / "config.yaml")
    assert Recipe.load(tmp_path / "config.yaml") == smaller
    assert not caplog.messages


def test_a_row_of_the_design_tables_is_built() -> None:
    model = Model(row="T3c 3-11-11-11").build(3, "ab")
    assert sum(p.numel() for p in model.parameters()) > 30e6
    assert {m.kernel_size for m in model.modules() if type(m).__name__ == "DilatedReparamConv"} == {(11, 11)}
    with pytest.raises(
        UserError, match=r"model.row is 'T3c 3-11-11', which is no row .*; did you mean T3c 3-11-11-11?"
    ):
        Model(row="T3c 3-11-11").build(3, "ab")


def test_steps_are_shared_evenly() -> None:
    assert Optim(batch_size=4096, accumulate=8).device_batch(4) == 128
    with pytest.raises(UserError, match=r"batch_size is 10, which 2 device\(s\) in 2 part\(s\) .* a multiple of 4"):
        Optim(batch_size=10, accumulate=2).device_batch(2)


def test_the_network_is_prepared_as_the_trainer_says() -> None:
    model = Model("test_unireplknet").build(3, "ab")
    Trainer().prepare(model)
    assert not any(isinstance(m, SyncBatchNorm2d) for m in model.modules())
    assert not model.stages[0].grad_checkpointing
    Trainer(checkpoint_activations=True, sync_batchnorm=True).prepare(model)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert all(isinstance(m, SyncBatchNorm2d) for m in norms)
    assert model.stages[0].grad_checkpointing


@pytest.mark.parametrize(
    ("value", "mode"), [("true", None), ("reduce-overhead", "reduce-overhead"), ("max-autotune", "max-autotune")]
)
def test_the_compiler_gets_its_mode(value: str, mode: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode: asked.append(mode))
    settings = find_recipe("digits").override(["--trainer.compile", value]).trainer
    settings.prepare(Model("test_unireplknet").build(3, "ab"))
    assert asked == [mode]


@pytest.mark.slow  # a compiler has to run
def test_a_compiled_network_is_the_same_network() -> None:
    torch.manual_seed(0)
    model, maps = Model("test_unireplknet").build(3, "ab").eval(), torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = model(maps)
        names = list(model.state_dict())
        Trainer(compile=True).prepare(model)
        torch.testing.assert_close(model(maps), expected, rtol=1e-4, atol=1e-5)
    assert list(model.state_dict()) == names


def test_an_unknown_source_is_named_with_what_there_is():
    with pytest.raises(UserError, match=r"data.source is 'mnst'; did you mean mnist"):
        Data("mnst", path="x").load(ImageInput())
