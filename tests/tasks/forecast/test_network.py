import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

from tests.runs import forecast_recipe, series_input
from unireplknet import UniRepLKNet
from unireplknet.tasks.forecast.network import Forecaster, masked_loss
from unireplknet.training.optim import build_optimizer

MEAN, STD, CHANGE = torch.tensor([10.0, -3.0, 0.0]), torch.tensor([5.0, 2.0, 1.0]), torch.tensor([3.0, 1.0, 1.0])


def forecaster(normalise: str = "mean", group: int = 2, linear: bool = True, stations: int = 4) -> Forecaster:
    torch.manual_seed(0)
    backbone = UniRepLKNet(1, 0, depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), kernel_sizes=(3, 7, 7, 3), stem_stride=1)
    model = Forecaster(backbone, stations, 3, 2, (1, 0), 12, 5, (6, 8), group, normalise, linear)
    model.set_statistics(MEAN, STD, CHANGE)
    return model.double().eval()


def windows(count: int = 3, gaps: float = 0.1, stations: int = 4) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(count, 5, 12, stations, dtype=torch.float64, generator=rng) * 4 + 7
    x[:, :3][torch.rand(count, 3, 12, stations, generator=rng) < gaps] = torch.nan
    x[:, 3:] = x[:, 3:, :, :1].sin()
    return x


def randomised(model: Forecaster) -> Forecaster:
    """Weights as after a training: the head starts from zeros."""
    with torch.no_grad():
        for p in model.head.parameters():
            p.normal_(0, 0.1)
    return model


@pytest.mark.parametrize("normalise", ["mean", "mean-shift", "last", "last-shift", "none"])
def test_before_training_it_forecasts_the_level_of_the_window(normalise: str) -> None:
    x = windows()
    forecast = forecaster(normalise)(x)
    assert forecast.shape == (3, 5, 4, 2)
    numbers = x[:, [1, 0]].numpy()
    for b, s, t in np.ndindex(3, 4, 2):
        column = numbers[b, t, :, s]
        column = column[~np.isnan(column)]
        level = {"m": column.mean(), "l": column[-1], "n": MEAN[[1, 0][t]].item()}[normalise[0]]
        np.testing.assert_allclose(forecast[b, :, s, t].detach(), level, rtol=1e-6)


@pytest.mark.parametrize("normalise", ["mean", "last-shift", "none"])
def test_the_map_is_that_of_the_paper(normalise: str) -> None:
    """H W = L D', one channel, one map a group of stations."""
    maps = forecaster(normalise).to_maps(windows())
    assert maps.shape == (3 * 2, 1, 6, 8)
    seen = []
    model = forecaster(normalise)
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(windows())
    assert torch.equal(seen[0], maps)


@pytest.mark.parametrize("normalise", ["mean", "last"])
def test_other_units_give_the_same_forecast_in_other_units(normalise: str) -> None:
    """Normalising a window is undone: level and spread come back as they went in."""
    model, x = randomised(forecaster(normalise)), windows()
    factor, shift = torch.tensor([1.8, 3.6, 1.0]).double(), torch.tensor([32.0, 0.0, 0.0]).double()
    other = randomised(forecaster(normalise))
    other.set_statistics(MEAN * factor + shift, STD * factor, CHANGE * factor)
    y = x.clone()
    y[:, :3] = x[:, :3] * factor[:, None, None] + shift[:, None, None]
    torch.testing.assert_close(other(y), model(x) * factor[[1, 0]] + shift[[1, 0]], rtol=1e-5, atol=1e-5)


def test_a_gap_is_not_a_zero_and_leaves_no_nan() -> None:
    model, x = randomised(forecaster()), windows(gaps=0.0)
    gap, zero = x.clone(), x.clone()
    gap[:, 0, 5], zero[:, 0, 5] = torch.nan, MEAN[0].double()
    assert not torch.allclose(model(gap), model(zero))
    empty = x.clone()
    empty[:, :3, :, 1] = torch.nan
    forecast = model(empty)
    assert forecast.isfinite().all()
    forecast.square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_network_tells_a_gap_from_the_number_that_it_holds() -> None:
    model, x = forecaster("none"), windows(gaps=0.0)
    gap, held = x.clone(), x.clone()
    gap[:, 0, 5], held[:, 0, 5] = torch.nan, x[:, 0, 4]
    values = [model._normalised(part[:, :3])[0] for part in (gap, held)]
    assert torch.equal(*values)
    assert not torch.allclose(model.to_maps(gap), model.to_maps(held))


def test_groups_are_forecast_alike_and_apart() -> None:
    model, x = randomised(forecaster()), windows()
    forecast = model(x)
    swapped = model(x[..., [2, 3, 0, 1]])
    torch.testing.assert_close(swapped, forecast[:, :, [2, 3, 0, 1]], rtol=1e-9, atol=1e-9)
    other = x.clone()
    other[:, :3, :, 2:] += 1.5
    torch.testing.assert_close(model(other)[:, :, :2], forecast[:, :, :2], rtol=1e-9, atol=1e-9)
    together = randomised(forecaster(group=0))
    assert not torch.allclose(together(other)[:, :, :2], together(x)[:, :, :2])


def test_places_of_the_stations_matter() -> None:
    model, x = randomised(forecaster()), windows()
    before = model(x)
    model.set_statistics(MEAN, STD, CHANGE, np.array([[60, 5], [40, 5], [50, 0], [50, 9]], np.float32))
    assert model.coordinates.mean(0).abs().max() < 1e-6
    assert not torch.allclose(model(x), before)


def test_merging_changes_no_forecast() -> None:
    model, x = randomised(forecaster()), windows()
    model.train()
    model(windows(gaps=0.3))  # statistics of the norms
    model.eval()
    before = model(x)
    assert not model.merged
    assert model.reparameterize().merged
    torch.testing.assert_close(model(x), before, rtol=1e-9, atol=1e-9)


def test_checkpointed_activations_give_the_same_gradients() -> None:
    gradients = []
    for enable in (False, True):
        model = randomised(forecaster()).train()
        model.set_grad_checkpointing(enable)
        model(windows()).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("normalise", "group"), [("none", 1), ("mean", 2), ("last-shift", 0)])
def test_the_linear_part_is_sklearns_ridge_with_the_penalty_that_does_best(normalise: str, group: int) -> None:
    rng = torch.Generator().manual_seed(3)
    x, x_val = windows(300), windows(90)
    weight = torch.randn(5, 2, 3, 12, dtype=torch.float64, generator=rng) * 0.1
    y, y_val = (torch.einsum("htvl,bvls->bhst", weight, w[:, :3].nan_to_num()) for w in (x, x_val))
    y = y + 3 * torch.randn(y.shape, dtype=torch.float64, generator=rng)
    model = forecaster(normalise, group)
    model.fit_linear(x, y, x_val, y_val)

    inputs, outputs = (part.numpy() for part in model._linear_problem(x, y))
    val_inputs, val_outputs = (part.numpy() for part in model._linear_problem(x_val, y_val))
    fits = [Ridge(alpha).fit(inputs, outputs).predict(val_inputs) for alpha in 10.0 ** np.arange(-2, 6)]
    assert model.linear is not None
    with torch.no_grad():
        found = model.linear(torch.from_numpy(val_inputs)).numpy()
    for target in range(2):
        errors = [np.square(fit - val_outputs)[:, target::2].mean() for fit in fits]
        np.testing.assert_allclose(found[:, target::2], fits[int(np.argmin(errors))][:, target::2], atol=1e-7)

    forecast, level = model.linear_forecast(x_val), forecaster(normalise, group)(x_val)
    torch.testing.assert_close(model(x_val), forecast)  # the head still adds nothing
    assert (forecast - y_val).square().mean() < 0.5 * (level - y_val).square().mean()


def test_stations_that_cannot_be_grouped() -> None:
    with pytest.raises(ValueError, match="5 stations cannot be divided into groups of 2"):
        forecaster(stations=5)


def test_layer_decay_reaches_every_parameter_once() -> None:
    recipe = forecast_recipe("nowhere")  # type: ignore[arg-type]
    recipe.optim.layer_decay = 0.5
    model = recipe.build(("north", "south"))
    groups = build_optimizer(model, recipe.optim).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(rates) == sum(len(group["params"]) for group in groups) == len(trained)
    names = dict(model.named_parameters())
    assert rates[id(names["head.weight"])] == recipe.optim.lr
    stem, embedding = rates[id(names["backbone.stem.conv1.weight"])], rates[id(names["embedding.weight"])]
    assert stem == embedding == min(rates.values()) < rates[id(names["backbone.stages.3.downsample.conv.weight"])]


@pytest.mark.parametrize("kind", ["mse", "mae", "huber"])
def test_losses_are_pytorchs_on_what_was_measured(kind: str) -> None:
    forecast, truth = torch.randn(2, 5, 3, 2).double(), torch.randn(2, 5, 3, 2).double()
    truth[torch.rand(truth.shape) < 0.3] = torch.nan
    unit = torch.tensor([0.5, 2.0]).double()
    seen = ~truth.isnan()
    function = {"mse": nn.MSELoss(), "mae": nn.L1Loss(), "huber": nn.HuberLoss()}[kind]
    loss, count = masked_loss(forecast, truth, unit, kind)
    torch.testing.assert_close(loss / count, function((forecast / unit)[seen], (truth / unit)[seen]))
    assert masked_loss(forecast, torch.full_like(truth, torch.nan), unit, kind) == (0, 0)


def test_the_recipe_builds_what_its_input_says() -> None:
    model = forecast_recipe("nowhere").build(("a", "b", "c"))  # type: ignore[arg-type]
    shape = series_input().forecaster()
    assert isinstance(model, Forecaster)
    assert model.targets == shape["targets"] == [0, 1]
    assert model.map_size == (12, 12)
    assert model(torch.zeros(2, 4 + 2, 24, 3)).shape == (2, 6, 3, 2)
