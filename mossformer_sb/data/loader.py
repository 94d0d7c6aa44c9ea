"""A data loader whose errors end all the ranks, not only its own."""

from torch.utils.data import DataLoader

from mossformer_sb.errors import InputError
from mossformer_sb.training import distributed


class RankLoader(DataLoader):
    """``torch.utils.data.DataLoader`` for one of several ranks.

    When a recording can't be read, the other ranks know nothing of it: they would wait for this one's gradients until
    something ends them. So the error is only noted, and what follows is None instead of batches, as many as are left
    in training. The Brain takes part in the exchange of gradients with nothing to give, and once all the ranks meet, it
    calls `check`. A single process has nobody to wait for it, and raises at once.

    Arguments
    ---------
    *args, **kwargs
        As for ``torch.utils.data.DataLoader``.
    goes_on : bool
        Whether None takes the place of the batches that are left; otherwise the loader ends.
    ended : callable, optional
        Asked before each batch whether to end here, before all are through. Default: never.

    Example
    -------
    >>> list(RankLoader([1, 2, 3], batch_size=2))
    [tensor([1, 2]), tensor([3])]
    """

    def __init__(self, *args, goes_on=False, ended=None, **kwargs):
        self.goes_on = goes_on
        self.ended = ended or (lambda: False)
        self.error = None
        super().__init__(*args, **kwargs)

    def __iter__(self):
        yielded = 0
        try:
            for batch in super().__iter__():
                if self.ended():
                    return
                yielded += 1
                yield batch
        except InputError as error:
            if distributed.world_size() == 1:
                raise
            self.error = str(error)
        while self.error is not None and self.goes_on and yielded < len(self) and not self.ended():
            yielded += 1
            yield None

    def check(self):
        """Raise the error that was noted, if there was one."""
        if self.error is not None:
            raise InputError(self.error)
