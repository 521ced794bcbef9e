"""Loads checkpoints by name, without the flag for remote code and without transformers' notes.

Importing this module tells transformers of our classes, so that its AutoConfig and AutoModel know them.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # whichever it uses
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

from .hub import DEFAULT_CHECKPOINT, default_checkpoint
from .model_card.card import render_card
from .modeling.configuration_fastlane import FastLaneConfig
from .modeling.modeling_fastlane import FastLaneModel

if TYPE_CHECKING:
    from .encoder import FastLaneEncoder
    from .onnx.backend import Backend, Dtype

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
ADAPTER_CONFIG = "adapter_config.json"
HUB_PATIENCE = 10.0  # seconds for the one question whether a repository is there

logger = logging.getLogger(__name__)

AutoConfig.register(FastLaneConfig.model_type, FastLaneConfig, exist_ok=True)
AutoModel.register(FastLaneConfig, FastLaneModel, exist_ok=True)
FastLaneModel.render_card = staticmethod(render_card)


class Checkpoint(NamedTuple):
    """A checkpoint's folder or Hub name, and the folder of an adapter to load into it, if any."""

    name: str
    adapter: str | None


def find_checkpoint(name_or_path: str | os.PathLike[str] | None) -> Checkpoint:
    """Resolves the name of a checkpoint, the folder of an adapter, or `"fastlane-minilm"`.

    The name wins over a folder `fastlane-minilm` in the working directory, with a warning, also as the base
    of an adapter; a `Path` means the folder.

    Raises:
        FileNotFoundError: It is neither a folder nor can it be the name of a repository.
        NotADirectoryError: It is a file.
        ValueError: It is no name, or a folder that holds no FastLane checkpoint, or an adapter that
            doesn't name its base.
    """
    if not isinstance(name_or_path, str | Path) or not str(name_or_path).strip():
        raise ValueError(
            f"model_name_or_path must be a checkpoint's folder, a Hub name or {DEFAULT_CHECKPOINT!r}, "
            f"got {name_or_path!r}"
        )
    name, adapter = str(name_or_path), None
    folder = Path(name)
    is_named = name == DEFAULT_CHECKPOINT and not (
        isinstance(name_or_path, Path) and folder.is_dir()
    )
    is_adapter = (folder / ADAPTER_CONFIG).exists() and not (folder / "config.json").exists()
    if is_adapter and not is_named:
        name, adapter = _base_of(folder), name
        is_named = name == DEFAULT_CHECKPOINT
    if is_named:
        if Path(name).is_dir():
            logger.warning(
                "%s is the model that this package carries, not the folder here, which is './%s'",
                *(name, name),
            )
        name = str(default_checkpoint())
    if Path(name).is_file():
        raise NotADirectoryError(f"{name} is a file: name the checkpoint's folder")
    if not Path(name).is_dir() and not HUB_NAME.fullmatch(name):
        raise FileNotFoundError(
            f"there is no folder {name}, and that is no name of a Hub repository{nearest_to(name)}"
        )
    if Path(name).is_dir() and not is_fastlane(Path(name) / "config.json"):
        raise no_checkpoint(name)
    return Checkpoint(name, adapter)


def nearest_to(name: str) -> str:
    """Gives `; did you mean …?` for a name like the released model's or that of a folder beside it."""
    names = [DEFAULT_CHECKPOINT]
    with suppress(OSError):
        names += [str(path) for path in Path(name).parent.iterdir() if path.is_dir()]
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def ask_hub(
    name: str,
    *,
    cache_dir: str | None = None,
    local_files_only: bool = False,
    revision: str | None = None,
    token: bool | str | None = None,
) -> None:
    """Asks the Hub once for a repository that is neither a folder nor in the cache.

    transformers would ask again and again: without a network it takes a minute and a half, and its error
    doesn't name the model. The arguments are those of `from_pretrained`.

    Raises:
        FileNotFoundError: The Hub has no such repository, or can't be asked.
    """
    if Path(name).is_dir():
        return
    if isinstance(try_to_load_from_cache(name, "config.json", cache_dir, revision), str):
        return
    try:
        if local_files_only or constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled("local_files_only or HF_HUB_OFFLINE is set")
        url = hf_hub_url(name, "config.json", revision=revision)
        get_hf_file_metadata(url, token=token, timeout=HUB_PATIENCE)
    except GatedRepoError:
        return  # whose error says how to get access
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"there is no folder {name}, and the Hub has no repository of that name, or it is private"
            f"{nearest_to(name)}"
        ) from error
    except HfHubHTTPError:
        return  # such as a wrong revision, which transformers' error names
    except (httpx.TransportError, OfflineModeIsEnabled) as error:
        reason = str(error).partition("\n")[0]
        raise FileNotFoundError(
            f"there is no folder {name}, and the Hub can't be asked for a repository of that name "
            f"({reason}){nearest_to(name)}"
        ) from error


def no_checkpoint(name: str) -> ValueError:
    """Gives the error for a folder or repository that holds no FastLane checkpoint."""
    return ValueError(
        f"{name} is no FastLane checkpoint (its config.json has no model_type 'fastlane'); "
        "'fastlane retrofit' gives routes to a late-interaction checkpoint, and "
        "FastLaneEncoder.from_backbone builds a new model over a plain encoder"
    )


def load_model(name: str | Path, dtype: Literal["float32", "auto"] = "auto") -> FastLaneModel:
    """Loads the model of a checkpoint for a command that only encodes; transformers prints only errors.

    Unlike `load_encoder` it doesn't import Sentence Transformers, which takes a quarter of a command's start.
    With "auto" the weights stay in the checkpoint's dtype.
    """
    quiet_transformers()
    checkpoint, adapter = find_checkpoint(name)
    ask_hub(checkpoint)
    config = AutoConfig.from_pretrained(checkpoint)
    if not isinstance(config, FastLaneConfig):
        raise no_checkpoint(checkpoint)
    model: FastLaneModel = FastLaneModel.from_pretrained(checkpoint, config=config, dtype=dtype)
    if adapter is not None:
        model.load_adapter(adapter)
    return model


def load_encoder(
    name: str, backend: Backend = "torch", dtype: Dtype | None = None
) -> FastLaneEncoder:
    """Loads the encoder of a checkpoint for a command; transformers prints only errors."""
    quiet_transformers()
    from .encoder import FastLaneEncoder

    return FastLaneEncoder(name, backend=backend, dtype=dtype)


def quiet_transformers() -> None:
    """Keeps transformers from printing anything but errors."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def _base_of(adapter: Path) -> str:
    base = json.loads((adapter / ADAPTER_CONFIG).read_text("utf-8"))["base_model_name_or_path"]
    if not base:
        raise ValueError(
            f"the adapter {adapter} doesn't name its base; load that, then "
            f"load_adapter({str(adapter)!r})"
        )
    return str(base)


def is_fastlane(config: Path) -> bool:
    """Whether a config.json is that of a FastLane checkpoint."""
    if not config.exists():
        return False
    settings = json.loads(config.read_text("utf-8"))
    return bool(settings.get("model_type") == FastLaneConfig.model_type)
