# SPDX-License-Identifier: Apache-2.0
"""A mesh for decoding over the devices of the training mesh, and parameters moved to it.

A token of decoding reads all weights that a device has, so decoding wants them cut into more parts
along tensor than training does, and has no use for fsdp. Both meshes are the same devices in the
same order, so that their axes are made up of the same five:

    training   data = a * m     fsdp = p * q     tensor = t
    decoding   data = a * p     fsdp = 1         tensor = m * q * t      with m or p 1
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from einops import rearrange
from jax.sharding import AxisType, Mesh, NamedSharding, reshard
from jax.sharding import PartitionSpec as P

from jaxvl.distributed.mesh import AXES, param_spec, path_name
from jaxvl.errors import UserError

_PARTS = ("a", "m", "p", "q", "t")


def decode_mesh(mesh: Mesh, tensor: int | None) -> Mesh:
    """The devices of `mesh` in their order, `tensor` of them sharing weights (none: as in `mesh`).

    UserError where that does not fit the training mesh.
    """
    if tensor in (None, mesh.shape["tensor"]):
        return mesh
    _parts(mesh, tensor)
    devices = rearrange(mesh.devices.ravel(), "(rows t) -> rows 1 t", t=tensor)
    for together in devices[:, 0]:
        if len({getattr(device, "slice_index", 0) for device in together}) > 1:
            raise UserError(
                f"sampling.tensor = {tensor}: weights would be cut across TPU slices, which tell "
                "each other something for every token; choose a smaller one"
            )
    return Mesh(devices, AXES, axis_types=(AxisType.Explicit,) * 3)


def _parts(mesh: Mesh, tensor: int) -> tuple[int, ...]:
    """The sizes of the five axes; UserError where there are none for so many along tensor."""
    data, fsdp, own = (mesh.shape[name] for name in AXES)

    def of(tensor: int) -> tuple[int, ...] | None:
        more, rest = divmod(tensor, own)
        q = math.gcd(more, fsdp)
        m = more // q
        fits = not rest and data % m == 0 and (m == 1 or q == fsdp)
        return (data // m, m, fsdp // q, q, own) if fits else None

    found = of(tensor)
    if found is None:
        fitting = [size for size in range(1, mesh.size + 1) if of(size)]
        raise UserError(
            f"sampling.tensor = {tensor} does not fit mesh {dict(mesh.shape)}; expected one of "
            f"{', '.join(map(str, fitting))}"
        )
    return found


class ParamReshard:
    """Parameters on the training mesh -> `prepare(parameters)` on the decode mesh.

    `move` is the jitted function, called under `mesh`, whose five axes name the shards of both
    layouts. Each leaf is exchanged among the q devices that will share it, and then gathered: told
    the two layouts alone, XLA would make every leaf whole on every device on the way.
    """

    def __init__(self, training: Mesh, decoding: Mesh, prepare: Callable[[Any], Any]):
        self.decoding = decoding
        sizes = _parts(training, decoding.shape["tensor"])
        devices = training.devices.reshape(sizes)
        self.mesh = Mesh(devices, _PARTS, axis_types=(AxisType.Explicit,) * len(_PARTS))

        @jax.jit
        def move(params: dict[str, Any]) -> dict[str, Any]:
            def one(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
                spec = param_spec(path_name(path), x.ndim)
                x = reshard(x, _renamed(spec, fsdp=("p",), tensor=("q", "t")))
                return reshard(x, _renamed(spec, fsdp=(), tensor=("m", "q", "t")))

            return jax.tree_util.tree_map_with_path(one, prepare(params))

        self.move = move

    def __call__(self, params: dict[str, Any]) -> dict[str, Any]:
        """The parameters; the arguments stay as they are."""
        with jax.set_mesh(self.mesh):
            moved = self.move(self.asked(params))
        return self.answered(moved)

    def compile(self, params: dict[str, Any]) -> dict[str, Any]:
        """Compile `move` for parameters of these shapes; the shapes of what is returned."""
        with jax.set_mesh(self.mesh):
            lowered = self.move.lower(self.asked(params))
        lowered.compile()
        return self.answered(lowered.out_info)

    def asked(self, params: dict[str, Any]) -> dict[str, Any]:
        """What `move` takes: parameters (arrays or shapes) of the training mesh, nothing copied."""
        return _labelled(params, self.mesh, fsdp=("p", "q"), tensor=("t",))

    def answered(self, moved: dict[str, Any]) -> dict[str, Any]:
        """What `move` returns as parameters of the decode mesh, nothing copied."""
        return _labelled(moved, self.decoding, fsdp=("fsdp",), tensor=("tensor",))


def _renamed(spec: P, **names: tuple[str, ...]) -> P:
    """A parameter's spec with other names for fsdp and tensor."""
    return P(*(axis if axis is None else names[axis] or None for axis in spec))


def _labelled(params: dict[str, Any], mesh: Mesh, **names: tuple[str, ...]) -> dict[str, Any]:
    """Parameters with their shards where they are, as those of another mesh of the same devices."""

    def one(path: tuple[Any, ...], x: Any) -> Any:
        sharding = NamedSharding(mesh, _renamed(param_spec(path_name(path), len(x.shape)), **names))
        if not isinstance(x, jax.Array):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        shards = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, sharding, shards)

    return jax.tree_util.tree_map_with_path(one, params)
