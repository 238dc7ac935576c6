"""How users spread models and loss over ranks, with the engines that PyTorch has."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from dskd_components.distributed import reduce_gradients, require_reduced_gradients, synchronise, world_size
from tests.helpers.distributed_step import PARTS, Wrapped, global_scored, gradients, total_loss

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from tests.helpers.distributed_step import Step


class Engine:
    """Student and teacher as they are; the loss's gradients are reduced by hand."""

    replicas = 1
    """How many ranks see one batch."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.student: Any = step.student
        self.teacher: Any = step.teacher
        self.loss: nn.Module = step.loss_fn
        synchronise(step.loss_fn)
        self.wrap()

    def wrap(self) -> None:
        """Spread the models."""

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        """Put off what the engine does after the last micro-batch."""
        yield

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def finish(self) -> None:
        reduce_gradients(self.step.loss_fn)

    def gradients(self) -> dict[str, Tensor]:
        return gradients(self.step.student, "student") | gradients(self.step.loss_fn, "loss")

    def loss_of(self, batch: dict[str, Tensor], num_items: Tensor) -> Tensor:
        loss_fn = self.step.loss_fn
        out = self.loss(
            loss_fn.states(self.student, batch, "student"),
            loss_fn.states(self.teacher, batch, "teacher"),
            num_items_in_batch=num_items,
        )
        return out.loss

    def run(self, *, accumulate: bool) -> dict[str, Tensor]:
        """Loss and gradients of one optimizer step, as each rank has them."""
        batches = world_size() // self.replicas
        parts = PARTS[batches][dist.get_rank() // self.replicas] if batches > 1 else [list(range(8))]
        if not accumulate:
            parts = [list(chain.from_iterable(parts))]
        num_items = global_scored(self.step, parts) // self.replicas
        losses = []
        for number, rows in enumerate(parts):
            last = number == len(parts) - 1
            with ExitStack() if last else self.accumulating():
                losses.append(self.loss_of(self.step.rows(rows), num_items))
                self.backward(losses[-1] * batches)
        self.finish()
        require_reduced_gradients(self.step.loss_fn)
        return {"loss": total_loss(losses) / self.replicas} | self.gradients()


class DDP(Engine):
    """Student and loss each in DistributedDataParallel."""

    def wrap(self) -> None:
        self.student = Wrapped(DistributedDataParallel(self.step.student), self.step.student)
        self.loss = DistributedDataParallel(self.step.loss_fn)

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        with self.student.wrapper.no_sync(), self.loss.no_sync():
            yield

    def finish(self) -> None:
        pass


class DDPStudent(DDP):
    """The student alone in DistributedDataParallel."""

    def wrap(self) -> None:
        self.student = Wrapped(DistributedDataParallel(self.step.student), self.step.student)

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        with self.student.wrapper.no_sync():
            yield

    def finish(self) -> None:
        Engine.finish(self)


class FSDP2(Engine):
    """The student's layers and the rest of it, by fully_shard; a teacher on each rank. The head stays gathered."""

    reshard_root: bool | None = None

    def wrap(self) -> None:
        self.shard(self.step.student)

    def shard(self, model: Any, **options: Any) -> None:
        for layer in model.model.layers:
            fully_shard(layer, **options)
        fully_shard(model, reshard_after_forward=self.reshard_root, **options)

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        self.student.set_requires_gradient_sync(False)
        yield
        self.student.set_requires_gradient_sync(True)


class FSDP2Resharded(FSDP2):
    """The head is put away after the forward pass; the teacher is sharded, too."""

    reshard_root = True

    def wrap(self) -> None:
        self.shard(self.step.student)
        self.shard(self.step.teacher)


class FSDP2BuiltAfter(FSDP2Resharded):
    """The loss is built from models that are sharded already."""

    def wrap(self) -> None:
        super().wrap()
        loss_fn = self.step.new_loss(self.student, self.teacher, seed=0)
        self.step, self.loss = replace(self.step, loss_fn=loss_fn), loss_fn


class FSDP2Half(FSDP2):
    """Parameters are bfloat16 in the forward pass."""

    def wrap(self) -> None:
        self.shard(self.step.student, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))


class FSDP2HalfResharded(FSDP2Half):
    """Likewise; the head is put away after the forward pass, and read in the precision of the shards."""

    reshard_root = True


class FSDP2OwnHead(FSDP2):
    """The head is a group of its own, and the loss is sharded as well."""

    def wrap(self) -> None:
        fully_shard(self.step.student.lm_head)
        self.shard(self.step.student)
        fully_shard(self.step.loss_fn)

    def finish(self) -> None:
        pass


class HSDP(FSDP2):
    """Sharded over two ranks, replicated over two."""

    reshard_root = True

    def wrap(self) -> None:
        mesh = init_device_mesh("cpu", (2, world_size() // 2), mesh_dim_names=("replicate", "shard"))
        self.shard(self.step.student, mesh=mesh)


class TensorParallel(Engine):
    """Both heads by rows of the vocabulary; all ranks see one batch."""

    style = ColwiseParallel(output_layouts=Replicate())

    def wrap(self) -> None:
        self.replicas = world_size()
        mesh = init_device_mesh("cpu", (world_size(),))
        for model in (self.step.student, self.step.teacher):
            parallelize_module(model.lm_head, mesh, self.style)


class TensorParallelColumns(TensorParallel):
    """Both heads by columns."""

    style = RowwiseParallel(input_layouts=Replicate())


class FSDP2TensorParallel(FSDP2):
    """The head by rows over two ranks, and everything sharded over two."""

    reshard_root = True
    replicas = 2

    def wrap(self) -> None:
        mesh = init_device_mesh("cpu", (2, world_size() // 2), mesh_dim_names=("data", "tensor"))
        parallelize_module(self.step.student.lm_head, mesh["tensor"], TensorParallel.style)
        self.shard(self.step.student, mesh=mesh["data"])


class Checkpointing(DDP):
    """DDP with activations that are computed again."""

    def wrap(self) -> None:
        self.step.student.gradient_checkpointing_enable()
        super().wrap()


class FSDP2Checkpointing(FSDP2):
    """FSDP2, likewise."""

    def wrap(self) -> None:
        self.step.student.gradient_checkpointing_enable()
        super().wrap()
