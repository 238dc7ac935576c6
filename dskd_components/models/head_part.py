"""`HeadPart`: a head whose tokens are cut over ranks, of which this one has a part."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from dskd_components.distributed.gathering import gathered, is_partitioned, is_sharded, local_part
from dskd_components.distributed.partitions import PartitionRows
from dskd_components.distributed.ranks import world_size
from dskd_components.distributed.vocabulary_shards import VocabularyShards
from dskd_components.errors import InputError
from dskd_components.models.head import Head
from dskd_components.models.head_recipe import HeadRecipe, read_head_recipe
from dskd_components.models.ranks_of_models import ranks_have_the_same_rows

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dskd_components.models.wrappers import CausalLM


class HeadPart(Head):
    """A head that is a whole one to everybody who asks, and is gathered only for who asks for all of its tensors.

    Whoever can do with a part reads `local` and `shards`. ``weight``, ``bias`` and what is made of them are gathered
    when they are first read, by all ranks together.

    Args:
        recipe: weight and bias as the engine keeps them, a DTensor each.
        shards: how the weight's rows are cut.
        valid_vocabulary_size: as in `Head`.
        partition: the weight's rows, where ZeRO-3 has cut it.
    """

    # An engine that looks for tensors in what it calls, as FSDP2 does, would gather them: here are none to be found.
    __dataclass_fields__: ClassVar[dict[str, Any]] = {}

    _recipe: HeadRecipe
    _all_shards: VocabularyShards
    _origin: HeadPart | None
    _partition: PartitionRows | None

    def __init__(
        self,
        recipe: HeadRecipe,
        shards: VocabularyShards,
        valid_vocabulary_size: int | None,
        partition: PartitionRows | None = None,
    ) -> None:
        # What is frozen is set this way once; weight and bias are not: they are made when they are asked for.
        values = {"scale": recipe.scale, "softcap": recipe.softcap, "valid_vocabulary_size": valid_vocabulary_size}
        vars(self).update(values, _recipe=recipe, _all_shards=shards, _origin=None, _partition=partition)

    @classmethod
    def of(
        cls,
        weight: Tensor,
        *,
        bias: Tensor | None = None,
        scale: float = 1.0,
        softcap: float | None = None,
        valid_vocabulary_size: int | None = None,
        same_rows: bool,
    ) -> Head:
        """Return the head of a parameter that is sharded, for a training loop that builds its states by hand.

        Args:
            weight: ``[V, d]``: a DTensor.
            bias: ``[V]``: a DTensor that is cut as the weight is, or None.
            scale: as in `Head`.
            softcap: as in `Head`.
            valid_vocabulary_size: as in `Head`.
            same_rows: whether the ranks have the same batch, as in tensor parallelism, rather than one each.

        Returns:
            A part, if rows are cut over one dimension of a mesh and each rank has a real token; else the whole head,
            gathered. It is good for one step.

        Raises:
            InputError: ranks of one batch each have the whole weight.
        """
        if same_rows and world_size() > 1 and _is_whole(weight):
            raise InputError(
                f"HeadPart.of: the ranks have one batch (same_rows=True), but the weight, "
                f"{' x '.join(map(str, weight.shape))}, is whole on each of them: every rank would make all logits and "
                "hold the gradient of all of the head. Let tensor parallelism cut it by tokens, "
                "ColwiseParallel(output_layouts=Replicate()); or build Head(weight, ...), if that is meant."
            )
        recipe = HeadRecipe(weight, bias, scale=scale, softcap=softcap, rows=None)
        found = _part(recipe, valid_vocabulary_size, same_rows=same_rows)
        return HeadPart._gathered(recipe, valid_vocabulary_size) if found is None else found

    @staticmethod
    def _gathered(recipe: HeadRecipe, valid_vocabulary_size: int | None) -> Head:
        whole = recipe.gathered()
        return Head(
            whole.weight,
            bias=whole.bias,
            scale=whole.scale,
            softcap=whole.softcap,
            valid_vocabulary_size=valid_vocabulary_size,
        )

    @cached_property
    def weight(self) -> Tensor:
        """``[V, d]``, gathered."""
        return self._whole.weight

    @cached_property
    def bias(self) -> Tensor | None:
        """``[V]``, gathered, or None."""
        if self._recipe.bias is None:
            return None
        bias = gathered(self._recipe.bias)[: self._recipe.rows or None]
        return bias if self._origin is None else bias.detach()

    def gathered(self) -> Head:
        """Return the head with all of its tokens on this rank, gathered once."""
        return self._whole

    @cached_property
    def _whole(self) -> Head:
        if self._origin is not None:
            whole: Head = self._origin.gathered().with_vocabulary(self.valid_vocabulary_size)
            return whole.detach()
        return self._gathered(self._recipe, self.valid_vocabulary_size)

    @cached_property
    def local(self) -> Head:
        """The head of the tokens whose rows this rank has, padding left out; gradients stay on this rank."""
        if self._origin is not None:
            found: Head = self._origin.local.detach()
            return found.with_vocabulary(self._own_tokens)
        return Head(
            self._local_part(self._recipe.weight),
            bias=None if self._recipe.bias is None else self._local_part(self._recipe.bias),
            scale=self.scale,
            softcap=self.softcap,
            valid_vocabulary_size=self._own_tokens,
        )

    def is_cut_like(self, other: Head) -> bool:
        """Return whether another head's tokens are on the same ranks as far as both heads have them.

        Args:
            other: the other head.
        """
        ours, theirs = self.shards, other.shards
        if theirs is None or (ours.group, ours.same_rows) != (theirs.group, theirs.same_rows):
            return False
        common = min(self.vocabulary_size, other.vocabulary_size)
        return ours.up_to(common).bounds == theirs.up_to(common).bounds

    def same_part_of(self, other: Head) -> HeadPart | None:
        """Return a head that every rank has whole as if it were cut like this one; None if a rank would have none.

        Args:
            other: the other head, a constant: what it learned on one rank the others would not know.
        """
        rows = len(other.weight)
        bounds = (*(min(bound, rows) for bound in self._all_shards.bounds[:-1]), rows)
        shards = self._all_shards.among(bounds)
        if not shards.up_to(other.vocabulary_size).leave_nobody_out:
            return None
        constant = other.detach()
        recipe = HeadRecipe(constant.weight, constant.bias, scale=other.scale, softcap=other.softcap, rows=None)
        return HeadPart(recipe, shards, other.valid_vocabulary_size)

    def _own_rows(self, parameter: Any) -> Tensor:
        if self._partition is not None and parameter is self._recipe.weight:
            return self._partition.own
        return local_part(parameter) if is_sharded(parameter) else parameter[self._all_shards.own]

    def _local_part(self, parameter: Any) -> Tensor:
        part = self._own_rows(parameter)
        if part.requires_grad and not self._all_shards.same_rows:
            # Ranks with rows of their own have given their sum here: data parallelism makes an average of it.
            part = part.view_as(part)
            part.register_hook(lambda gradient: gradient / self._all_shards.ranks)
        return part

    @cached_property
    def shards(self) -> VocabularyShards:
        """How the real tokens are cut over ranks."""
        found: VocabularyShards = self._all_shards.up_to(self.vocabulary_size)
        return found

    @property
    def _own_tokens(self) -> int:
        first, last = self.shards.bounds[self.shards.rank : self.shards.rank + 2]
        return last - first

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        if self._partition is not None:
            return self._partition.shards.device
        return local_part(self._recipe.weight).device

    @property
    def dtype(self) -> torch.dtype:
        """In what the weight is stored."""
        dtype: torch.dtype = self._recipe.weight.dtype
        return dtype

    @property
    def hidden_size(self) -> int:
        """Width d of the hidden states that this head reads."""
        return int(self._shape[1])

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(self._recipe.weight.shape) if self._partition is None else self._partition.shape

    @property
    def token_count(self) -> int:
        """Number of real tokens on all ranks together, without padding rows."""
        rows: int = self._shape[0]
        return self.valid_vocabulary_size or self._recipe.rows or rows

    def rows(self, picked: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        """Return some rows of weight and bias, detached, from the ranks that have them."""
        weight, bias = self._recipe.weight, self._recipe.bias
        found = self._all_shards.picked_rows(self._own_rows(weight).detach(), picked)
        if bias is None:
            return found, None
        return found, self._all_shards.picked_rows(self._own_rows(bias).detach(), picked)

    def detach(self) -> Head:
        """Return the same head with its tensors cut from the graph."""
        return self._like(self.valid_vocabulary_size, origin=self)

    def with_vocabulary(self, size: int | None) -> Head:
        """Return the same head with another number of real tokens; None: all rows."""
        return self._like(size, origin=self._origin)

    def _like(self, size: int | None, *, origin: HeadPart | None) -> HeadPart:
        found = HeadPart(self._recipe, self._all_shards, size, self._partition)
        vars(found).update(_origin=origin)
        return found


def _is_whole(weight: Any) -> bool:
    if is_sharded(weight):
        return all(placement.is_replicate() for placement in weight.placements)
    return not is_partitioned(weight)


def head_of_step(model: CausalLM, *, valid_vocabulary_size: int | None, constant: bool = False) -> Head:
    """Return a model's head for one step: a part of it where an engine has cut its vocabulary.

    Tensor parallelism and FSDP2 cut between tokens. ZeRO-3 cuts anywhere, and reduces gradients itself, so of its heads
    only those that are constants have parts.

    Args:
        model: a causal language model, as `Head.from_model` takes it.
        valid_vocabulary_size: as there.
        constant: whether the head is one, whatever its parameters say, as a teacher's is.

    Raises:
        InputError: as there.
    """
    recipe = read_head_recipe(model)
    if constant or not recipe.weight.requires_grad:
        found = _part_of_partitions(recipe, valid_vocabulary_size)
        if found is not None:
            return found
    same_rows = ranks_have_the_same_rows(recipe.weight, model) if is_sharded(recipe.weight) else None
    part = None if same_rows is None else _part(recipe, valid_vocabulary_size, same_rows=same_rows)
    return HeadPart._gathered(recipe, valid_vocabulary_size) if part is None else part


def _part_of_partitions(recipe: HeadRecipe, valid_vocabulary_size: int | None) -> HeadPart | None:
    """Return a part of a head that ZeRO-3 has cut; None if it has not, or a rank would have no token."""
    partition = PartitionRows.of(recipe.weight)
    size = valid_vocabulary_size or recipe.rows
    if partition is None or not partition.shards.up_to(size or partition.shape[0]).leave_nobody_out:
        return None
    bias = None if recipe.bias is None else gathered(recipe.bias)  # a number a token: cut elsewhere, and small
    return HeadPart(replace(recipe, bias=bias), partition.shards, valid_vocabulary_size, partition)


def _part(recipe: HeadRecipe, valid_vocabulary_size: int | None, *, same_rows: bool) -> HeadPart | None:
    """Return a part of a head; None if it is not cut by tokens, or a rank would have none."""
    tensors = [recipe.weight] if recipe.bias is None else [recipe.weight, recipe.bias]
    if not all(is_sharded(tensor) for tensor in tensors):
        return None
    shards, *others = (VocabularyShards.of(tensor, same_rows=same_rows) for tensor in tensors)
    if shards is None or any(other is None or other.bounds != shards.bounds for other in others):
        return None
    size = valid_vocabulary_size or recipe.rows or shards.bounds[-1]
    return HeadPart(recipe, shards, valid_vocabulary_size) if shards.up_to(size).leave_nobody_out else None
