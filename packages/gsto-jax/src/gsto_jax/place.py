"""`Place`: the devices and types that arrays are computed in, and how arrays get there and back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from numpy.typing import NDArray

from gsto_jax.processes import gather, sharded
from gsto_jax.program import Tensors, errors_of_one_line, to_native
from gsto_spec.errors import GstoError
from gsto_spec.precision import LOW, Precision
from gsto_spec.sizes import show


@dataclass(frozen=True)
class Place:
    """Devices of one kind, in the order of their processes, and a precision.

    Tensors lie on every device; a batch is cut over them, and what is computed of it is the whole batch's.
    """

    devices: tuple[jax.Device, ...]
    precision: Precision

    @property
    def dtype(self) -> type[np.floating[Any]]:
        """The type of stored tensors, losses and predictions."""
        return np.float64 if self.precision == "float64" else np.float32

    @property
    def on_cpu(self) -> bool:
        """Whether the devices are CPUs."""
        return all(device.platform == "cpu" for device in self.devices)

    @contextmanager
    def active(self) -> Iterator[None]:
        """JAX set to this precision, whatever it is set to outside; x64 is on for float64 alone."""
        products = jax.default_matmul_precision(_PRODUCTS.get(self.precision, "float32"))
        with jax.enable_x64(self.dtype is np.float64), products, errors_of_one_line():
            yield

    @cached_property
    def here(self) -> Place:
        """This process's own devices."""
        own = jax.process_index()
        return replace(self, devices=tuple(device for device in self.devices if device.process_index == own))

    @cached_property
    def everywhere(self) -> NamedSharding:
        """The whole array on every device."""
        return sharded(Mesh(np.array(self.devices), ("image",)))

    def by_image(self, images: int, axis: int = 0) -> NamedSharding:
        """`axis`, so many images, cut over as many devices as divide it; the others repeat their work."""
        shares = math.gcd(images, len(self.devices))
        mesh = Mesh(np.array(self.devices).reshape(shares, -1), ("image", "copy"))
        return sharded(mesh, *[None] * axis, "image")

    def put(self, array: NDArray[Any], dtype: Any = None) -> Array:
        """A copy, on every device, of an array that every process has."""
        # JAX may otherwise share memory that the caller writes to later.
        return _placed(np.array(array, dtype or self.dtype), self.everywhere)

    def tensor(self, array: NDArray[Any]) -> Array:
        """A canonical stored tensor on every device, in this backend's layout."""
        return _placed(to_native(array, self.dtype), self.everywhere)

    def batch(self, arrays: Mapping[str, NDArray[Any]]) -> Tensors:
        """The global batch, cut over the devices, of which `arrays` are this process's share.

        Every array is a copy of images first, and of the type that it is to have.
        Raises `GstoError` where the processes' shares do not fit together.
        """
        counts = _counts(arrays["image"]) if self._shared else [len(arrays["image"])]
        sharding = self.by_image(sum(counts))
        whole_shares = len(set(counts)) == 1 and sharding.mesh.shape["image"] % len(counts) == 0
        if not whole_shares:
            arrays, counts = {name: _joined(array, counts) for name, array in arrays.items()}, [sum(counts)]
        start = sum(counts[: jax.process_index()]) if len(counts) > 1 else 0
        total = sum(counts)
        return {name: _placed(array, sharding, total, start) for name, array in arrays.items()}

    def to_come(self, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        """An array of `batch` before there is one: images first, of the global batch."""
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.by_image(shape[0]))  # type: ignore[no-untyped-call]

    def seen_here(self, tensors: Tensors) -> Tensors:
        """Tensors of every device as they lie on this process's own, without copying."""
        if not self._shared:
            return tensors
        return {
            name: jax.make_array_from_single_device_arrays(
                tensor.shape, self.here.everywhere, [shard.data for shard in tensor.addressable_shards]
            )
            for name, tensor in tensors.items()
        }

    @property
    def _shared(self) -> bool:
        return len({device.process_index for device in self.devices}) > 1


_PRODUCTS = {"tf32": "tensorfloat32"} | dict.fromkeys(LOW, "default")
"""Precision -> JAX's name for the least precision of products of its type, where it is not float32."""


def _placed(array: NDArray[Any], sharding: NamedSharding, count: int | None = None, start: int = 0) -> Array:
    """An array of `count` rows, of which `array` holds those from `start` on that this process needs."""
    shape = array.shape if count is None else (count, *array.shape[1:])

    def piece(index: tuple[slice, ...] | None) -> NDArray[Any]:
        if not index:
            return array
        first, stop, _ = index[0].indices(shape[0])
        return array[first - start : stop - start]

    return jax.make_array_from_callback(shape, sharding, piece)


def numbers(name: str, values: Any) -> NDArray[Any]:
    """`values` as an array of at least one axis. Raises `TypeError` where they are no numbers."""
    array = np.atleast_1d(np.asarray(values))
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected an array of numbers, found {type(values).__name__}")
    return array


def _counts(images: NDArray[Any]) -> list[int]:
    """How many images each process gives."""
    shapes = [tuple(map(int, shape)) for shape in gather(np.array(images.shape))]
    for shape in shapes:
        if shape[1:] != shapes[0][1:]:
            found = " and ".join(map(show, shapes))
            raise GstoError(f"image: expected images of one size in all processes, found {found}")
    return [shape[0] for shape in shapes]


def _joined(share: NDArray[Any], counts: list[int]) -> NDArray[Any]:
    """Every process's rows, of which each gives so many, in the order of the processes."""
    padded = np.zeros((max(counts), *share.shape[1:]), share.dtype)
    padded[: len(share)] = share
    return np.concatenate([rows[:count] for rows, count in zip(gather(padded), counts, strict=True)])
