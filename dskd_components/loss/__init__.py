"""The loss itself: `DSKDLoss`, `MultiTeacherLoss`, and what they need of their own.

`dskd_loss` has the method, in `DSKDLoss.forward`; `multi_teacher` adds up the losses of several pairs. `build` makes
the projectors, `validation` refuses what does not fit, `vocabularies` maps one vocabulary to the other, `output` is
what comes back, and `checkpoints` keeps what was learned. Import the names below, or from the package.
"""

from dskd_components.loss.dskd_loss import DSKDLoss
from dskd_components.loss.multi_teacher import MultiTeacherLoss
from dskd_components.loss.output import DSKDOutput

__all__ = ["DSKDLoss", "DSKDOutput", "MultiTeacherLoss"]
