"""The loss itself: `DSKDLoss`, `MultiTeacherLoss`, and what they need of their own.

`dskd_loss` has the method, in `DSKDLoss.forward`; `multi_teacher` adds up the losses of several pairs, given
`by_teacher`. `arguments` and `usable_states` refuse what does not fit when a loss is built and when it is called,
`build` makes the projectors, `parameter_groups` are what optimizers get, `model_heads` reads and narrows the models'
heads, `vocabularies` maps one vocabulary to the other, `added_tokens` is for two that are nearly one. `output` is what
comes back, `non_finite` says why a loss is NaN, `batch_origin` whether a batch was made for a loss, and `checkpoints`
and `training_checkpoint` keep what was learned. Import the names below, or from the package.
"""

from dskd_components.loss.dskd_loss import DSKDLoss
from dskd_components.loss.multi_teacher import MultiTeacherLoss
from dskd_components.loss.output import DSKDOutput

__all__ = ["DSKDLoss", "DSKDOutput", "MultiTeacherLoss"]
