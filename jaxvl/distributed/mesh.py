# SPDX-License-Identifier: Apache-2.0
"""The mesh, the specs of activations, and the one table of parameter rules.

There is always a mesh with the axes ("data", "fsdp", "tensor"), all of them Explicit; one device is
a 1x1x1 mesh. Rows of a batch are split over data and fsdp together, heads, hidden units and the
vocabulary over tensor. Parameters are stored split over fsdp too and gathered where they are used.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from einops import rearrange
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvl.distributed import multihost
from jaxvl.errors import UserError

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # the leading axis of everything in a batch

# First match wins. Leaves below a stack of layers ("blocks", "layers") get a leading None.
PARAM_RULES: tuple[tuple[str, P], ...] = (
    (r"patch_embed/w$", P(None, "fsdp")),
    (r"embed/w$", P("tensor", "fsdp")),  # [V, D]
    (r"head/w$", P("tensor", "fsdp")),  # [V, D]
    (r"(attn/[qkv]|gate|up|fc1)/w$", P("fsdp", "tensor")),  # [in, out], split by output
    (r"(attn/[qkv]|gate|up|fc1)/b$", P("tensor")),
    (r"(attn/o|down|fc2)/w$", P("tensor", "fsdp")),  # [in, out], split by input
    (r"(attn/o|down|fc2)/b$", P(None)),
    (r"(norm\d?)/(scale|bias)$", P(None)),
    # Adapters are split as the weights they stand beside; their rank stays whole.
    (r"(attn/[qkv]|gate|up|fc1)/lora/a$", P("fsdp", None)),  # [in, rank]
    (r"(attn/[qkv]|gate|up|fc1)/lora/b$", P(None, "tensor")),  # [rank, out]
    (r"(attn/o|down|fc2)/lora/a$", P("tensor", None)),
    (r"(attn/o|down|fc2)/lora/b$", P(None, "fsdp")),
)
_STACKED = re.compile(r"(^|/)(blocks|layers)/")


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
    """A mesh over `devices` (default: all of them); one axis may be -1, "all that remain"."""
    devices = list(jax.devices() if devices is None else devices)
    sizes = [data, fsdp, tensor]
    known = int(np.prod([size for size in sizes if size != -1]))
    if sizes.count(-1) > 1 or known < 1 or any(size == 0 or size < -1 for size in sizes):
        raise UserError(
            f"mesh (data, fsdp, tensor) = {tuple(sizes)}: sizes are positive, at most one is -1"
        )
    sizes = [len(devices) // known if size == -1 else size for size in sizes]
    total = int(np.prod(sizes))
    if total < 1 or total > len(devices) or (known != total and total != len(devices)):
        raise UserError(
            f"mesh (data, fsdp, tensor) = {(data, fsdp, tensor)} does not fit "
            f"{len(devices)} devices; choose mesh.data * mesh.fsdp * mesh.tensor that does"
        )
    if total < len(devices) and len({device.process_index for device in devices}) > 1:
        raise UserError(
            f"mesh (data, fsdp, tensor) = {tuple(sizes)} leaves {len(devices) - total} of "
            f"{len(devices)} devices out, and with several processes all take part; "
            "set one of mesh.data, mesh.fsdp, mesh.tensor to -1, all that remain"
        )
    return Mesh(device_layout(sizes, devices[:total]), AXES, axis_types=(AxisType.Explicit,) * 3)


def device_layout(sizes: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
    """Devices in the shape `sizes` (data, fsdp, tensor), near ones near each other.

    TPU slices are joined by a slow network: only the data axis, the outermost, runs across them.
    """
    slices = {getattr(device, "slice_index", 0) for device in devices}
    if devices[0].platform != "tpu" or len(slices) == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    if sizes[0] % len(slices):
        raise UserError(
            f"mesh.data = {sizes[0]} is not a multiple of the {len(slices)} TPU slices, and no "
            f"other axis runs across slices; try mesh.data={len(slices)} and mesh.fsdp=-1"
        )
    within = (sizes[0] // len(slices), *sizes[1:])
    return mesh_utils.create_hybrid_device_mesh(
        within, (len(slices), 1, 1), devices, allow_split_physical_axes=True
    )


def row_shards(mesh: Mesh) -> int:
    """In how many parts the rows of a batch lie on the devices."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


@dataclasses.dataclass(frozen=True)
class DataShard:
    """The rows of a batch lie in `count` shares, of which this process holds number `index`.

    Processes hold the same share where the tensor axis runs across them; the first of them is in
    `leads`.
    """

    index: int
    leads: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of shares."""
        return len(self.leads)

    @property
    def is_lead(self) -> bool:
        """Whether this process speaks for its share."""
        return jax.process_index() == self.leads[self.index]

    def all_gather_object(self, value: Any) -> list[Any]:
        """`value`, made of what JSON holds, of every share. All processes must call it."""
        found = multihost.all_gather_object(value)
        return [found[process] for process in self.leads]


def data_shard(mesh: Mesh) -> DataShard:
    """Which of a batch's rows this process holds."""
    rows: dict[int, list[int]] = {}
    by_shard = rearrange(mesh.devices, "data fsdp tensor -> (data fsdp) tensor")
    for number, devices in enumerate(by_shard):
        for process in {device.process_index for device in devices}:
            rows.setdefault(process, []).append(number)
    shares = sorted({tuple(held) for held in rows.values()})
    if sum(map(len, shares)) > len(by_shard):
        raise UserError(
            f"mesh {dict(mesh.shape)}: processes hold rows in part together; choose a mesh.tensor "
            "that divides the number of a process's devices, or is a multiple of it"
        )
    leads = [min(process for process, held in rows.items() if tuple(held) == s) for s in shares]
    return DataShard(shares.index(tuple(rows[jax.process_index()])), tuple(leads))


def axis_size(name: str) -> int:
    """Size of a mesh axis of the mesh in force (inside or outside of jit)."""
    return jax.sharding.get_abstract_mesh().shape[name]


def platform() -> str:
    """What the mesh in force is made of: "tpu", "nvidia", or the platform as JAX names it.

    Of a mesh of devices that are not here (a topology to compile for) it is their platform, not
    this machine's; where no mesh is in force it is that of the devices that are.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    return "nvidia" if device.device_kind.startswith("NVIDIA") else device.platform


def param_spec(path: str, rank: int) -> P:
    """The spec of the parameter at `path` ("text/layers/attn/q/w"), padded to its rank."""
    for pattern, spec in PARAM_RULES:
        if re.search(pattern, path):
            full = P(None, *spec) if _STACKED.search(path) else spec
            if len(full) != rank:
                raise ValueError(f"{path}: rule {full} does not fit an array of rank {rank}")
            return full
    raise ValueError(f"no sharding rule for parameter {path}; add one to PARAM_RULES")


def path_name(path: tuple[Any, ...]) -> str:
    """A jax key path as "a/b/c"."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)


def param_shardings(params: Any, mesh: Mesh) -> Any:
    """A NamedSharding for every leaf of a parameter tree (arrays or shapes)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: NamedSharding(mesh, param_spec(path_name(path), len(x.shape))), params
    )


def check_divisible(params: Any, mesh: Mesh) -> None:
    """Raises if a parameter's shape cannot be split over the mesh, naming the first that cannot."""

    def check(path, x):
        for axis, entry in enumerate(param_spec(path_name(path), len(x.shape))):
            names = (entry,) if isinstance(entry, str) else (entry or ())
            parts = int(np.prod([mesh.shape[name] for name in names]))
            if x.shape[axis] % parts:
                raise UserError(
                    f"parameter {path_name(path)} {tuple(x.shape)}: axis {axis} does not divide by "
                    f"{parts} (mesh {dict(mesh.shape)}); choose a smaller {'*'.join(names)}"
                )

    jax.tree_util.tree_map_with_path(check, params)


def put_rows(tree: Any, mesh: Mesh, lead: int = 0, whole: bool = False) -> Any:
    """Host arrays onto the mesh, the row axis (number `lead`) split over data and fsdp.

    Every process hands in its own rows, or, where `whole` is set, all the same; `lead` axes before
    the row axis are not split.
    """

    def put(x):
        spec = P(*(None,) * lead, ROWS, *(None,) * (x.ndim - lead - 1))
        sharding = NamedSharding(mesh, spec)
        return jax.make_array_from_process_local_data(sharding, x, x.shape if whole else None)

    return jax.tree.map(put, tree)


def own_mesh(mesh: Mesh) -> Mesh:
    """`mesh`, or where it lies on several processes one over the devices of this process alone."""
    if len({device.process_index for device in mesh.devices.flat}) == 1:
        return mesh
    return make_mesh(fsdp=-1, devices=jax.local_devices())


def local_rows(x: jax.Array, axis: int = 0) -> np.ndarray:
    """This process's rows of an array whose rows (on `axis`) are split over the mesh."""
    if x.is_fully_addressable:
        return np.asarray(x)
    shards = {shard.index[axis].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(shards[at]) for at in sorted(shards)], axis)


def fetch(x: jax.Array | np.ndarray) -> np.ndarray:
    """The whole of an array, on every process; where it lies on several, all must call this."""
    if getattr(x, "is_fully_addressable", True):
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)
