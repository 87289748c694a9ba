"""Weights on disk: the released checkpoints, our safetensors, and everything that users make of them.

A file is read in three steps, none of which looks at the next: :func:`read_state` gets plain tensors from it
without executing code, :func:`from_released` puts them under our names, and :func:`fit_state` makes them fit one
model (branch order, larger kernels, other class counts and input channels) or says why they cannot.

The names of the released files are known from the authors' class; the files themselves were not at hand.
"""

import argparse
import copy
import json
import logging
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from timm.models import adapt_input_conv, clean_state_dict
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from unireplknet.errors import shorten
from unireplknet.nn.dilated_reparam import DilatedReparamConv
from unireplknet.nn.layers import DepthwiseConv2d
from unireplknet.nn.reparam import Branches, default_branches, pad_kernel

if TYPE_CHECKING:
    from unireplknet.models.backbone import UniRepLKNet

HUB_ID = "DingXiaoH/UniRepLKNet"
WEIGHTS_FILE = "model.safetensors"
# Under which names files hold weights, the best known first; averaged ones apart.
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "network", "params", "weights", "module")
_AVERAGED = ("state_dict_ema", "model_ema", "params_ema", "ema_state_dict", "ema", "ema_model")
_COUNTERS = ("n_averaged",)  # what torch.optim.swa_utils.AveragedModel adds
_FIRST = re.compile(r"(|.*\.)(stem\.conv1|downsample_layers\.0\.0)\.weight")  # ours, theirs
_PARTS = ("feature_norms.", "head.")  # what a classifier and a feature extractor have apart from each other
_BRANCHES = "branches"  # metadata: the (k, r) of every Dilated Reparam Block, which no tensor's shape tells

# What training scripts store beside the weights: their arguments, and numpy's numbers for the best score.
_SCALAR = np.float64(0).__reduce__()[0]
_INERT: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i8")),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]

logger = logging.getLogger(__name__)

State = dict[str, Tensor]
Pairs = Mapping[str, Branches]
"""Branches of each Dilated Reparam Block by the block's name, the large kernel not among them."""


class WeightsError(ValueError):
    """A weights file that cannot be used; the message says why in one line."""


# Ours beside theirs, whole prefixes up to a dot or the end; the first that matches counts.
_NAMES = (
    ("stem.conv1", "downsample_layers.0.0"),
    ("stem.norm1", "downsample_layers.0.1"),
    ("stem.conv2", "downsample_layers.0.3"),
    ("stem.norm2", "downsample_layers.0.4"),
    ("stages.{i}.downsample.conv", "downsample_layers.{i}.0"),
    ("stages.{i}.downsample.norm", "downsample_layers.{i}.1"),
    ("stages.{i}.blocks.{j}.dwconv.branches.0.conv", "stages.{i}.{j}.dwconv.lk_origin"),
    ("stages.{i}.blocks.{j}.dwconv.branches.0.bn", "stages.{i}.{j}.dwconv.origin_bn"),
    ("stages.{i}.blocks.{j}.dwconv", "stages.{i}.{j}.dwconv"),
    ("stages.{i}.blocks.{j}.norm", "stages.{i}.{j}.norm"),
    ("stages.{i}.blocks.{j}.extra.fc1", "stages.{i}.{j}.se.down"),
    ("stages.{i}.blocks.{j}.extra.fc2", "stages.{i}.{j}.se.up"),
    ("stages.{i}.blocks.{j}.pwconv1", "stages.{i}.{j}.pwconv1.1"),
    ("stages.{i}.blocks.{j}.grn.weight", "stages.{i}.{j}.act.1.gamma"),
    ("stages.{i}.blocks.{j}.grn.bias", "stages.{i}.{j}.act.1.beta"),
    ("stages.{i}.blocks.{j}.pwconv2", "stages.{i}.{j}.pwconv2.0"),
    ("stages.{i}.blocks.{j}.norm2", "stages.{i}.{j}.pwconv2.2"),
    ("stages.{i}.blocks.{j}.layer_scale", "stages.{i}.{j}.gamma"),
    ("feature_norms.{i}", "norm{i}"),
    ("head.norm", "norm"),
    ("head.fc", "head"),
)
_BRANCH = re.compile(r"(stages\.\d+\.blocks\.\d+\.dwconv)\.branches\.(\d+)\.(conv|bn)\.")
_DILATED = re.compile(r"stages\.(\d+)\.(\d+)\.dwconv\.dil_(conv|bn)_k(\d+)_(\d+)\.")


def _renamer(source: int) -> list[tuple[re.Pattern[str], str]]:
    rules = []
    for names in _NAMES:
        pattern = re.escape(names[source]).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{j\}", r"(?P<j>\d+)")
        target = names[1 - source].replace("{i}", r"\g<i>").replace("{j}", r"\g<j>")
        rules.append((re.compile(rf"^{pattern}(?=\.|$)"), target))
    return rules


_TO_RELEASED, _FROM_RELEASED = _renamer(0), _renamer(1)


def _rename(key: str, rules: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, target in rules:
        renamed, count = pattern.subn(target, key)
        if count:
            return renamed
    return None


def is_released(keys: Iterable[str]) -> bool:
    """Whether a state dict uses the authors' names."""
    return any(key.startswith("downsample_layers.") for key in keys)


def is_merged(keys: Iterable[str]) -> bool:
    """Whether a state dict, in either naming, is of a merged network."""
    return not any(key.endswith("running_var") for key in keys)


def from_released(state: Mapping[str, Tensor]) -> tuple[State, dict[str, Branches]]:
    """Put a released state dict under our names.

    Args:
        state: Tensors under the authors' names, in training or merged form.

    Returns:
        The tensors under our names, values untouched (GRN's vectors become 1-D), and the branches found in each
        Dilated Reparam Block, numbered from 1 in the order of the file. Names that we do not know stay.
    """
    merged = is_merged(state)
    pairs: dict[str, list[tuple[int, int]]] = {}
    renamed = {}
    for key, value in state.items():
        if match := _DILATED.match(key):
            block = f"stages.{match[1]}.blocks.{match[2]}.dwconv"
            found = pairs.setdefault(block, [])
            pair = (int(match[4]), int(match[5]))
            if pair not in found:
                found.append(pair)
            name = f"{block}.branches.{found.index(pair) + 1}.{match[3]}.{key[match.end() :]}"
        else:
            name = _rename(key, _FROM_RELEASED) or key
            if merged:
                name = name.replace(".branches.0.conv.", ".")
        renamed[name] = value.flatten() if ".grn." in name else value
    return renamed, {block: tuple(found) for block, found in pairs.items()}


def to_released(model: "UniRepLKNet") -> State:
    """The model's state dict in the authors' layout, training or merged form as the model is.

    Args:
        model: A network that the authors' class can express.

    Returns:
        Tensors under the authors' names.

    Raises:
        WeightsError: If some parameter, or two equal branches, have no place in that layout.
    """
    released: State = {}
    for key, value in model.state_dict().items():
        name = _released_name(key, model)
        if name is None or name in released:
            raise WeightsError(f"the released layout has no name for {key}")
        if ".grn." in key:
            value = value.reshape(1, 1, 1, -1)
        released[name] = value
    return released


def _released_name(key: str, model: "UniRepLKNet") -> str | None:
    name = _rename(key, _TO_RELEASED)
    if name is None:
        return None
    match = _BRANCH.match(key)
    if match and match[2] != "0":
        k, r = cast(DilatedReparamConv, model.get_submodule(match[1])).pairs[int(match[2]) - 1]
        return re.sub(r"branches\.\d+\.(conv|bn)", rf"dil_\1_k{k}_{r}", name)
    dwconv, _, leaf = key.rpartition(".")
    if dwconv.endswith(".dwconv") and cast(DepthwiseConv2d, model.get_submodule(dwconv)).kernel_size[0] >= 7:
        if not model.merged:
            return None
        return name.replace(f".dwconv.{leaf}", f".dwconv.lk_origin.{leaf}")
    return name


def read_state(path: str | Path, use_ema: bool = True) -> tuple[State, dict[str, str]]:
    """Read plain tensors from a file, executing nothing.

    Args:
        path: A .safetensors file, or a .pth file holding a state dict, bare or wrapped (``model``,
            ``model_ema``, ``state_dict``, ``module.`` prefixes). The ``argparse.Namespace`` and numpy's numbers that
            training scripts store beside the weights are allowed; any other object is refused.
        use_ema: Prefer averaged weights where the file has both.

    Returns:
        The tensors by name, and the file's metadata (safetensors only).

    Raises:
        FileNotFoundError: If there is no such file.
        WeightsError: If it is truncated, is no weights file, or would need code to be loaded.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    metadata: dict[str, str] = {}
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
            content = load_file(path)
        else:
            content = load_checked(path)
        return unwrap(content, use_ema), metadata
    except WeightsError as e:
        raise WeightsError(f"{path}: {e}") from e
    except SafetensorError as e:
        raise WeightsError(f"{path}: {_why_unreadable(e)}") from e


def load_checked(path: Path) -> Any:
    """Load what torch.save wrote, without executing anything; checksums are compared, which torch.load does not.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        WeightsError: If it is damaged, torch.save did not write it, or it would need code to be loaded.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged:
                raise WeightsError(f"damaged: the checksum of {damaged} is wrong")
        # Remarks on odd pickles are left out: those are refused below.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_INERT):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (WeightsError, FileNotFoundError):
        raise
    except Exception as e:  # what is no checkpoint can fail anywhere in the unpickler
        raise WeightsError(_why_unreadable(e)) from e


def _why_unreadable(error: Exception) -> str:
    if code := re.search(r"GLOBAL (\S+)", str(error)):
        return f"holds {code[1]}, which could run code, and was not loaded: expected plain tensors"
    # Other errors of the unpickler tell about its stack, not about the file.
    tells = isinstance(error, RuntimeError | OSError | SafetensorError) and str(error)
    return f"damaged or not a weights file: {str(error).splitlines()[0] if tells else 'torch.save did not write it'}"


def place_of(keys: Iterable[str]) -> str | None:
    """Where the backbone lies in a state dict, such as "backbone."; "" for that of a backbone, None without one."""
    return next((match[1] for key in keys if (match := _FIRST.fullmatch(key))), None)


def backbone_of(state: Mapping[str, Tensor], place: str) -> State:
    """The backbone in the file of a segmenter, a detector or a forecaster; what is left is named in the log.

    Args:
        state: Tensors by name.
        place: What the names of the backbone's begin with.
    """
    left = Counter(_part(key) for key in state if not key.startswith(place))
    if left:
        parts = ", ".join(f"{part} ({count} tensors)" for part, count in left.items())
        logger.warning("only the backbone is taken from the file; left: %s", parts)
    return {key.removeprefix(place): value for key, value in state.items() if key.startswith(place)}


def _part(key: str) -> str:
    """What a tensor beside the backbone belongs to; the second set of weights that a running average keeps is one."""
    return "ema" if key.startswith("ema_") else key.partition(".")[0]


def unwrap(content: Any, use_ema: bool = True) -> State:
    """The state dict in what a checkpoint holds.

    Args:
        content: A state dict, bare or under a name in dictionaries (``model``, ``model_ema``, ``state_dict`` and
            others; an unknown name if it is the only one), with or without ``module.`` prefixes.
        use_ema: Prefer averaged weights where there are both.

    Returns:
        The tensors by name.

    Raises:
        WeightsError: If there are other things among them, or several sets of weights.
    """
    content = _find_weights(content, use_ema)
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"holds {'nothing' if content == {} else type(content).__name__}, expected tensors by name")
    for key, value in content.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise WeightsError(f"{key} is a {type(value).__name__}, expected a tensor under a name")
    return clean_state_dict({key: value for key, value in content.items() if key not in _COUNTERS})


def _find_weights(content: Any, use_ema: bool) -> Any:
    """Follow the names under which a file holds weights; the content itself where there are none."""
    if not isinstance(content, Mapping):
        return content
    found = {key: value for key, value in content.items() if _holds_weights(value)}
    names = (*_AVERAGED, *_WRAPPERS) if use_ema else (*_WRAPPERS, *_AVERAGED)
    known = next((key for key in names if key in (found or content)), None)
    if known is not None:
        return _find_weights(content[known], use_ema)
    if len(found) > 1:
        raise WeightsError(f"holds several sets of weights ({', '.join(map(str, found))}); save the one that is meant")
    return _find_weights(next(iter(found.values())), use_ema) if found else content


def _holds_weights(value: Any) -> bool:
    if not isinstance(value, Mapping) or not value or not all(isinstance(key, str) for key in value):
        return False
    return all(isinstance(v, Tensor) for v in value.values()) or any(map(_holds_weights, value.values()))


def fit_state(state: State, pairs: Pairs | None, model: "UniRepLKNet") -> State:
    """Make tensors under our names fit one model, or say why they cannot.

    The classifier stays as initialised where the class count differs, and so do head and feature norms where the
    file has none; those that the model has not are left. The stem is adapted to another number of
    input channels, and kernels grow: a merged one by zeros around it; a Dilated Reparam Block keeps its branches
    and statistics, pads its main kernel, and gets the branches it lacked with a zero BatchNorm weight, so that
    eval outputs stay as they were.

    Args:
        state: Tensors under our names; not changed.
        pairs: Branches of each Dilated Reparam Block in the file, or None where the file does not tell; they are
            then taken to be the model's, and growing is refused.
        model: The network, in the same form (training or merged) as the tensors.

    Returns:
        The tensors to load.

    Raises:
        WeightsError: If a kernel would have to shrink, or branches do not match.
    """
    state = dict(state)
    for name, module in model.named_modules():
        if isinstance(module, DilatedReparamConv) and f"{name}.branches.0.conv.weight" in state:
            _fit_branches(state, name, module, None if pairs is None else pairs.get(name, ()))
        elif isinstance(module, DepthwiseConv2d) and f"{name}.weight" in state:
            _grow_kernel(state, f"{name}.weight", module.kernel_size[0])
    _fit_stem(state, model)
    _fit_parts(state, model)
    _fit_classifier(state, model)
    return state


def _grow_kernel(state: State, key: str, size: int) -> None:
    present = state[key].shape[-1]
    _check_growth(key, present, size)
    if present < size:
        state[key] = pad_kernel(state[key], size)


def _check_growth(key: str, present: int, size: int) -> None:
    if present > size:
        raise WeightsError(f"{key} has kernel size {present}, the model has {size}: kernels grow but never shrink")


def _fit_branches(state: State, name: str, module: DilatedReparamConv, pairs: Branches | None) -> None:
    own = module.pairs
    present, size = state[f"{name}.branches.0.conv.weight"].shape[-1], module.kernel_size[0]
    _check_growth(f"{name}.branches.0.conv.weight", present, size)
    if pairs is None:
        if present != size:
            usual = [*default_branches(present)]
            union = [*usual, *(pair for pair in own if pair not in usual)]
            raise WeightsError(
                f"{name} has kernel size {present} in the file and {size} in the model, and the file does not say "
                f"which branches it has: load it into a model of kernel size {present}, write that with "
                f"unireplknet.save_weights, and build this one with branches={{{size}: {union}}}"
            )
        return
    left = dict(enumerate(pairs, start=1))
    fitted = {0: 0}
    for i, pair in enumerate(own, start=1):
        if match := next((j for j, other in left.items() if other == pair), None):
            fitted[i] = match
            del left[match]
    new = [i for i in range(1, len(own) + 1) if i not in fitted]
    if left or (new and present == size):
        union = [*pairs, *(own[i - 1] for i in new)] if present < size else list(pairs)
        raise WeightsError(
            f"{name} has branches {list(pairs)} in the file and {own} in the model; "
            f"build the model with branches={{{size}: {union}}}"
        )
    prefix = f"{name}.branches."
    old = {key.removeprefix(prefix): state.pop(key) for key in list(state) if key.startswith(prefix)}
    for i, j in fitted.items():
        for key, value in old.items():
            if key.startswith(f"{j}."):
                state[f"{prefix}{i}.{key.removeprefix(f'{j}.')}"] = value
    _grow_kernel(state, f"{prefix}0.conv.weight", size)
    for i in new:
        for key, value in module.branches[i].state_dict().items():
            silent = key in ("bn.weight", "bn.bias")
            state[f"{prefix}{i}.{key}"] = torch.zeros_like(value) if silent else value


def _fit_stem(state: State, model: "UniRepLKNet") -> None:
    key = "stem.conv1.weight"
    if key in state and (chans := state[key].shape[1]) != model.in_chans:
        state[key] = adapt_input_conv(model.in_chans, state[key], base_chans=chans)
        logger.warning("the stem was adapted from %d to %d input channels", chans, model.in_chans)


def _fit_parts(state: State, model: "UniRepLKNet") -> None:
    """Follow the model where it has a head or feature norms and the file has not, or the other way round."""
    for part in _PARTS:
        own = {key: value for key, value in model.state_dict().items() if key.startswith(part)}
        present = [key for key in state if key.startswith(part)]
        name = part.rstrip(".")
        if own and not present:
            state |= own
            logger.warning("the file has no %s: the model keeps its own", name)
        elif present and not own:
            for key in present:
                del state[key]
            logger.warning("the model has no %s: left %d tensors of the file", name, len(present))


def _fit_classifier(state: State, model: "UniRepLKNet") -> None:
    present = [key for key in ("head.fc.weight", "head.fc.bias") if key in state]
    classes = len(state[present[0]]) if present else 0
    if classes == model.num_classes or len(present) == 1:  # half a classifier is not adapted but reported
        return
    for key in present:
        del state[key]
    if model.num_classes:
        state |= {f"head.fc.{k}": v for k, v in model.head.fc.state_dict().items()}
        logger.warning("the file classifies %d classes, the model %d: new classifier", classes, model.num_classes)


def _fit_counters(state: State, own: Mapping[str, Tensor]) -> None:
    """Let norms keep their count of batches where the file has none, as frozen norms and older files have it."""
    for key, value in own.items():
        if key.endswith(".num_batches_tracked") and key.replace("num_batches_tracked", "running_var") in state:
            state.setdefault(key, value)


def load_weights(model: "UniRepLKNet", source: str | Path, use_ema: bool = True) -> "UniRepLKNet":
    """Load weights into a model, in place.

    A merged file merges the model first. Class count, input channels and kernel sizes may differ from the file's,
    see :func:`fit_state`.

    Args:
        model: The network.
        source: A file (released .pth or a fine-tune of it, our .safetensors), a folder that holds
            ``model.safetensors`` (a run, or ``save_pretrained``), or a Hub id ``owner/repository[/file]``. Of what has
            a backbone beside other parts, a backbone takes only that.
        use_ema: Prefer averaged weights where the file has both.

    Returns:
        The model.

    Raises:
        FileNotFoundError: If there is no such file.
        WeightsError: If the weights cannot be read or do not fit; the message says why.
    """
    network = model.model if isinstance(model, FeatureGetterNet) else model
    if not isinstance(getattr(network, "merged", None), bool):
        raise WeightsError(
            f"a {type(model).__name__} takes no weights of UniRepLKNet: give create_model pretrained=True and"
            " pretrained_cfg_overlay=dict(file=...), or feature_cls='getter'"
        )
    path = find_weights(source)
    state, metadata = read_state(path, use_ema)
    try:
        network.load_state_dict(_prepare(state, metadata, network))
    except WeightsError as e:
        raise WeightsError(f"{path}: {e}") from e
    return model


def load_other_weights(model: nn.Module, source: str | Path) -> nn.Module:
    """Load weights into a network that is not of the family, such as timm's under a decoder or detector, in place.

    Args:
        model: The network.
        source: As of :func:`load_weights`: timm's own file of it, or a run of ours. What the file has beside it, such
            as a classifier or a decoder, is left and named in the log.

    Returns:
        The model.

    Raises:
        FileNotFoundError: If there is no such file.
        WeightsError: If the weights cannot be read or do not fit; the message says why.
    """
    path = find_weights(source)
    state, _ = read_state(path)
    own = model.state_dict()
    first = next(iter(own))
    place = next((key.removesuffix(first) for key in state if f".{key}".endswith(f".{first}")), "")
    state = backbone_of(state, place)
    if left := [key for key in state if key not in own]:
        logger.warning("the file has more than the model; left: %s", shorten(left))
    state = {key: value for key, value in state.items() if key in own}
    try:
        _check_fit(state, own)
    except WeightsError as e:
        raise WeightsError(f"{path}: {e}") from e
    model.load_state_dict(state)
    return model


def _prepare(state: State, metadata: Mapping[str, str], model: "UniRepLKNet") -> State:
    pairs: Pairs | None = None
    place = place_of(state)
    merged = is_merged(key for key in state if place is not None and key.startswith(place))
    if hasattr(model, "backbone"):  # a segmenter, detector or forecaster, of which it is a part
        place = None
    if place:
        state = backbone_of(state, place)
    if is_released(state):
        state, pairs = from_released(state)
    elif _BRANCHES in metadata:
        found = json.loads(metadata[_BRANCHES])
        pairs = {name.removeprefix(place or ""): [(k, r) for k, r in branches] for name, branches in found.items()}
    if model.merged and not merged:
        raise WeightsError("in training form, but the model is merged: load before reparameterize()")
    # Merging a copy first leaves the model as it is if the file does not fit.
    target = copy.deepcopy(model).reparameterize() if merged else model
    state = fit_state(state, pairs, target)
    _fit_counters(state, target.state_dict())
    _check_fit(state, target.state_dict())
    if merged:
        model.reparameterize()
    return state


def _check_fit(state: State, own: Mapping[str, Tensor]) -> None:
    def some(keys: list[str]) -> str:
        return f"{len(keys)} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"

    missing = [key for key in own if key not in state]
    extra = [key for key in state if key not in own]
    if missing or extra:
        parts = [f"lacks {some(missing)}"] * bool(missing) + [f"has unknown {some(extra)}"] * bool(extra)
        raise WeightsError(f"does not fit the model: {', '.join(parts)}")
    for key, value in own.items():
        if state[key].shape != value.shape:
            raise WeightsError(f"{key} is {tuple(state[key].shape)}, the model has {tuple(value.shape)}")


def find_weights(source: str | Path) -> Path:
    """The local file behind a path, a folder or a Hub id, downloaded if need be.

    Args:
        source: See :func:`load_weights`.

    Returns:
        Path of the file.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        WeightsError: If a Hub download fails.
    """
    path = Path(source)
    if path.is_dir():
        path = path / WEIGHTS_FILE
    if path.is_file():
        return path
    hub = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:/(.+))?", str(source).replace("\\", "/"))
    if hub is None or path.parent.is_dir():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        return Path(hf_hub_download(hub[1], hub[2] or WEIGHTS_FILE))
    except (HfHubHTTPError, OSError, ValueError) as e:
        reason = str(e).partition("\n")[0]
        raise WeightsError(f"{source} is neither a file here nor could it be had from the Hub: {reason}") from e


def save_weights(model: "UniRepLKNet", path: str | Path) -> None:
    """Write a model's weights as safetensors, with the branches of its Dilated Reparam Blocks as metadata.

    Args:
        model: The network, in training or merged form.
        path: The file to write.
    """
    branches = {name: module.pairs for name, module in model.named_modules() if isinstance(module, DilatedReparamConv)}
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    content = save(state, metadata={"format": "pt", _BRANCHES: json.dumps(branches)})
    # As any file that is written, with the rights that the user's mask leaves; the same network gives the same bytes.
    Path(path).write_bytes(_in_order(content))


def _in_order(content: bytes) -> bytes:
    """A safetensors file whose metadata, which the library writes in any order, are sorted."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[start:]


def checkpoint_filter_fn(checkpoint: Mapping[str, Any], model: "UniRepLKNet") -> State:
    """Hook for timm, which reads the file and may not unwrap it: the tensors to load, see :func:`load_weights`."""
    return _prepare(unwrap(checkpoint), {}, model)
