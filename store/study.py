"""What does a published study say? Each array as it was published, checked on the way: true, or an error."""

import difflib
import errno
import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from analyses.arrays import ArraySpec
from analyses.request import AnalysisRequest
from store import derived, files, paths, rebuild
from store.errors import DamagedError, NewerSchemaError, StoreError, StudyNotFoundError
from store.group import Group
from store.lock import StudyLock
from store.manifest import Manifest, content_hash
from store.schema import SCHEMA, row_of

if TYPE_CHECKING:
    from store.derived import Derived

Array = npt.NDArray[Any]

# Weights of rebuilt layers kept in memory, a study: all of ViT-B (57 MB) and ViT-L (200 MB).
WEIGHT_BYTES = 256_000_000
_TRIES = 10  # to remove a folder in which a worker begins to write


class Study(Group):
    """A published study, read-only. Safe to share between threads.

    It stands in for the path of its Zarr group wherever a path is taken: `xarray.open_zarr(study)`.

    Attributes:
        name: Name of the study's folder.
        folder: The study's folder.
        path: Folder of the Zarr group.
        manifest: What was published.
        attrs: The root attributes.
    """

    def __init__(self, folder: Path, manifest: Manifest, metadata: bytes | None = None) -> None:
        """The study that `manifest` names; with `metadata` of its root, where that is not on the disk yet."""
        self.name = folder.name
        self.folder = folder
        self.called = f"study {folder.name}"
        super().__init__(folder / manifest.attempt, manifest, SCHEMA, metadata)
        self._weights: LRUCache[int, rebuild.LayerWeights] = LRUCache(
            WEIGHT_BYTES,
            lambda layer: min(layer.nbytes, WEIGHT_BYTES),  # one layer stays, whatever its size
        )
        self._weights_lock = threading.Lock()
        self._contents: dict[tuple[str, ...], str] = {}

    def __repr__(self) -> str:
        return f"Study({self.name!r}, {self.manifest.content[:12]})"

    def content_of(self, arrays: Iterable[str]) -> str:
        """SHA-256 (hex) of these arrays, as far as the study has them, of its model and of the model's weights.

        It stays as it is when the study is published again with other arrays more, such as a map.
        """
        wanted = tuple(arrays)
        if wanted not in self._contents:
            of = {key: value for key, value in self.manifest.objects.items() if key.partition("/")[0] in wanted}
            of_model = files.json_bytes({key: self.attrs.get(key) for key in ("model", "weights")})
            text = f"{content_hash(of)} {hashlib.sha256(of_model).hexdigest()}"
            self._contents[wanted] = hashlib.sha256(text.encode()).hexdigest()
        return self._contents[wanted]

    @cached_property
    def specs(self) -> dict[str, ArraySpec]:
        """The row of each array by name; of one that the table does not have, what it says of itself."""
        return {name: SCHEMA.get(name) or row_of(self._arrays[name]) for name in self.arrays}

    def derived(self, analysis: str, wanted: str | AnalysisRequest | Mapping[str, Any]) -> "Derived":
        """What was computed of this study when somebody asked for it, as on the page.

        Args:
            analysis: Its name, as "prune".
            wanted: The key of the result, as `derived_keys` gives them; the request; or the request's fields but for
                study and content, as {"images": ["a.png"], "heads": [(3, 1)]}.
        Raises:
            DerivedNotFoundError: Nobody asked for that yet, or it was removed.
            DamagedError: It is not what was published; asked for again, it is computed again.
            ValueError: There is no such analysis, or the request is none of its.
        """
        return derived.open_result(self, analysis, wanted)

    def derived_keys(self, analysis: str) -> list[str]:
        """Keys of the results of an analysis that are there, whatever is asked of them; damaged ones included."""
        return derived.keys(self.folder, analysis)

    @cached_property
    def image_ids(self) -> list[str]:
        """Id of each image, by index."""
        return self._words("image")

    def image_index(self, image_id: str) -> int:
        """Index of an image.

        Raises:
            KeyError: There is no such image; the message names one that is spelled alike, if there is one.
        """
        try:
            return self._image_indices[image_id]
        except KeyError:
            alike = difflib.get_close_matches(image_id, self.image_ids, n=1)
            hint = f"; did you mean {alike[0]}?" if alike else f", which has {len(self.image_ids)} images"
            raise KeyError(f"image {image_id} is not in study {self.name}{hint}") from None

    @cached_property
    def class_names(self) -> list[str]:
        """Class names in the order of the model's output; empty for a model without a classifier."""
        return self._words("class") if "class" in self else []

    @cached_property
    def metrics(self) -> list[str]:
        """Importance metrics, in the order of the axis."""
        return self._words("metric") if "metric" in self else []

    @cached_property
    def vectors(self) -> list[str]:
        """What the image layouts are made from, in the order of the axis."""
        return self._words("vector") if "vector" in self else []

    def metric_index(self, metric: str) -> int:
        """Index of an importance metric.

        Raises:
            LeftOutError: It was left out of this study; the message says why.
            KeyError: There is no such metric.
        """
        if metric in self.metrics:
            return self.metrics.index(metric)
        self._refuse_left_out(metric)
        raise KeyError(f"metric {metric} is not in study {self.name}, which has {', '.join(self.metrics)}")

    @cached_property
    def has_labels(self) -> bool:
        """Whether the true class of any image is known."""
        return "label" in self and bool((self.read("label") >= 0).any())

    @property
    def attention_source(self) -> Literal["stored", "rebuilt"] | None:
        """Where `attention` comes from; None for a study that can do neither."""
        if "attention" in self:
            return "stored"
        return "rebuilt" if all(name in self for name in ("residual", "query_weight", "key_weight")) else None

    def attention(self, image: int, layer: int, head: int) -> npt.NDArray[np.float32]:
        """Attention of one head on one image, (query, key). Rows sum to 1, prefix tokens included.

        Stored, it is within float16's rounding of what the model computed. Rebuilt, it is softmax(q kᵀ /
        √head_dim) with q = W_Q norm1(x) + b_Q, normed where the model does that, from the float16 residual
        stream x.

        Raises:
            IndexError: No such image, layer or head; the message gives the range.
            LeftOutError: The study can neither read nor rebuild it, and says why.
            DamagedError: As `read`.
        """
        if not 0 <= head < self.sizes["head"]:
            raise self._outside("head", head, self.sizes["head"])
        if self._source_of(image, layer) == "stored":
            return self.read("attention", image, layer, head).astype(np.float32)
        return rebuild.attention(self.read("residual", image, layer), self._layer_weights(layer), head)

    def layer_attention(self, image: int, layer: int) -> npt.NDArray[np.float32]:
        """`attention` of all heads of a layer, (head, query, key), from one reading of the disk."""
        if self._source_of(image, layer) == "stored":
            return self.read("attention", image, layer).astype(np.float32)
        resid, weights = self.read("residual", image, layer), self._layer_weights(layer)
        return np.stack([rebuild.attention(resid, weights, head) for head in range(self.sizes["head"])])

    def layers_attention(self, image: int, layers: range) -> npt.NDArray[np.float32]:
        """`attention` of all heads of some layers one after the other, (layer, head, query, key).

        Stored, it takes one reading of the disk: of many small matrices that is a third of the time of one a layer.
        """
        if self._source_of(image, layers[-1]) == "stored":
            return self.read("attention", image, slice(layers.start, layers.stop)).astype(np.float32)
        return np.stack([self.layer_attention(image, layer) for layer in layers])

    def _source_of(self, image: int, layer: int) -> Literal["stored", "rebuilt"]:
        """Where the attention of a layer comes from; as `attention` for what it cannot be had of."""
        source = self.attention_source
        if source is None:
            self._refuse_left_out("attention")
            raise KeyError(f"study {self.name} has neither attention nor the residual stream and weights to rebuild it")
        for dim, wanted in (("image", image), ("layer", layer)):
            if not 0 <= wanted < self.sizes[dim]:
                raise self._outside(dim, wanted, self.sizes[dim])
        return source

    def _layer_weights(self, layer: int) -> rebuild.LayerWeights:
        with self._weights_lock:
            known = self._weights.get(layer)
        if known is not None:
            return known
        queries = self.read("query_weight", layer)
        heads, head_dim, channels = queries.shape
        found = rebuild.LayerWeights.fold(
            self._row("norm1_weight", layer, np.ones(channels)),
            self._row("norm1_bias", layer, np.zeros(channels)),
            queries,
            self.read("key_weight", layer),
            self._row("query_bias", layer, np.zeros((heads, head_dim))),
            self._row("key_bias", layer, np.zeros((heads, head_dim))),
            rebuild.Norm(**self.attrs["model"]["norm1"]),
            self._head_norm(layer, head_dim),
        )
        with self._weights_lock:
            self._weights[layer] = found
        return found

    def _head_norm(self, layer: int, head_dim: int) -> rebuild.HeadNorm | None:
        norm = self.attrs["model"]["qk_norm"]
        if norm is None:
            return None
        one, zero = np.ones(head_dim, np.float32), np.zeros(head_dim, np.float32)
        return rebuild.HeadNorm(
            rebuild.Norm(**norm),
            self._row("query_norm_weight", layer, one),
            self._row("query_norm_bias", layer, zero),
            self._row("key_norm_weight", layer, one),
            self._row("key_norm_bias", layer, zero),
        )

    def _row(self, name: str, layer: int, absent: Array) -> Array:
        """One layer of a weight, or what a model without that weight computes with."""
        return self.read(name, layer) if name in self else absent

    @cached_property
    def _image_indices(self) -> dict[str, int]:
        return {image_id: index for index, image_id in enumerate(self.image_ids)}

    def _outside(self, dim: str | None, wanted: int, size: int) -> IndexError:
        owner = self.attrs["model"]["name"] if dim in ("layer", "head") else f"study {self.name}"
        return IndexError(f"{dim} {wanted} is not in {owner}, which has {dim}s 0 to {size - 1}")

    def _next_step(self) -> str:
        return f"`headscope verify {self.name}` lists all damage"


def open_published(folder: Path, load: Callable[[Path], Manifest] = Manifest.load) -> Study:
    """The published study in `folder`.

    Args:
        load: Gives the manifest of a folder; another may keep what it has read.
    Raises:
        StudyNotFoundError: There is no such folder, or nothing is published in it.
        NewerSchemaError: A newer Headscope wrote it.
        DamagedError: Its manifest or its metadata is not what was published.
    """
    folder = Path(folder)
    try:
        manifest = load(folder)
    except StudyNotFoundError:
        entry = _entry(folder) if folder.is_dir() else None
        if entry is None:
            raise StudyNotFoundError(f"no study at {folder}") from None
        raise StudyNotFoundError(
            f"study {folder.name} is not published yet: {entry.units_done} of {entry.units_total} units are done"
        ) from None
    return Study(folder, manifest)


@dataclass(frozen=True)
class StudyEntry:
    """One folder below the studies folder that holds a study.

    Attributes:
        name: Of the folder.
        path: The folder, as `open_published` takes it.
        manifest: What is published; None if nothing is, or if it cannot be read.
        units_done, units_total: How far the newest unpublished attempt is; 0 and 0 when there is none.
        problem: Why what is published cannot be opened, if so.
    """

    name: str
    path: Path
    manifest: Manifest | None
    units_done: int
    units_total: int
    problem: str | None


def list_studies(studies: Path, load: Callable[[Path], Manifest] = Manifest.load) -> list[StudyEntry]:
    """Every study in the folder `studies`, published or not, by name. A folder that is not there has none.

    No link is followed: what the page shows lies below the data folder.

    Args:
        load: As of `open_published`.
    """
    folders = sorted(path for path in studies.glob("*") if path.is_dir() and not path.is_symlink())
    return [entry for entry in (_entry(folder, load) for folder in folders) if entry is not None]


def delete(folder: Path) -> None:
    """Remove the study in `folder`: what is published, and every attempt.

    Raises:
        StudyNotFoundError: There is no study.
        StudyBusyError: Another process is writing it.
        StoreError: The folder holds other things too; these are left.
    """
    if not folder.is_dir() or not (_entry(folder) or paths.lock_path(folder).exists()):
        raise StudyNotFoundError(f"no study at {folder}")
    lock = StudyLock(folder)
    try:
        paths.manifest_path(folder).unlink(missing_ok=True)  # first: a study half removed is not published
        for number in paths.attempt_numbers(folder):
            paths.remove_attempt(folder, number)
        derived.remove_all(folder)
        ours = (paths.lock_path(folder), paths.derived_path(folder))  # a worker may begin a result just now
        if foreign := sorted(path.name for path in folder.iterdir() if path not in ours):
            raise StoreError(f"{folder} also has {', '.join(foreign)}, no part of a study; that is left there")
        _remove_folder(folder)
    finally:
        lock.release()


def _remove_folder(folder: Path) -> None:
    """Remove what is left of a study: its lock, its folder, and what a worker put there of a result just now."""
    for _ in range(_TRIES):
        paths.lock_path(folder).unlink(missing_ok=True)
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            derived.remove_all(folder)
        else:
            return
    raise StoreError(f"{folder} is being written to; it is no study any more, remove it once it is quiet")


def _entry(folder: Path, load: Callable[[Path], Manifest] = Manifest.load) -> StudyEntry | None:
    manifest, problem = None, None
    try:
        manifest = load(folder) if paths.manifest_path(folder).exists() else None
    except (DamagedError, NewerSchemaError) as error:
        problem = str(error)
    done, total = _progress(folder, manifest)
    if manifest is None and problem is None and total == 0:
        return None
    return StudyEntry(folder.name, folder, manifest, done, total, problem)


def _progress(folder: Path, manifest: Manifest | None) -> tuple[int, int]:
    """Units done and units of the newest attempt that is newer than what is published."""
    for number in reversed(paths.attempt_numbers(folder)):
        if manifest is not None and number <= manifest.number:
            break
        try:
            record = json.loads(paths.plan_path(folder, number).read_bytes())
        except (FileNotFoundError, ValueError):
            continue
        return len(paths.acked_units(folder, number)), -(-record["sizes"]["image"] // record["unit_images"])
    return 0, 0
